"""Token ids, decoded text and rendered prompts, equal to `transformers`' for the same models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from tokenizer_texts import (  # noqa: E402
    CONTROL,
    NORMAL,
    TEXTS,
    default_model,
    learn_byte_level,
    learn_sentencepiece,
    vocabulary_of,
    write_vocabulary,
)
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers  # noqa: E402

from llm_serving.chat.template import ChatTemplate  # noqa: E402
from llm_serving.checkpoints import build_tokenizer, open_checkpoint, read_gguf  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

ENGLISH = (Path(__file__).parent / "english.txt").read_text("utf-8")
CODE = Path(__file__).read_text("utf-8")
CORPUS = [*TEXTS, ENGLISH, CODE, "".join(TEXTS), "\n".join(TEXTS)]
# Every printable character of the planes in use, in stretches: what a pre-tokenizer's classes differ on.
for start in (*range(0, 0x3400, 256), *range(0xA000, 0xD800, 1024), 0xE000, 0xF900, 0xFF00, 0x1F300, 0x1F600):
    CORPUS.append(" ".join(chr(code) + chr(code + 1) for code in range(start, start + 256, 2)))
CORPUS = [text.encode("utf-8", "ignore").decode() for text in CORPUS]


def same_everywhere(ours: Any, theirs: Any, corpus: list[str] = CORPUS) -> None:
    """Plain text, text with special strings in it, and decoding."""
    special = [theirs.convert_ids_to_tokens(i) for i in sorted(ours.special_ids)][:20]
    for text in corpus:
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == ids, text[:200]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text[:200]
    for text in corpus[:40]:
        text = text.replace("\ufdd0", "")  # a guard's mark, which only guarded text may hold
        prompt = special[0] + text[:300] + special[-1] + " " + text[:50] + special[0] + special[-1]
        ids = theirs.encode(prompt, add_special_tokens=False)
        assert ours.encode_prompt(prompt, add_bos=False) == ids, prompt
        guarded = special[0] + ours.guard(prompt) + special[-1]
        plain = ours.encode_prompt(guarded, add_bos=False)[1:-1]
        assert not ours.special_ids & set(plain)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any, Any]:
    path = default_model()
    if path is None:
        pytest.skip("the default model is not in the cache: llm-serving models pull")
    checkpoint = open_checkpoint(path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    # What the model's own tokenizer.json has. Reading a GGUF, transformers takes GPT-2's rule instead of the
    # one that the file names, and joins digits.
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return checkpoint, build_tokenizer(checkpoint), theirs


def test_default_model(smollm2: tuple[Any, Any, Any]) -> None:
    _, ours, theirs = smollm2
    same_everywhere(ours, theirs)
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)


CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hi!"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " two  \n\n"}],
    [
        {"role": "user", "content": '<b> & "quotes" {{ x }} {% y %}'},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "👩‍👩‍👧‍👦 ok?"},
    ],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "The answer "}],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("how", [{"add_generation_prompt": True}, {"add_generation_prompt": False}, {}])
def test_default_model_renders_conversations(
    smollm2: tuple[Any, Any, Any], messages: list[dict[str, str]], how: dict[str, bool]
) -> None:
    checkpoint, ours, theirs = smollm2
    template = ChatTemplate(checkpoint.chat_template, bos_token=ours.bos_token, eos_token=ours.eos_token)
    how = how or {"continue_final_message": True, "add_generation_prompt": False}
    text = theirs.apply_chat_template(messages, tokenize=False, **how)
    assert template.render(messages, **how) == text
    ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=False, **how)
    guarded = [{**message, "content": ours.guard(message["content"])} for message in messages]
    assert ours.encode_prompt(template.render(guarded, **how)) == ids


def test_gemma3() -> None:
    named = os.environ.get("LLM_SERVING_TEST_GEMMA")
    cache = Path(os.environ.get("LLM_SERVING_CACHE") or Path.home() / ".cache" / "llm-serving")
    found = [Path(named)] if named else sorted(cache.glob("models/*gemma*/*.gguf"))
    if not found:
        pytest.skip("no gemma model: set LLM_SERVING_TEST_GEMMA to the path of a GGUF file")
    ours = build_tokenizer(open_checkpoint(found[0]))
    theirs = transformers.AutoTokenizer.from_pretrained(str(found[0].parent), gguf_file=found[0].name)
    same_everywhere(ours, theirs)
    assert ours.encode_prompt("hi") == theirs.encode("hi")


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def by_regex(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3_class(learned: Tokenizer) -> Any:
    learned.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=learned, additional_special_tokens=SPECIALS)


def class_from_vocabulary(name: str) -> Callable[[Tokenizer], Any]:
    def build(learned: Tokenizer) -> Any:
        tokens, merges = vocabulary_of(learned)
        ids = {token: i for i, token in enumerate(tokens)}
        tokenizer = getattr(transformers, name)(vocab=ids, merges=merges, unk_token=SPECIALS[0])
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
        return tokenizer

    return build


@pytest.mark.parametrize(
    ("pre", "rule", "build"),
    [
        ("llama-bpe", lambda: by_regex(LLAMA3), llama3_class),
        ("qwen2", lambda: by_regex(LLAMA3.replace("{1,3}", "")), class_from_vocabulary("Qwen2Tokenizer")),
        (
            "gpt-2",
            lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
            class_from_vocabulary("GPT2Tokenizer"),
        ),
    ],
)
def test_byte_level_classes(
    tmp_path: Path,
    pre: str,
    rule: Callable[[], pre_tokenizers.PreTokenizer],
    build: Callable[[Tokenizer], Any],
) -> None:
    normalizer = normalizers.NFC() if pre == "qwen2" else None
    learned = learn_byte_level(
        rule(), SPECIALS, normalizer, ignore_merges=pre == "llama-bpe", num_tokens=3000
    )
    tokens, merges = vocabulary_of(learned)
    types = [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3)
    path = write_vocabulary(tmp_path / "m.gguf", tokens, pre=pre, types=types, merges=merges)
    same_everywhere(build_tokenizer(read_gguf(path)), build(learned))


def test_sentencepiece_class(tmp_path: Path) -> None:
    tokens, types, scores = learn_sentencepiece(2000)
    path = write_vocabulary(
        tmp_path / "m.gguf",
        tokens,
        model="llama",
        types=types,
        scores=scores,
        bos=1,
        eos=2,
        unknown=0,
    )
    ours = build_tokenizer(read_gguf(path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    same_everywhere(ours, theirs)
