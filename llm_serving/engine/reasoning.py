"""Thoughts are free, the answer behind them is bound; and thoughts may be long only up to a budget."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum

import numpy as np

from llm_serving.engine.constraint import TokenConstraint


class _State(Enum):
    BEGIN = 0  # thoughts, or the answer itself
    THINKING = 1
    ANSWER = 2


class ReasoningConstraint:
    """A `TokenConstraint`: what binds the `answer` holds behind the token that ends the thoughts.

    open_id, close_id: the tokens around thoughts. is_open: the prompt has begun them. budget: tokens of
    thoughts, then they end; None = any. eos_ids: an answer that is bound must not end before it began.
    """

    def __init__(
        self,
        answer: TokenConstraint | None,
        vocab_size: int,
        *,
        open_id: int,
        close_id: int,
        eos_ids: Collection[int] = (),
        token_bytes: Sequence[bytes] = (),
        is_open: bool = False,
        budget: int | None = None,
    ) -> None:
        self._answer = answer
        self._open_id = open_id
        self._close_id = close_id
        self._token_bytes = token_bytes
        self._left = budget
        self._state = _State.THINKING if is_open else _State.BEGIN
        num_bytes = -(-vocab_size // 8)
        self._nothing = np.empty((0, num_bytes), np.uint8)  # is forbidden
        self._close = np.zeros((1, num_bytes), np.uint8)
        _set(self._close, close_id)
        self._thoughts = self._nothing
        if answer is not None:
            self._thoughts = np.full((1, num_bytes), 0xFF, np.uint8)
            for token_id in eos_ids:
                self._thoughts[0, token_id // 8] &= ~np.uint8(1 << token_id % 8)

    @property
    def is_over(self) -> bool:
        return self._state is _State.ANSWER and self._answer is not None and self._answer.is_over

    @property
    def is_satisfied(self) -> bool:
        if self._answer is None:
            return True
        return self._state is not _State.THINKING and self._answer.is_satisfied

    def forced(self) -> list[int]:
        if self._state is _State.ANSWER and self._answer is not None:
            return self._answer.forced()
        return []

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        if self._state is _State.THINKING:
            return self._close if self._left == 0 else self._thoughts
        if self._answer is None:
            return self._nothing
        allowed = self._answer.allowed(draft_ids)
        if self._state is _State.BEGIN:
            allowed = allowed.copy()
            _set(allowed, self._open_id)
        return allowed

    def accept(self, token_id: int) -> None:
        if self._state is _State.BEGIN and token_id == self._open_id:
            self._state = _State.THINKING
        elif self._state is _State.BEGIN and self._answer is None and self._is_blank(token_id):
            pass
        elif self._state is _State.THINKING:
            if token_id == self._close_id:
                self._state = _State.ANSWER
            elif self._left is not None:
                self._left = max(0, self._left - 1)
        else:
            self._state = _State.ANSWER
            if self._answer is not None:
                self._answer.accept(token_id)

    def _is_blank(self, token_id: int) -> bool:
        return token_id < len(self._token_bytes) and not self._token_bytes[token_id].strip()


def _set(masks: np.ndarray, token_id: int) -> None:
    masks[0, token_id // 8] |= np.uint8(1 << token_id % 8)
