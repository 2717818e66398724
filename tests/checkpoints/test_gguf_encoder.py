"""GGUF files' tokenizers as encoders use them; special tokens, spellings, and keys that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_encoders import phantom_space
from tiny_encoders import BERT_VOCAB, write_bert_tokenizer
from tokenizer_texts import BYTE, CONTROL, NORMAL, TEXTS, UNKNOWN, UNUSED, USER_DEFINED, write_vocabulary

from llm_serving.checkpoints import Checkpoint, EncoderTokenizer, build_encoder_tokenizer, read_gguf
from llm_serving.errors import CheckpointError

BERT_TYPES = [CONTROL] * 5 + [NORMAL] * (len(BERT_VOCAB) - 5)
BERT_TOKENS = [phantom_space(token, kind) for token, kind in zip(BERT_VOCAB, BERT_TYPES, strict=True)]
HELLO, WORLD = BERT_VOCAB.index("hello"), BERT_VOCAB.index("world")


def build(path: Path, tokens: list[str], **facts: Any) -> EncoderTokenizer:
    return build_encoder_tokenizer(read_gguf(write_vocabulary(path / "m.gguf", tokens, **facts)))


def build_bert(path: Path, tokens: list[str] = BERT_TOKENS, **facts: Any) -> EncoderTokenizer:
    return build(path, tokens, **{"model": "bert", "types": BERT_TYPES, "architecture": "bert", **facts})


@pytest.mark.parametrize(
    "facts",
    [
        {"cls": 2, "seperator": 3, "unknown": 1},
        {"bos": 2, "eos": 3, "unknown": 1, "padding": 0},
        {},
        {"types": None},
    ],
)
def test_wordpiece_is_that_of_the_tokenizer_file(tmp_path: Path, facts: dict[str, Any]) -> None:
    ours = build_bert(tmp_path, **facts)
    write_bert_tokenizer(tmp_path)
    theirs = build_encoder_tokenizer(Checkpoint(str(tmp_path), "bert", {}, {}, format="huggingface"))
    texts = [*TEXTS, "hello [SEP] worlds [UNK]", "Hällo WORLD##s"]
    assert ours.encode_batch(texts) == theirs.encode_batch(texts)
    assert ours.encode_pair("hello", "worlds") == theirs.encode_pair("hello", "worlds")
    assert ours.decode(ours.encode("hello, worlds!")) == "hello, worlds!"
    assert ours.vocab_size == theirs.vocab_size
    assert ours.max_tokens is None


def test_case_is_told_or_seen_in_the_vocabulary(tmp_path: Path) -> None:
    assert build_bert(tmp_path).encode("HELLO") == [2, HELLO, 3]
    told = {"flags": {"normalizer.lowercase": False}}
    assert build_bert(tmp_path, **told).encode("HELLO hello") == [2, 1, HELLO, 3]
    cased = BERT_TOKENS[:-1] + ["▁Hello"]
    assert build_bert(tmp_path, cased).encode("Hello hello HELLO") == [2, len(cased) - 1, HELLO, 1, 3]


def test_odd_spellings_keep_their_ids(tmp_path: Path) -> None:
    tokens = [*BERT_TOKENS, "▁hello", "", "▁", "▁▁", "▁<mark>"]
    types = [*BERT_TYPES, NORMAL, NORMAL, NORMAL, NORMAL, USER_DEFINED]
    ours = build_bert(tmp_path, tokens, types=types)
    assert ours.vocab_size == len(tokens)
    assert ours.encode("hello") == [2, HELLO, 3]  # the first of two
    assert ours.encode("▁") == [2, len(tokens) - 2, 3]
    assert ours.encode("a<mark>a")[2] == len(tokens) - 1


@pytest.mark.parametrize(
    ("tokens", "facts", "message"),
    [
        ([], {}, "'tokenizer.ggml.tokens' is missing or empty"),
        (["▁a"], {"types": [NORMAL]}, "'tokenizer.ggml.unknown_token_id' is missing, and so is"),
        (["[UNK]"], {"types": [NORMAL]}, "'tokenizer.ggml.cls_token_id' is missing, and so is"),
        (BERT_TOKENS, {"seperator": 9999}, "'tokenizer.ggml.seperator_token_id' is not the number of one"),
        (BERT_TOKENS, {"model": "rwkv"}, "is 'rwkv'; the known ones are bert, t5, gpt2 and llama"),
    ],
)
def test_wordpiece_that_is_wrong(
    tmp_path: Path, tokens: list[str], facts: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"m\.gguf: .*{message}"):
        build_bert(tmp_path, tokens, **facts)


PIECES = ["<s>", "<pad>", "</s>", "<unk>", *"▁helowrd<>/s", "▁hello", "▁world", "[PAD18]"]
PIECE_TYPES = [CONTROL, CONTROL, CONTROL, UNKNOWN, *[NORMAL] * 14, UNUSED]
SCORES = [0.0] * 4 + [-5.0] * 12 + [-3.0] * 2 + [-10000.0]
XLM = {"model": "t5", "types": PIECE_TYPES, "scores": SCORES, "architecture": "bert"}
ENDS = {"bos": 0, "eos": 2, "unknown": 3, "flags": {"add_bos_token": True, "add_eos_token": True}}
A, B = PIECES.index("▁hello"), PIECES.index("▁world")


def test_unigram(tmp_path: Path) -> None:
    xlm = build(tmp_path, PIECES, **XLM, **ENDS)
    assert xlm.encode(" hello   world\n") == [0, A, B, 2]
    assert xlm.encode("") == [0, 2]
    assert xlm.encode("hello?") == [0, A, 3, 2]
    assert xlm.encode_pair("hello", "world") == ([0, A, 2, 2, B, 2], 4)
    assert xlm.decode([0, A, B, 3, 2]) == "hello world"
    for text in ("<s>", "hello</s>", "[PAD18]", " 0", "<unk>"):
        assert not (set(xlm.encode(text)[1:-1]) - {3}) & xlm.special_ids
    t5 = build(tmp_path, PIECES, **XLM, eos=2, unknown=3)
    assert t5.encode("hello") == [A, 2]


def test_unigram_with_bytes_and_without_space(tmp_path: Path) -> None:
    tokens = [*PIECES, "<0xC3>", "<0xA9>", "<0x3F>"]
    facts = {**XLM, "types": [*PIECE_TYPES, BYTE, BYTE, BYTE], "scores": [*SCORES, -1.0, -1.0, -1.0]}
    ours = build(tmp_path, tokens, **facts, eos=2, flags={"add_space_prefix": False})
    assert ours.encode("é?h") == [len(tokens) - 3, len(tokens) - 2, len(tokens) - 1, PIECES.index("h"), 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "'tokenizer.ggml.scores' is not one number for each"),
        ({"scores": [*SCORES[1:], float("nan")]}, "'tokenizer.ggml.scores' has values that are no finite"),
        ({"eos": None}, "'tokenizer.ggml.eos_token_id' is missing, and is to be added"),
        (
            {"flags": {"add_bos_token": True, "add_eos_token": True}, "bos": None},
            "'tokenizer.ggml.bos_token_id'",
        ),
    ],
)
def test_unigram_that_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    facts = {key: value for key, value in {**XLM, **ENDS, **changes}.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path, PIECES, **facts)


@pytest.mark.parametrize(
    "charsmap", [b"", b"\0", b"\xff" * 24, b"\4\0\0\0\xff\xff\xff\xffabc", bytes(4), "x"]
)
def test_a_damaged_charsmap_is_an_error(tmp_path: Path, charsmap: bytes | str) -> None:
    checkpoint = read_gguf(write_vocabulary(tmp_path / "m.gguf", PIECES, **XLM, **ENDS))
    value = charsmap if isinstance(charsmap, str) else np.frombuffer(charsmap, np.uint8)
    metadata = {**checkpoint.metadata, "tokenizer.ggml.precompiled_charsmap": value}
    with pytest.raises(CheckpointError, match=r"m\.gguf: "):
        build_encoder_tokenizer(Checkpoint(checkpoint.path, "bert", metadata, {}))


LETTERS = [*"abcdeĠ", "ab", "Ġc", "<s>", "</s>", "<|end|>"]
LETTER_TYPES = [*[NORMAL] * 8, CONTROL, CONTROL, CONTROL]
BYTES = {"types": LETTER_TYPES, "merges": [("a", "b"), ("Ġ", "c")]}


def test_byte_pairs_get_what_the_file_adds(tmp_path: Path) -> None:
    ends = {"bos": 8, "eos": 9, "flags": {"add_bos_token": True, "add_eos_token": True}}
    roberta = build(tmp_path, LETTERS, pre="roberta-bpe", **BYTES, **ends)
    assert roberta.encode("ab c") == [8, 6, 7, 9]
    assert roberta.encode_pair("ab", "c") == ([8, 6, 9, 9, 2, 9], 4)
    modern = build(tmp_path, LETTERS, pre="modern-bert", **BYTES, **ends)
    assert modern.encode_pair("ab", "c") == ([8, 6, 9, 2, 9], 3)
    qwen = build(tmp_path, LETTERS, pre="qwen2", **BYTES, eos=10, flags={"add_eos_token": True})
    assert qwen.encode_batch(["ab c", ""]) == [[6, 7, 10], [10]]
    assert qwen.add_special([6, 7]) == qwen.add_special([6, 7, 10]) == [6, 7, 10]
    assert qwen.truncate([6, 7, 0, 10], 3) == [6, 7, 10]
    assert qwen.decode([6, 7, 10]) == "ab c"
    plain = build(tmp_path, LETTERS, pre="gpt-2", **BYTES)
    assert plain.encode("ab c") == [6, 7]
    assert plain.truncate([6, 7, 0], 2) == [6, 7]
    with pytest.raises(CheckpointError, match="'tokenizer.ggml.eos_token_id' is missing, and is to be added"):
        build(tmp_path, LETTERS, pre="qwen2", **BYTES, flags={"add_eos_token": True})


def test_a_checkpoint_from_elsewhere(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="'tokenizer.ggml.model' is 'None'"):
        build_encoder_tokenizer(read_gguf(tmp_path / "m.gguf"))
