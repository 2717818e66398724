"""What every kind of encoder tokenizer comes down to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpecialFrame:
    """The special tokens around texts: `before A after`, and `pair_before A between B pair_after`."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    pair_before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    pair_after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EncoderVocabulary:
    """What a tokenizer's files come down to.

    `encode` takes plain texts in parallel and adds nothing; `decode` gets no special ids. `prompt_ids` maps
    the strings that the model's own prompts may use for one token. `lower_case` is what
    sentence-transformers does to a text first.
    """

    encode: Callable[[list[str]], list[list[int]]]
    decode: Callable[[list[int]], str]
    frame: SpecialFrame
    vocab_size: int
    special_ids: frozenset[int]
    prompt_ids: Mapping[str, int]
    max_tokens: int | None = None
    lower_case: bool = False
