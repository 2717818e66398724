"""What a sequence may say, token by token: JSON of a schema, a regular expression, a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class TokenConstraint(Protocol):
    """Belongs to one sequence, whose tokens it is given in order. Engine thread only; raises nothing."""

    @property
    def is_over(self) -> bool:
        """Nothing may follow, or it cannot go on. The sequence ends here."""
        ...

    @property
    def is_satisfied(self) -> bool:
        """What was said so far is whole."""
        ...

    def forced(self) -> list[int]:
        """Tokens that must come next, or one way to write them; often none. A draft: it need not be taken."""
        ...

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        """uint8 [1 + drafts, vocabulary / 8, rounded up]: what may come next, and behind each of the drafts.

        A bit for each token, the lowest bit first. Tokens that end an answer are among them where it may end.
        Drafts are `forced` ones. No rows at all: nothing is forbidden. Valid until the next call.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Go on behind this token, which ends nothing."""
        ...


def forbid_others(logits: np.ndarray, allowed: np.ndarray) -> None:
    """Make all that is not `allowed` impossible: float32 [vocabulary], in place."""
    logits[np.unpackbits(allowed, count=len(logits), bitorder="little") == 0] = -np.inf
