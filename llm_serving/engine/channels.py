"""Messages on channels, as of gpt-oss: thoughts up to a budget, and an answer or a call that is bound."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from llm_serving.engine.constraint import TokenConstraint


class Channel(Enum):
    """What a message is for, as its header says."""

    ANALYSIS = "analysis"  # thoughts
    FINAL = "final"  # the answer
    PREAMBLE = "preamble"  # what the user is told before a call
    CALL = "call"  # of a function, whose name comes next


@dataclass(frozen=True, slots=True)
class ChannelIds:
    """Tokens: `begun` begins a message, and the prompt ends with it; then comes the header of a channel."""

    begun: tuple[int, ...]
    headers: Mapping[Channel, tuple[int, ...]]  # all begin with one token; those of bodies end with another
    end: int  # of a message


class ChannelConstraint:
    """A `TokenConstraint`: what binds the `answer` holds behind the header of the channel `bound`.

    is_required: no other channel is for the user, and none but thoughts comes before it. budget: tokens of
    thoughts, then they end; None = any. eos_ids: an answer that is bound must not end while it thinks.
    """

    def __init__(
        self,
        answer: TokenConstraint | None,
        vocab_size: int,
        ids: ChannelIds,
        *,
        bound: Channel | None = None,
        is_required: bool = False,
        eos_ids: Collection[int] = (),
        budget: int | None = None,
    ) -> None:
        self._answer = answer
        self._bound = bound
        self._is_required = is_required
        self._ids = ids
        self._left = budget
        self._channel: Channel | None = None  # of the message at hand; None: in its header
        self._header = list(ids.begun)
        self._num_bytes = -(-vocab_size // 8)
        self._nothing = np.empty((0, self._num_bytes), np.uint8)  # is forbidden
        header = ids.headers[Channel.ANALYSIS]
        marks = {ids.begun[0], header[0], header[-1]}  # a message that has not ended begins no other
        self._body = ~self._only(marks | set(eos_ids if answer is not None else ()))

    @property
    def is_over(self) -> bool:
        return self._is_bound and self._answer is not None and self._answer.is_over

    @property
    def is_satisfied(self) -> bool:
        if self._answer is None:
            return True
        if self._is_bound:
            return self._answer.is_satisfied
        return self._channel is Channel.FINAL and not self._is_required

    def forced(self) -> list[int]:
        return self._answer.forced() if self._is_bound and self._answer is not None else []

    def allowed(self, draft_ids: Sequence[int] = ()) -> np.ndarray:
        if self._channel is None:
            at = len(self._header)
            return self._only({header[at] for header in self._headers().values()})
        if self._is_bound and self._answer is not None:
            return self._answer.allowed(draft_ids)
        if self._channel is Channel.ANALYSIS and self._left == 0:
            return self._only({self._ids.end})
        return self._body if self._channel in (Channel.ANALYSIS, Channel.PREAMBLE) else self._nothing

    def accept(self, token_id: int) -> None:
        if self._channel is None:
            self._header.append(token_id)
            found = (c for c, header in self._headers().items() if header == tuple(self._header))
            self._channel = next(found, None)
        elif self._is_bound and self._answer is not None:
            self._answer.accept(token_id)
        elif self._channel is not Channel.FINAL and token_id == self._ids.end:
            self._channel, self._header = None, []
        elif self._channel is Channel.ANALYSIS and self._left is not None:
            self._left = max(0, self._left - 1)

    @property
    def _is_bound(self) -> bool:
        return self._channel is not None and self._channel is self._bound

    def _headers(self) -> dict[Channel, tuple[int, ...]]:
        """Those that what stands there may become."""
        begun = tuple(self._header)
        whole = {channel: self._ids.begun + header for channel, header in self._ids.headers.items()}
        return {c: header for c, header in whole.items() if self._may(c) and header[: len(begun)] == begun}

    def _may(self, channel: Channel) -> bool:
        if channel is Channel.ANALYSIS:
            return self._left != 0
        return not self._is_required or channel is self._bound

    def _only(self, token_ids: Collection[int]) -> np.ndarray:
        """uint8 [1, vocabulary / 8]: the mask that allows these."""
        mask = np.zeros((1, self._num_bytes), np.uint8)
        for token_id in token_ids:
            mask[0, token_id // 8] |= np.uint8(1 << token_id % 8)
        return mask
