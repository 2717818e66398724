"""Byte pair encoding (Sennrich et al. 2016): the library's model, from the merges of a file."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers import models

from llm_serving.checkpoints.checkpoint import Checkpoint
from llm_serving.checkpoints.vocabulary import problem, strings
from llm_serving.errors import CheckpointError

_KEY = "tokenizer.ggml.merges"


def build_bpe(
    checkpoint: Checkpoint,
    ids: dict[str, int],
    left_out: Collection[str],
    other_ids: dict[str, int] | None = None,
    **options: Any,
) -> models.BPE:
    """By `tokenizer.ggml.merges`, best first, less those that make or use a token of `left_out`.

    No merge makes one of `other_ids`, which are in the vocabulary as well. Raises: CheckpointError for an
    entry that is no pair of tokens.
    """
    given = strings(checkpoint, _KEY)
    others = other_ids or {}
    with without_collection():
        pairs: list[Any] = [tuple(merge.split(" ")) for merge in given]
        if not _makes_any(given, others):
            try:  # the library looks at each as well, in a tenth of the time
                return models.BPE(vocab=ids | others, merges=pairs, **options)
            except Exception:  # it raises nothing more precise
                pass
        return bpe_of(checkpoint, ids | others, _known_merges(checkpoint, given, ids, left_out), **options)


def _makes_any(merges: list[str], tokens: Collection[str]) -> bool:
    """Whether one of `merges` makes one of `tokens`; most are told apart by their last letter."""
    ends = tuple({token[-1] for token in tokens if token})
    return any(merge.replace(" ", "", 1) in tokens for merge in merges if merge.endswith(ends))


def bpe_of(
    checkpoint: Checkpoint, ids: dict[str, int], merges: list[tuple[str, str]], **options: Any
) -> models.BPE:
    """Raises: CheckpointError for what the library does not take."""
    try:
        return models.BPE(vocab=ids, merges=merges, **options)
    except Exception as error:  # as above
        raise CheckpointError(f"{checkpoint.path}: the merges do not fit the vocabulary: {error}.") from error


def _known_merges(
    checkpoint: Checkpoint, given: list[str], ids: dict[str, int], left_out: Collection[str]
) -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for i, merge in enumerate(given):
        left, space, right = merge.partition(" ")
        if left in ids and right in ids and left + right in ids:
            merges.append((left, right))
        elif not space or not all(part in ids or part in left_out for part in (left, right, left + right)):
            raise problem(checkpoint, _KEY, f"[{i}] is {merge[:60]!r}, which is no pair of tokens")
    return merges


@contextmanager
def without_collection() -> Iterator[None]:
    """Half a million pairs live for a second; the garbage collector would go through them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
