"""Guessing ahead: what followed the same tokens before, in the prompt or the answer, may follow again.

A guess costs rows of a step and changes no token: the sampler chooses at each position as it would have
without (its random number is a function of seed and position), and guesses hold while they equal its choice.
Prompt lookup (Saxena 2023) is speculative decoding (Leviathan et al. 2023) without a second model.
"""

from __future__ import annotations

MAX_DRAFTING = 2  # sequences; beyond, a step's rows are better used for the sequences themselves
_MATCH = 3  # tokens that must recur
_LEAST, _MOST = 2, 6  # tokens of a draft
_SHORTEST_PAUSE, _LONGEST_PAUSE = 4, 64  # tokens


def num_accepted(draft_ids: list[int], chosen_ids: list[int]) -> int:
    """How many of the drafts the sampler chose as well, from the first on."""
    count = 0
    while count < len(draft_ids) and draft_ids[count] == chosen_ids[count]:
        count += 1
    return count


class PromptLookup:
    """Drafts for one sequence. After a miss it pauses, longer each time; success makes drafts longer."""

    __slots__ = ("_follower", "_num_indexed", "_distance", "_length", "_pause", "_next_pause")

    def __init__(self) -> None:
        self._follower: dict[tuple[int, ...], int] = {}  # `_MATCH` tokens → position after them
        self._num_indexed = _MATCH  # every position before this one is in `_follower`
        self._distance = 0  # tokens between the place that is copied and the end; 0 = not copying
        self._length = 3
        self._pause = 0  # tokens still to let pass
        self._next_pause = _SHORTEST_PAUSE

    def propose(self, token_ids: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `token_ids`, none or at least two. Call it once a token."""
        if self._pause:
            self._pause -= 1
            return []
        length = min(self._length, most)
        if length < _LEAST or len(token_ids) <= _MATCH:
            return []
        self._index(token_ids)
        position = self._find(token_ids)
        if position is None:
            return []
        self._distance = len(token_ids) - position
        draft = token_ids[position : position + length]
        while len(draft) < length:  # what recurs reaches up to here, so it goes on with the draft itself
            draft.append(draft[len(draft) + position - len(token_ids)])
        return draft

    def record(self, num_drafted: int, num_accepted: int) -> None:
        """What became of the last draft."""
        if num_accepted == num_drafted:
            self._length = min(_MOST, self._length + 1)
            self._next_pause = _SHORTEST_PAUSE
        elif num_accepted:
            self._length = max(_LEAST, num_accepted)
        else:
            self._length = _LEAST
            self._pause = self._next_pause
            self._next_pause = min(_LONGEST_PAUSE, 2 * self._next_pause)

    def _find(self, token_ids: list[int]) -> int | None:
        """Where it went on after the last tokens before: at the place that is being copied, else the last."""
        recent = token_ids[-_MATCH:]
        position = len(token_ids) - self._distance
        if self._distance and token_ids[position - _MATCH : position] == recent:
            return position
        return self._follower.get(tuple(recent))

    def _index(self, token_ids: list[int]) -> None:
        """The last `_MATCH` tokens themselves stay out: nothing follows them yet."""
        follower, end = self._follower, len(token_ids)
        for position in range(self._num_indexed, end):
            follower[tuple(token_ids[position - _MATCH : position])] = position
        self._num_indexed = end
