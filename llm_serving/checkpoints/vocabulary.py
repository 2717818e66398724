"""A model's vocabulary as its metadata tells it: tokens, their types, and the ids with a meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.told_tokens import harmony_ids, told_tokens
from llm_serving.errors import CheckpointError

# Tokens that end a turn or a text in the families that have them, whatever the metadata calls the end.
END_TOKENS = frozenset(
    {
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|end_of_turn|>",
        "<|eot|>",
        "<|eom|>",
        "<|return|>",
        "<|call|>",
        "<|calls|>",
        "<|flush|>",
        "<end_of_turn>",
        "<turn|>",
        "<|tool_response>",  # what Gemma 4 has called for is not its to write
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
    }
)
# Where a vocabulary has the first, the second closes a message, and the turn goes on: gpt-oss, Solar, Muse.
_GOES_ON = (("<|return|>", "<|end|>"), ("<|flush|>", "<|end|>"), ("<|message|>", "<|eom|>"))
MAX_TOKEN_CHARS = 1024  # bounds the work that is quadratic in a token's length

_LOOKS_SPECIAL = re.compile(r"<\|[^|<>]+\|?>|<[^|<>]+\|>")  # "<|one|>", or "<|one>" and "<one|>" as a pair
# What stands for a picture, or around it, in the families that have no bars there.
PICTURE_TOKENS = frozenset(
    {
        "<image>",
        "<image_soft_token>",
        "<start_of_image>",
        "<end_of_image>",
        "<fake_token_around_image>",
        "<global-img>",
    }
)


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, the types of SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token `i` is `tokens[i]`, spelled as in the file, of type `types[i]`.

    `special_ids` are no user's text, and `silent_ids` of them add nothing to a text; `prompt_ids` maps the
    strings that a prompt may use for one token.
    """

    tokens: list[str]
    types: list[int]
    bos_id: int | None
    eos_id: int | None
    unknown_id: int | None
    eos_ids: frozenset[int]
    special_ids: frozenset[int]
    prompt_ids: dict[str, int]

    @property
    def silent_ids(self) -> frozenset[int]:
        told = told_tokens(self.tokens)
        return frozenset(i for i in self.special_ids if i in self.eos_ids or self.tokens[i] not in told)

    def places_of(self, *types: int) -> list[int]:
        """Ids of the tokens of these types, ascending."""
        places: list[int] = np.flatnonzero(np.isin(np.array(self.types), types)).tolist()
        return places

    def ids_of(self, *types: int) -> dict[str, int]:
        """Spelling to id of the tokens of these types that user text may become."""
        ids = {self.tokens[i]: i for i in self.places_of(*types)}
        for token in ("", *self.prompt_ids):
            ids.pop(token, None)
        return ids


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Raises: CheckpointError, naming the metadata key that is missing or wrong."""
    tokens = strings(checkpoint, "tokenizer.ggml.tokens")
    if not tokens:
        raise problem(checkpoint, "tokenizer.ggml.tokens", "is missing or empty; the file has no vocabulary")
    if max(map(len, tokens)) > MAX_TOKEN_CHARS:
        raise problem(
            checkpoint, "tokenizer.ggml.tokens", f"has a token of over {MAX_TOKEN_CHARS} characters"
        )
    types = token_types(checkpoint, len(tokens))
    named = {
        key: token_id(checkpoint, f"tokenizer.ggml.{key}_token_id", len(tokens))
        for key in ("bos", "eos", "eot", "eom", "unknown", "padding")
    }
    ends = {i for i, token in enumerate(tokens) if token in END_TOKENS}
    ends |= {i for key in ("eos", "eot", "eom") if (i := named[key]) is not None}
    goes_on = {end for mark, end in _GOES_ON if mark in tokens}
    ends = {i for i in ends if tokens[i] not in goes_on}
    marks = harmony_ids(tokens).marks
    eos_ids = frozenset(ends - marks)
    for i in eos_ids | {i for i in named.values() if i is not None}:
        if types[i] == TokenType.NORMAL or (types[i] == TokenType.USER_DEFINED and i in eos_ids):
            types[i] = TokenType.CONTROL
    for i in marks:
        types[i] = TokenType.CONTROL
    kinds = np.array(types)
    silent = np.isin(kinds, (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED))
    others: list[int] = np.flatnonzero(kinds != TokenType.NORMAL).tolist()
    return Vocabulary(
        tokens=tokens,
        types=types,
        bos_id=named["bos"],
        eos_id=named["eos"],
        unknown_id=named["unknown"],
        eos_ids=eos_ids,
        special_ids=frozenset(np.flatnonzero(silent).tolist()),
        prompt_ids={tokens[i]: i for i in others if tokens[i] and _in_prompts(tokens[i], types[i])},
    )


def _in_prompts(token: str, kind: int) -> bool:
    # Files mark tool, fill-in and picture tokens as user-defined: they are text in answers (tool calls are
    # read from it), but user text must not be able to write them.
    looks_special = token in PICTURE_TOKENS or _LOOKS_SPECIAL.fullmatch(token) is not None
    is_one = kind == TokenType.USER_DEFINED and looks_special
    return kind in (TokenType.CONTROL, TokenType.UNKNOWN) or is_one


def token_types(checkpoint: Checkpoint, num_tokens: int) -> list[int]:
    """A `TokenType` for each token, normal where the file says nothing. Raises: CheckpointError."""
    key = "tokenizer.ggml.token_type"
    types = checkpoint.metadata.get(key)
    if types is None:
        return [int(TokenType.NORMAL)] * num_tokens
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or len(types) != num_tokens:
        raise problem(checkpoint, key, f"is not one number for each of the {num_tokens} tokens")
    values: list[int] = types.tolist()
    return values


def token_id(checkpoint: Checkpoint, key: str, num_tokens: int) -> int | None:
    """Raises: CheckpointError if the value is no id."""
    value = checkpoint.metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < num_tokens:
        raise problem(checkpoint, key, f"is not the number of one of the {num_tokens} tokens")
    return value


def token_scores(checkpoint: Checkpoint, num_tokens: int) -> np.ndarray:
    """Finite numbers, float [num_tokens]. Raises: CheckpointError."""
    key = "tokenizer.ggml.scores"
    scores = checkpoint.metadata.get(key)
    if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or len(scores) != num_tokens:
        raise problem(checkpoint, key, f"is not one number for each of the {num_tokens} tokens")
    if not np.isfinite(scores).all():
        raise problem(checkpoint, key, "has values that are no finite numbers")
    return scores


def flag(checkpoint: Checkpoint, key: str, default: bool) -> bool:
    """Raises: CheckpointError if the value is no bool."""
    value = checkpoint.metadata.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise problem(checkpoint, key, "is neither true nor false")
    return value


def strings(checkpoint: Checkpoint, key: str) -> list[str]:
    """The list of strings under `key`, empty if there is none. Raises: CheckpointError."""
    value: Any = checkpoint.metadata.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or (value and not isinstance(value[0], str)):
        raise problem(checkpoint, key, "is not a list of texts")
    return value


def problem(checkpoint: Checkpoint, key: str, what: str) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path}: '{key}' {what}.")
