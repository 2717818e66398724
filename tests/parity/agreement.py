"""How far two sets of logits over the same text are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

ROWS = 64  # at a time, or the float64 copies of a large vocabulary fill the memory
Logits = Callable[[list[int]], np.ndarray]  # token ids of one sequence → float32 [n, vocab]


@dataclass
class Agreement:
    """Sums over positions; the properties are their means. "Ours" is judged by "theirs"."""

    positions: int = 0
    same_top: int = 0
    divergence: float = 0.0  # Σ KL(theirs ‖ ours), nats
    predicted: int = 0  # positions whose next token is known
    our_loss: float = 0.0  # Σ -log p(next token), nats
    their_loss: float = 0.0

    @property
    def top1(self) -> float:
        return self.same_top / self.positions

    @property
    def mean_kl(self) -> float:
        return self.divergence / self.positions

    @property
    def our_perplexity(self) -> float:
        return float(np.exp(self.our_loss / self.predicted))

    @property
    def their_perplexity(self) -> float:
        return float(np.exp(self.their_loss / self.predicted))

    def add(self, ours: np.ndarray, theirs: np.ndarray, token_ids: list[int]) -> None:
        """Count one sequence: logits [n, vocab] of both after each of its n tokens."""
        nexts = np.array([*token_ids[1:], -1])
        for start in range(0, len(token_ids), ROWS):
            rows = slice(start, start + ROWS)
            log_ours, log_theirs = log_softmax(ours[rows]), log_softmax(theirs[rows])
            self.positions += len(log_ours)
            self.same_top += int((log_ours.argmax(-1) == log_theirs.argmax(-1)).sum())
            self.divergence += float((np.exp(log_theirs) * (log_theirs - log_ours)).sum())
            known = np.flatnonzero(nexts[rows] >= 0)
            self.predicted += len(known)
            self.our_loss -= float(log_ours[known, nexts[rows][known]].sum())
            self.their_loss -= float(log_theirs[known, nexts[rows][known]].sum())

    def __str__(self) -> str:
        return (
            f"{self.positions} positions: top-1 agreement {self.top1:.2%}, mean KL {self.mean_kl:.5f} nats, "
            f"perplexity {self.our_perplexity:.3f} (theirs {self.their_perplexity:.3f})"
        )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [n, vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def windows(token_ids: list[int], size: int) -> Iterator[list[int]]:
    """Cut a text into sequences of `size` tokens, the last one shorter."""
    for start in range(0, len(token_ids), size):
        yield token_ids[start : start + size]


def compare(ours: Logits, theirs: Logits, token_ids: list[int], window: int) -> Agreement:
    """Run both over the text in windows that know nothing of each other."""
    agreement = Agreement()
    for sequence in windows(token_ids, window):
        agreement.add(ours(sequence), theirs(sequence), sequence)
    return agreement
