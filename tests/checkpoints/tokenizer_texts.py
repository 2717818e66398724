"""Texts that tokenizers disagree on, small vocabularies learned from them, and GGUF files that hold these."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

TEXTS = [
    "",
    " ",
    "a",
    "Hello, world! This is the story of the brown fox and the lazy dogs.",
    "I'm you're HE'S they'LL we'd 'tis o'clock rock'n'roll don’t",
    "It costs 1 234,56 or 1234567890 or ١٢٣ or ½ or Ⅷ or 3.14e-10; x1y22z333.",
    "  leading,  double   triple    and trailing   ",
    "tabs\tand\t\ttabs \t mixed \t\t",
    "line\nline\n\nline\n\n\nline\r\nline\r\rline \n line\n  indented\n\t\ttabbed\n",
    "\n",
    "\n\n\n\n",
    " \n \n ",
    "\u00a0no\u00a0break\u2003em\u3000ideographic\u200bzero\u2028line\u2029para\x85next\x0bvt\x0cff",
    "def f(x: int) -> str:\n    if x >= 10 and not (x % 2):\n        return f'{x!r}'  # ok\n\treturn None\n",
    '<div class="a-b">&nbsp;</div> https://example.org/a?b=c&d=%20#e user@host.tld C:\\dir\\file.txt',
    "SELECT * FROM t WHERE a<>1 || b!=2; {[()]} <<>> === ... ,,, !!! ??? --- ___ *** ``` ~~~ $$$",
    "Grüße aus Köln, où êtes-vous? ¿Qué? Ça va! Zażółć gęślą jaźń, příliš žluťoučký kůň",
    "Ελληνικά κείμενο, Русский текст, українська, български, ქართული, Հայերեն",
    "שלום עולם! مرحبا بالعالم، كيف حالك؟ فارسی می‌نویسیم اردو",
    "你好，世界！这是一个测试。繁體中文。日本語のテキスト、カタカナとひらがな。한국어 문장입니다.",
    "हिन्दी में पाठ, বাংলা, தமிழ் உரை, తెలుగు, ಕನ್ನಡ, ไทยไม่มีช่องว่าง, ខ្មែរ, မြန်မာ, ລາວ, አማርኛ",
    "👍 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☺︎ 1️⃣ 🧑🏿‍🚀x🤖",
    "e\u0301 vs é, A\u030a vs Å vs \u212b, ﬁ ligature, ① ② ㎏ ™ \u1112\u1161\u11ab",
    "\x00\x01\x02\x1f\x7f\x80\x9f controls \ufeff bom \ufffd replacement \ufdd0 non \U0010fffd private",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈𐌰 🂡 𓀀 \U0001f468",
    "▁ lower one eighth ▁▁ block ▁▁▁ Ġ Ċ ĉ <0x0A> <0xFF> </s> <unk>",
    "camelCaseWord SCREAMING_SNAKE snake_case kebab-case ABCdef XMLHttpRequest iPhone15Pro",
    "x" * 700,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 5,
    "ab" * 200 + " " * 100 + "\n" * 60 + "\t" * 40 + "!" * 90 + "9" * 50,
    "一" * 130 + "🤖" * 40,
    "the the  the   the\nthe\n\nthe 1the2 the-the the's",
]
PROMPTS = [
    "<|im_start|>user\nhello  there<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|>",
    " <|im_end|> the ",
    "<|im_end|><|im_end|>  the<|im_end",
    "<|im_<|im_end|>end|>the",
]


def learn_byte_level(
    pre: pre_tokenizers.PreTokenizer,
    specials: list[str],
    normalizer: normalizers.Normalizer | None = None,
    *,
    ignore_merges: bool = False,
    num_tokens: int = 700,
) -> Tokenizer:
    """A byte-level BPE learned on `TEXTS`, ids of the specials first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def vocabulary_of(tokenizer: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """(tokens in the order of their ids, merges)."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [tuple(merge) for merge in model["merges"]]


def learn_sentencepiece(num_merges: int = 400) -> tuple[list[str], list[int], list[float]]:
    """(tokens, types, scores) of a SentencePiece-style BPE: unk, bos, eos, bytes, letters, merged pieces."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    learner.train_from_iterator(
        TEXTS[:19], trainers.BpeTrainer(vocab_size=num_merges + 300, show_progress=False)
    )
    pieces, merges = vocabulary_of(learner)
    merged = list(dict.fromkeys(left + right for left, right in merges))
    letters = [piece for piece in pieces if len(piece) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *merged]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(letters) + len(merged))
    scores = [0.0] * (259 + len(letters)) + [-float(i + 1) for i in range(len(merged))]
    return tokens, types, scores


def write_vocabulary(
    path: Path,
    tokens: list[str],
    *,
    model: str = "gpt2",
    pre: str | None = None,
    types: list[int] | None = None,
    merges: list[tuple[str, str]] | None = None,
    scores: list[float] | None = None,
    architecture: str = "llama",
    flags: dict[str, bool] | None = None,
    **ids: int,
) -> Path:
    """A GGUF without tensors; `ids` are `bos=1`, `eos=2`, …"""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    if types is not None:
        writer.add_token_types(types)
    if merges:
        writer.add_token_merges([" ".join(merge) for merge in merges])
    if scores is not None:
        writer.add_token_scores(scores)
    for name, value in (flags or {}).items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    for name, value in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def default_model() -> Path | None:
    """The default chat model: `$LLM_SERVING_TEST_MODEL`, or the model cache if it holds it."""
    from llm_serving.models.cache import ModelCache
    from llm_serving.models.catalog import find_model

    named = os.environ.get("LLM_SERVING_TEST_MODEL")
    if named:
        return Path(named)
    spec = find_model("smollm2-135m-instruct")
    return None if spec is None else ModelCache().find(spec)
