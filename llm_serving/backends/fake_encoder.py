"""An encoder without weights: deterministic and instant; texts with common words are alike.

For developing, demonstrating and testing everything above the encoder.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from llm_serving.embeddings.encoder import EncoderInput

BEGIN_ID, END_ID = 1, 2
FIRST_WORD = 3
ENCODER_VOCAB_SIZE = 4096
_WORDS = re.compile(r"\w+|[^\w\s]")
_TABLE_SEED = 20240229


class FakeEncoderTokenizer:
    """One token a word or punctuation mark, by hash and without case, between `BEGIN_ID` and `END_ID`."""

    def encode_batch(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        return [[BEGIN_ID, *_words(prompt + text), END_ID] for text in texts]

    def encode_pairs(
        self, first: str, seconds: Sequence[str], max_tokens: int | None = None
    ) -> list[tuple[list[int], int]]:
        """(ids of both texts, where the second begins); cut at the end of the second, then of the first."""
        pairs = []
        for second in seconds:
            head, tail = [BEGIN_ID, *_words(first), END_ID], [*_words(second), END_ID]
            if max_tokens is not None and len(head) + len(tail) > max_tokens:
                if max_tokens < 4:
                    raise ValueError(f"{max_tokens} tokens leave no room between 3 special ones.")
                head = self.truncate(head, max_tokens - 1)
                tail = [*tail[: max_tokens - len(head) - 1], END_ID]
            pairs.append(([*head, *tail], len(head)))
        return pairs

    def truncate(self, token_ids: list[int], max_tokens: int) -> list[int]:
        if len(token_ids) <= max_tokens:
            return token_ids
        if max_tokens < 3:
            raise ValueError(f"{max_tokens} tokens leave no room between 2 special ones.")
        return [*token_ids[: max_tokens - 1], END_ID]

    def add_special(self, token_ids: Sequence[int]) -> list[int]:
        wrong = next((i for i in token_ids if not 0 <= i < ENCODER_VOCAB_SIZE), None)
        if wrong is not None:
            raise ValueError(f"The token id {wrong} is not in the vocabulary of {ENCODER_VOCAB_SIZE}.")
        begin = [] if token_ids[0] == BEGIN_ID else [BEGIN_ID]
        return [*begin, *token_ids, *([] if token_ids[-1] == END_ID else [END_ID])]


class FakeEncoder:
    """`Encoder` whose row is the mean of its tokens' random vectors; a pair's logit grows with common words.

    is_cross_encoder: rows of one logit. seconds: how long a batch takes. gate: a batch waits until it is set.
    fails_on: a batch with this token id raises RuntimeError. nan_on: a text with it becomes NaN. dies_on: a
    batch with it raises SystemExit, which no batch survives.
    """

    def __init__(
        self,
        *,
        dimensions: int = 32,
        max_tokens: int = 256,
        is_cross_encoder: bool = False,
        seconds: float = 0.0,
        gate: threading.Event | None = None,
        fails_on: int | None = None,
        nan_on: int | None = None,
        dies_on: int | None = None,
    ) -> None:
        self.dimensions = 1 if is_cross_encoder else dimensions
        self.max_tokens = max_tokens
        self.device = "fake"
        self.batches: list[list[int]] = []  # number of tokens of every text of every batch so far
        self.is_closed = False
        self._is_cross_encoder = is_cross_encoder
        self._seconds = seconds
        self._gate = gate
        self._fails_on, self._nan_on, self._dies_on = fails_on, nan_on, dies_on
        random = np.random.default_rng(_TABLE_SEED)
        self._table = random.standard_normal((ENCODER_VOCAB_SIZE, dimensions))

    def encode(self, batch: list[EncoderInput]) -> np.ndarray:
        """See `Encoder.encode`. Raises: RuntimeError (scripted, closed) and SystemExit (scripted)."""
        if self.is_closed:
            raise RuntimeError("the fake encoder is closed")
        self.batches.append([len(item.token_ids) for item in batch])
        if self._gate is not None:
            self._gate.wait()
        if self._seconds:
            time.sleep(self._seconds)
        seen = {token for item in batch for token in item.token_ids}
        if self._fails_on in seen:
            raise RuntimeError("the fake encoder fails, as it was told to")
        if self._dies_on in seen:
            raise SystemExit("the fake encoder dies, as it was told to")
        return np.stack([self._row(item) for item in batch]).astype(np.float32)

    def close(self) -> None:
        self.is_closed = True

    def _row(self, item: EncoderInput) -> np.ndarray:
        ids = item.token_ids
        if not 0 < len(ids) <= self.max_tokens:
            raise ValueError(f"a text of {len(ids)} tokens; 1 to {self.max_tokens} are possible")
        if min(ids) < 0 or max(ids) >= ENCODER_VOCAB_SIZE:
            raise ValueError("a token id is out of range")
        if self._nan_on in ids:
            return np.full(self.dimensions, np.nan)
        if self._is_cross_encoder:
            at = len(ids) if item.second_segment is None else item.second_segment
            first, second = (set(part) - {BEGIN_ID, END_ID} for part in (ids[:at], ids[at:]))
            return np.array([4.0 * len(first & second) / max(1, len(first)) - 2.0])
        vector = self._table[ids].mean(axis=0)
        return np.asarray(vector / np.linalg.norm(vector))


def word_id(word: str) -> int:
    """The token of a word; its case does not matter."""
    digest = blake2b(word.casefold().encode("utf-8", "replace"), digest_size=8).digest()
    return FIRST_WORD + int.from_bytes(digest, "little") % (ENCODER_VOCAB_SIZE - FIRST_WORD)


def _words(text: str) -> list[int]:
    return [word_id(word) for word in _WORDS.findall(text)]
