"""The seam of embedding and reranking models: token ids in, one row of numbers a text out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """One text, or one pair of texts, as the model wants it: special tokens included.

    Tokens from `second_segment` on belong to the second text of a pair; None means that there is none.
    """

    token_ids: list[int]
    second_segment: int | None = None


class Encoder(Protocol):
    """Runs an encoder. One thread at a time; owns its memory and threads.

    A row depends on its own text only: not on the rest of the batch, not on the number of threads. Bit for
    bit.
    """

    dimensions: int  # width of a row: the embedding's size, or the number of labels of a cross-encoder
    max_tokens: int  # tokens one text may have
    device: str

    def encode(self, batch: list[EncoderInput]) -> np.ndarray:
        """float32 [len(batch), dimensions]: pooled, normalised where the model says so; or a pair's logits.

        Releases the GIL. Raises: ValueError for an empty text, one over `max_tokens`, or ids out of range.
        """
        ...

    def close(self) -> None:
        """Give threads and memory back. Safe to call twice."""
        ...
