"""Tokens for filling in between two texts: found by metadata or by name, and prompts made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_server import open_client
from tiny_decoder_directories import write_tokenizer
from tiny_models import SMALLEST_VOCAB, write_tiny_qwen2
from tokenizer_texts import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    learn_byte_level,
    learn_sentencepiece,
    vocabulary_of,
    write_vocabulary,
)
from tokenizers import pre_tokenizers

from llm_serving.checkpoints import Tokenizer, build_tokenizer, read_gguf
from llm_serving.checkpoints.directory_files import read_directory_tokenizer
from llm_serving.errors import CheckpointError
from llm_serving.service.loader import load_chat_model

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FAMILIES = [
    QWEN,
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
]


def byte_level(path: Path, specials: list[str], kind: int = CONTROL, **ids: int) -> Tokenizer:
    learned = learn_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), specials)
    tokens, merges = vocabulary_of(learned)
    types = [kind] * len(specials) + [NORMAL] * (len(tokens) - len(specials))
    file = write_vocabulary(path, tokens, pre="gpt-2", types=types, merges=merges, **ids)
    return build_tokenizer(read_gguf(file))


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED, NORMAL])
@pytest.mark.parametrize("names", FAMILIES)
def test_families_by_name(tmp_path: Path, names: tuple[str, ...], kind: int) -> None:
    tokenizer = byte_level(tmp_path / "m.gguf", ["<s>", names[2], names[0], names[1]], kind)
    found = tokenizer.fill_in
    assert found is not None
    assert (found.prefix, found.suffix, found.middle) == (2, 3, 1)
    before, behind = tokenizer.encode_prompt("the ", add_bos=False), tokenizer.encode_behind(" brown")
    assert found.prompt(before, behind) == [2, *before, 3, *behind, 1]


@pytest.mark.parametrize("missing", range(3))
def test_two_of_three_are_not_enough(tmp_path: Path, missing: int) -> None:
    names = [name for i, name in enumerate(QWEN) if i != missing]
    assert byte_level(tmp_path / "m.gguf", names).fill_in is None


def test_what_ends_the_middle(tmp_path: Path) -> None:
    specials = ["<s>", *QWEN, "<|file_sep|>", "<|fim_pad|>", "<|other|>", "<|sep|>"]
    found = byte_level(tmp_path / "m.gguf", specials, fim_sep=7).fill_in
    assert found is not None
    assert found.ends == {1, 2, 3, 4, 5, 7}


@pytest.mark.parametrize("names", [("<|repo_name|>", "<|file_sep|>"), ("<reponame>", "<filename>")])
def test_tokens_before_names_of_files(tmp_path: Path, names: tuple[str, str]) -> None:
    found = byte_level(tmp_path / "m.gguf", ["<s>", *QWEN, names[1], names[0]]).fill_in
    assert found is not None
    assert found.files == (5, 4)
    alone = byte_level(tmp_path / "n.gguf", ["<s>", *QWEN, names[1]]).fill_in
    assert alone is not None
    assert alone.files is None


@pytest.mark.parametrize("keys", [("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle")])
def test_metadata_goes_before_names(tmp_path: Path, keys: tuple[str, str, str]) -> None:
    specials = ["<s>", *QWEN, "<a>", "<b>", "<c>"]
    tokenizer = byte_level(tmp_path / "m.gguf", specials, **dict(zip(keys, (4, 5, 6), strict=True)))
    found = tokenizer.fill_in
    assert found is not None
    assert (found.prefix, found.suffix, found.middle) == (4, 5, 6)
    incomplete = byte_level(tmp_path / "n.gguf", specials, **{keys[0]: 4}).fill_in
    assert incomplete is not None
    assert incomplete.prefix == 1
    with pytest.raises(CheckpointError, match=f"'tokenizer.ggml.{keys[2]}_token_id'"):
        byte_level(tmp_path / "o.gguf", specials, **{keys[2]: 10**6})


def test_only_the_first_text_gets_a_space(tmp_path: Path) -> None:
    """As CodeLlama was trained: the prefix begins the text, the suffix continues it."""
    tokens, types, scores = learn_sentencepiece()
    first = len(tokens)
    path = write_vocabulary(
        tmp_path / "m.gguf",
        [*tokens, "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"],
        model="llama",
        types=[*types, *[USER_DEFINED] * 4],
        scores=[*scores, *[0.0] * 4],
        bos=1,
    )
    tokenizer = build_tokenizer(read_gguf(path))
    found = tokenizer.fill_in
    assert found is not None
    ids = found.prompt(tokenizer.encode_prompt("the"), tokenizer.encode_behind("the"))
    assert ids[:2] == [1, first]
    split = ids.index(first + 1)
    assert b"".join(tokenizer.token_bytes[i] for i in ids[2:split]) == b" the"
    assert b"".join(tokenizer.token_bytes[i] for i in ids[split + 1 : -1]) == b"the"
    assert ids[-1] == first + 2
    assert first + 3 in found.ends


def test_a_directory(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, SMALLEST_VOCAB)
    path = tmp_path / "tokenizer.json"
    assert read_directory_tokenizer(tmp_path).fill_in is None
    data = json.loads(path.read_text("utf-8"))
    pattern = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for i, name in enumerate(QWEN):
        data["added_tokens"].append({"id": SMALLEST_VOCAB + i, "content": name, **pattern})
    path.write_text(json.dumps(data), "utf-8")
    tokenizer = read_directory_tokenizer(tmp_path)
    found = tokenizer.fill_in
    assert found is not None
    assert (found.prefix, found.suffix, found.middle) == tuple(SMALLEST_VOCAB + i for i in range(3))
    assert not found.ends & set(tokenizer.encode("".join(QWEN)))  # text of users stays text


@pytest.mark.anyio
async def test_a_model_fills_in(tmp_path: Path) -> None:
    path = write_tiny_qwen2(tmp_path / "tiny.gguf", vocab=SMALLEST_VOCAB + 3, last_tokens=QWEN)
    async with open_client(load_chat_model, model_name=str(path), engine="native") as client:
        asked = {"prompt": "the ", "suffix": " and", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = (await client.post("/completions", json=asked)).json()
        tokenizer = client.services.registry.default.get().tokenizer
        assert tokenizer.fill_in is not None
        ids = tokenizer.fill_in.prompt(tokenizer.encode("the "), tokenizer.encode(" and"))
        same = {**asked, "prompt": ids, "suffix": None}
        assert answer["usage"]["prompt_tokens"] == len(ids)
        assert answer["choices"] == (await client.post("/completions", json=same)).json()["choices"]
        other = (await client.post("/completions", json={**asked, "suffix": None})).json()
        assert other["choices"] != answer["choices"]
