"""Token ids against the `tokenizers` library in each model's published configuration."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tokenizer_texts import (
    BYTE,
    CONTROL,
    NORMAL,
    PROMPTS,
    TEXTS,
    UNUSED,
    USER_DEFINED,
    default_model,
    learn_byte_level,
    learn_sentencepiece,
    vocabulary_of,
    write_vocabulary,
)
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Oracle

from llm_serving.checkpoints import Tokenizer, build_tokenizer, open_checkpoint, read_gguf

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
SEED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()])


def byte_level(path: Path, pre: str) -> tuple[Tokenizer, Oracle]:
    rule = {
        "gpt-2": gpt2,
        "olmo": gpt2,
        "smollm": smollm,
        "command-r": smollm,
        "llama-bpe": lambda: split_by(LLAMA3),
        "seed-coder": lambda: split_by(SEED),
    }
    oracle = learn_byte_level(
        rule.get(pre, lambda: split_by(QWEN2))(),
        SPECIALS,
        normalizers.NFC() if pre in ("qwen2", "olmo", "command-r") else None,
        ignore_merges=pre == "llama-bpe",
    )
    tokens, merges = vocabulary_of(oracle)
    types = [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3)
    write_vocabulary(path, tokens, pre=pre, types=types, merges=merges, bos=1, eos=2)
    return build_tokenizer(read_gguf(path)), oracle


@pytest.mark.parametrize(
    "pre", ["gpt-2", "olmo", "smollm", "command-r", "llama-bpe", "qwen2", "hunyuan", "seed-coder"]
)
def test_byte_level_ids_and_text_equal_the_library(tmp_path: Path, pre: str) -> None:
    ours, oracle = byte_level(tmp_path / "m.gguf", pre)
    for text in TEXTS:
        ids = oracle.encode(text).ids
        assert ours.encode(text) == ids, text
        expected = oracle.normalizer.normalize_str(text) if oracle.normalizer else text
        assert ours.decode(ids) == expected
        assert b"".join(ours.token_bytes[i] for i in ids).decode() == expected
    for prompt in PROMPTS:
        assert ours.encode_prompt(prompt, add_bos=False) == oracle.encode(prompt).ids, prompt
        oracle.encode_special_tokens = True
        assert ours.encode(prompt) == oracle.encode(prompt).ids, prompt
        oracle.encode_special_tokens = False


@pytest.mark.parametrize(
    "pre", ["qwen35", "tekken", "gpt-4o", "deepseek-coder", "deepseek-llm", "deepseek-v3", "starcoder"]
)
def test_other_pre_tokenizers_lose_nothing(tmp_path: Path, pre: str) -> None:
    oracle = learn_byte_level(gpt2(), SPECIALS)
    tokens, merges = vocabulary_of(oracle)
    types = [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3)
    path = write_vocabulary(tmp_path / "m.gguf", tokens, pre=pre, types=types, merges=merges)
    ours = build_tokenizer(read_gguf(path))
    for text in TEXTS:
        expected = normalizers.NFC().normalize_str(text) if pre == "qwen35" else text
        assert ours.decode(ours.encode(text)) == expected


def best_first(text: str, scores: dict[str, float], ids: dict[str, int]) -> list[int]:
    """SentencePiece's BPE by its definition: join the best-scored neighbours, leftmost first."""
    parts = list(text)
    while True:
        joins = [
            (-scores[left + right], i)
            for i, (left, right) in enumerate(zip(parts, parts[1:], strict=False))
            if left + right in scores
        ]
        if not joins:
            break
        at = min(joins)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    out: list[int] = []
    for part in parts:
        out.extend([ids[part]] if part in scores else [ids[f"<0x{byte:02X}>"] for byte in part.encode()])
    return out


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_joins_the_best_and_falls_back_to_bytes(tmp_path: Path, prefix: bool) -> None:
    tokens, types, scores = learn_sentencepiece()
    path = write_vocabulary(
        tmp_path / "m.gguf",
        tokens,
        model="llama",
        types=types,
        scores=scores,
        flags={"add_space_prefix": prefix},
        bos=1,
        eos=2,
        unknown=0,
    )
    ours = build_tokenizer(read_gguf(path))
    ids = {token: i for i, token in enumerate(tokens)}
    pieces = {t: s for t, kind, s in zip(tokens, types, scores, strict=True) if kind == NORMAL}
    for text in TEXTS:
        spelled = text.replace(" ", "▁")
        if prefix and text and not spelled.startswith("▁"):
            spelled = "▁" + spelled
        assert ours.encode(text) == best_first(spelled, pieces, ids), text
        if "▁" not in text and not text.startswith(" "):
            assert ours.decode(ours.encode(text)) == text
    assert ours.encode_prompt("the") == [1, *ours.encode("the")]
    assert ours.encode_prompt("<s>the") == [1, *best_first("the", pieces, ids)]
    assert ours.token_bytes[ids["<0x0A>"]] == b"\n"
    assert ours.decode([1, 2, 0], skip_special=False) == "<s></s><unk>"


