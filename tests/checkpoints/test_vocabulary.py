"""Damaged tokenizer metadata: each a CheckpointError that names the file and the key."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from tokenizer_texts import CONTROL, NORMAL, USER_DEFINED

from llm_serving.checkpoints import Checkpoint, build_tokenizer
from llm_serving.checkpoints.vocabulary import MAX_TOKEN_CHARS
from llm_serving.errors import CheckpointError

K = "tokenizer.ggml."
BYTE_LEVEL = {
    f"{K}model": "gpt2",
    f"{K}pre": "gpt-2",
    f"{K}tokens": ["<s>", "</s>", "a", "b", "ab"],
    f"{K}token_type": np.array([CONTROL, CONTROL, NORMAL, NORMAL, NORMAL], np.int32),
    f"{K}merges": ["a b"],
    f"{K}bos_token_id": 0,
    f"{K}eos_token_id": 1,
}
SENTENCEPIECE = {
    f"{K}model": "llama",
    f"{K}tokens": ["<s>", "</s>", "a", "b", "ab"],
    f"{K}token_type": np.array([CONTROL, CONTROL, NORMAL, NORMAL, NORMAL], np.int32),
    f"{K}scores": np.array([0, 0, 0, 0, -1], np.float32),
    f"{K}add_space_prefix": False,
}


def checkpoint(base: dict[str, Any], **changes: Any) -> Checkpoint:
    metadata = {**base, **{f"{K}{key}": value for key, value in changes.items()}}
    return Checkpoint(
        "m.gguf", "llama", {key: value for key, value in metadata.items() if value is not None}, {}
    )


def test_the_bases_are_valid() -> None:
    for base in (BYTE_LEVEL, SENTENCEPIECE):
        tokenizer = build_tokenizer(checkpoint(base))
        assert tokenizer.encode("abba") == [4, 3, 2]
        assert tokenizer.special_ids == {0, 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", "t5"),
        ("model", ["gpt2"]),
        ("pre", "nonesuch"),
        ("pre", 3),
        ("tokens", None),
        ("tokens", []),
        ("tokens", "abc"),
        ("tokens", np.arange(5)),
        ("tokens", ["x" * (MAX_TOKEN_CHARS + 1)] * 5),
        ("token_type", np.ones(4, np.int32)),
        ("token_type", np.ones(5, np.float32)),
        ("token_type", ["1"] * 5),
        ("merges", ["ab"]),
        ("merges", [""]),
        ("merges", [" "]),
        ("merges", ["a b", "a c"]),
        ("merges", ["b a"]),
        ("merges", np.ones(1)),
        ("bos_token_id", 5),
        ("eos_token_id", -1),
        ("eos_token_id", True),
        ("eot_token_id", 2**31),
        ("padding_token_id", "0"),
        ("add_bos_token", 1),
    ],
)
def test_damaged_byte_level_metadata_names_the_key(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"m\.gguf: 'tokenizer\.ggml\.{key}'"):
        build_tokenizer(checkpoint(BYTE_LEVEL, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scores", None),
        ("scores", np.zeros(4, np.float32)),
        ("scores", np.zeros(5, np.int32)),
        ("scores", np.array([0, 0, 0, 0, np.nan], np.float32)),
        ("add_space_prefix", "yes"),
        ("merges", ["a c"]),
        ("tokens", ["<s>", "</s>", "a", "b", ["ab"]][:4]),
    ],
)
def test_damaged_sentencepiece_metadata_names_the_key(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=r"m\.gguf: 'tokenizer\.ggml\."):
        build_tokenizer(checkpoint(SENTENCEPIECE, **{key: value}))


@pytest.mark.parametrize("base", [BYTE_LEVEL, SENTENCEPIECE], ids=["gpt2", "llama"])
def test_shuffled_values_are_read_or_refused(base: dict[str, Any]) -> None:
    """Any value under any key: a tokenizer that works, or a CheckpointError."""
    rng = random.Random(3)
    values = [*BYTE_LEVEL.values(), *SENTENCEPIECE.values(), None, -1, 2**40, 0.5, "", [], [""], ["a"] * 5]
    values += [["a b", "", "ab"], np.zeros(0), np.zeros(5, np.int32), np.full(5, 6, np.int32), {}]
    refused = 0
    for _ in range(1000):
        changes = {key.removeprefix(K): rng.choice(values) for key in rng.sample(sorted(base), 2)}
        try:
            tokenizer = build_tokenizer(checkpoint(base, **changes))
        except CheckpointError:
            refused += 1
        else:
            tokenizer.decode(tokenizer.encode_prompt("<s> ab" + tokenizer.guard("</s>")))
    assert 500 < refused < 1000


def test_byte_tokens_must_name_a_byte() -> None:
    types = np.array([CONTROL, CONTROL, NORMAL, NORMAL, 6], np.int32)
    with pytest.raises(CheckpointError, match=r"\[4\] is a byte token named 'ab'"):
        build_tokenizer(checkpoint(SENTENCEPIECE, token_type=types))


def test_unknown_pre_tokenizers_are_answered_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"'nonesuch'; the known ones are .*llama-bpe.*qwen2.*smollm"):
        build_tokenizer(checkpoint(BYTE_LEVEL, pre="nonesuch"))


def test_end_tokens_are_special_whatever_their_type_says() -> None:
    tokens = ["<|im_end|>", "</s>", "a", "b", "<end_of_turn>"]
    types = np.array([USER_DEFINED, NORMAL, NORMAL, NORMAL, NORMAL], np.int32)
    tokenizer = build_tokenizer(checkpoint(BYTE_LEVEL, tokens=tokens, token_type=types, merges=[]))
    assert tokenizer.eos_ids == {0, 1, 4}
    assert tokenizer.special_ids == {0, 1, 4}
    assert tokenizer.encode_prompt("<end_of_turn>a<|im_end|>") == [4, 2, 0]


@pytest.mark.parametrize(
    "tokens",
    [
        ["<|end|>", "<|return|>", "a", "b", "<|call|>"],
        ["<|end|>", "<|flush|>", "a", "b", "<|calls|>"],  # Solar Open
        ["<|eom|>", "<|eot|>", "a", "<|message|>", "<|im_end|>"],  # Muse Glimmer
    ],
)
def test_a_message_end_is_no_end_where_turns_go_on(tokens: list[str]) -> None:
    types = np.array([CONTROL, CONTROL, NORMAL, NORMAL, CONTROL], np.int32)
    tokenizer = build_tokenizer(
        checkpoint(BYTE_LEVEL, tokens=tokens, token_type=types, merges=[], bos_token_id=None)
    )
    assert tokenizer.eos_ids == {1, 4}
    assert tokenizer.bos_token == ""


HARMONY = [
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "a",
]


@pytest.mark.parametrize("kind", [CONTROL, USER_DEFINED, NORMAL])
def test_harmonys_marks_are_text_that_no_user_writes(kind: int) -> None:
    types = np.array([kind] * 7 + [NORMAL], np.int32)
    metadata = {"tokens": HARMONY, "token_type": types, "merges": [], "bos_token_id": None, "eos_token_id": 5}
    tokenizer = build_tokenizer(checkpoint(BYTE_LEVEL, **metadata, eot_token_id=4))
    assert tokenizer.eos_ids == {5, 6}
    assert tokenizer.special_ids == set(range(7))
    assert tokenizer.decode(range(8)) == "<|start|><|channel|><|message|><|constrain|><|end|>a"
    assert tokenizer.encode_prompt("<|start|>a<|end|>") == [0, 7, 4]
    assert tokenizer.encode_prompt(tokenizer.guard("<|end|>a")) == tokenizer.encode("<|end|>a")


def test_places_of_pictures_come_from_no_text_even_if_their_type_says_so() -> None:
    types = np.array([CONTROL, USER_DEFINED, NORMAL, NORMAL, NORMAL], np.int32)
    tokens = ["</s>", "<image>", "a", "<", "<ima"]
    tokenizer = build_tokenizer(checkpoint(BYTE_LEVEL, tokens=tokens, token_type=types, merges=[]))
    assert tokenizer.encode_prompt("a<image>a") == [2, 1, 2]
    assert 1 not in tokenizer.encode("a<image>")
    assert 1 not in tokenizer.encode_prompt(tokenizer.guard("a<image>"))


def test_some_of_harmonys_marks_are_none() -> None:
    types = np.array([CONTROL] * 7 + [NORMAL], np.int32)
    tokens = ["<|x|>", *HARMONY[1:]]
    tokenizer = build_tokenizer(checkpoint(BYTE_LEVEL, tokens=tokens, token_type=types, merges=[]))
    assert tokenizer.decode(range(8)) == "a"


@pytest.mark.parametrize("base", [BYTE_LEVEL, SENTENCEPIECE], ids=["gpt2", "llama"])
def test_tags_of_thoughts_are_text_even_if_special(base: dict[str, Any]) -> None:
    tokens = ["[THINK]", "</s>", "a", "[/THINK]", "[INST]"]
    types = np.array([CONTROL, CONTROL, NORMAL, CONTROL, CONTROL], np.int32)
    tokenizer = build_tokenizer(
        checkpoint(base, tokens=tokens, token_type=types, merges=[], bos_token_id=None)
    )
    assert tokenizer.decode([0, 2, 3, 4, 1]) == "[THINK]a[/THINK]"
    assert tokenizer.special_ids >= {0, 3, 4}
    assert tokenizer.encode_prompt("[THINK]a[/THINK]")[::2] == [0, 3]


def test_missing_types_make_only_the_named_tokens_special() -> None:
    tokenizer = build_tokenizer(checkpoint(BYTE_LEVEL, token_type=None))
    assert tokenizer.special_ids == {0, 1}
    assert tokenizer.encode("ab") == [4]