def test_gemma_runs_of_spaces_and_lines_are_tokens_also_in_user_text(tmp_path: Path) -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<end_of_turn>", "\n", "\n\n", "  ", "   "]
    types = [CONTROL, CONTROL, CONTROL, CONTROL, CONTROL] + [USER_DEFINED] * 4
    tokens += [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", "a", "b", "▁a"]
    types += [BYTE] * 256 + [NORMAL] * 4
    scores = [-1000.0] * len(tokens)
    path = write_vocabulary(
        tmp_path / "m.gguf",
        tokens,
        model="llama",
        architecture="gemma3",
        types=types,
        scores=scores,
        bos=2,
        eos=1,
        unknown=3,
    )
    ours = build_tokenizer(read_gguf(path))
    space, a, b, space_a = range(len(tokens) - 4, len(tokens))
    assert ours.encode("a\n\n\nb") == [a, 6, 5, b]
    assert ours.encode("a  b   a a") == [a, 7, b, 8, a, space_a]
    assert ours.encode(" ") == [space]
    assert ours.eos_ids == {1, 4}
    assert ours.token_bytes[7] == b"  "
    assert ours.decode([2, 8, b, 6, 4]) == "   b\n\n"


def test_names_and_ends(tmp_path: Path) -> None:
    ours, _ = byte_level(tmp_path / "m.gguf", "llama-bpe")
    assert (ours.bos_id, ours.bos_token, ours.eos_token) == (1, "<|im_start|>", "<|im_end|>")
    assert ours.eos_ids == {0, 2}
    assert ours.special_ids == {0, 1, 2}
    assert ours.vocab_size == len(ours.token_bytes) == 700
    assert ours.encode_prompt("the")[0] == 1
    assert ours.encode_prompt("<|im_start|>the").count(1) == 1
    assert ours.encode_prompt("") == [1]
    assert ours.encode_prompt("", add_bos=False) == []


def test_tool_tokens_are_text_in_answers_and_never_written_by_users(tmp_path: Path) -> None:
    oracle = learn_byte_level(gpt2(), ["<|eos|>", "<|tool|>", "<think>", "[PAD]"])
    tokens, merges = vocabulary_of(oracle)
    types = [CONTROL, USER_DEFINED, USER_DEFINED, UNUSED] + [NORMAL] * (len(tokens) - 4)
    path = write_vocabulary(tmp_path / "m.gguf", tokens, types=types, merges=merges, eos=0)
    ours = build_tokenizer(read_gguf(path))
    assert ours.encode_prompt("<|tool|><think>") == [1, 2]
    assert ours.encode("<think>") == [2]
    assert not {0, 1, 3} & set(ours.encode("<|eos|><|tool|>[PAD]"))
    assert not {3} & set(ours.encode_prompt("[PAD]"))
    assert ours.decode([0, 1, 2, 3]) == "<|tool|><think>"
    oracle.add_tokens([AddedToken("<think>", normalized=False)])
    text = "a <think>  b</think>"
    assert ours.encode(text) == oracle.encode(text).ids


def test_special_strings_in_words_never_come_out_of_merges(tmp_path: Path) -> None:
    """A control token that is also a product of merges, and a whole word where words beat merges."""
    oracle = learn_byte_level(gpt2(), [])
    tokens, merges = vocabulary_of(oracle)
    types = [NORMAL] * len(tokens)
    word = tokens.index("Ġthe")
    types[word] = CONTROL
    path = write_vocabulary(tmp_path / "m.gguf", tokens, pre="llama-bpe", types=types, merges=merges)
    ours = build_tokenizer(read_gguf(path))
    assert word not in ours.encode("of the the")
    assert ours.encode_prompt("Ġthe") == [word]


def test_broken_text_is_encoded_and_broken_bytes_are_shown(tmp_path: Path) -> None:
    ours, _ = byte_level(tmp_path / "m.gguf", "gpt-2")
    assert ours.decode(ours.encode("a\ud800b")) == "a\ufffdb"
    assert ours.decode(ours.encode("\U0001f468")[:-1]).count("\ufffd") == 1
    with pytest.raises(IndexError):
        ours.decode([10**9])
    with pytest.raises(IndexError):
        ours.decode([-1])


def test_a_long_word_takes_linear_time(tmp_path: Path) -> None:
    ours, _ = byte_level(tmp_path / "m.gguf", "qwen2")
    started = time.thread_time()
    assert len(ours.encode_prompt(ours.guard("<" * 200_000))) > 10_000
    assert time.thread_time() - started < 2.0


@pytest.mark.model
def test_the_default_model_gives_the_recorded_ids() -> None:
    path = default_model()
    if path is None:
        pytest.skip("the default model is not in the cache: llm-serving models pull")
    ours = build_tokenizer(open_checkpoint(path))
    for text, ids in RECORDED.items():
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text
    assert ours.eos_ids == {0, 2}
    assert not ours.adds_bos


# From `transformers`, with the pre-tokenizer of the model's published tokenizer.json.
# fmt: off
RECORDED: dict[str, list[int]] = {
    "Hello, world!": [19556, 28, 905, 17],
    "abc  12 34.5 it's \n\n x": [25276, 256, 33, 34, 216, 35, 36, 30, 37, 357, 506, 38028, 1792],
    "def f(x):\n    return x + 1\n": [1604, 275, 24, 104, 727, 472, 1003, 1792, 1232, 216, 33, 198],
    "Grüße, Привет, 你好, مرحبا": [
        27302, 7170, 34878, 85, 28, 5470, 249, 46879, 16464, 32547, 28, 216, 18645, 250, 48392, 138,
        28, 36395, 20602, 44626, 31462, 10805,
    ],
    "👩\u200d👩\u200d👧 🇩🇪 \u2764\ufe0f": [
        10813, 235, 119, 321, 231, 10813, 235, 119, 321, 231, 10813, 235, 117, 15107, 225, 119, 10813,
        225, 120, 4636, 247, 114, 31752,
    ],
    "  \t \n ": [256, 197, 3717, 216],
    "<|im_end|><|endoftext|>": [44, 108, 306, 79, 486, 108, 21198, 108, 486, 1714, 2692, 108, 46],
}
# fmt: on
