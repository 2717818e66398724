"""Who gets the prefill budget, and a place, first. Pure bookkeeping; engine thread only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from llm_serving.engine.sequence import Sequence

PATIENCE_S = 2.0  # a prompt that has waited for longer is no longer overtaken by shorter ones
# Who has waited for longer is a backlog. Others only came together: hurrying them makes them begin together
# and end together, and so do those that come after them.
LATE_S = 0.25


class PrefillPolicy:
    """Orders sequences that have a prompt to compute.

    1. Lower `priority` numbers; strictly, so a stream of urgent requests can hold up the others.
    2. Who was running before and had to give way.
    3. Fairness keys take turns: whose has the fewest sequences at work, then the fewest tokens served.
    4. Of one key: who has waited beyond `PATIENCE_S`, by arrival; then the shortest remaining prompt.
    """

    def __init__(self) -> None:
        self._num_present: Counter[str] = Counter()  # sequences by key, waiting and running
        self._num_served: dict[str, int] = {}  # tokens by key; as many entries as there are API keys

    def arrive(self, sequence: Sequence) -> None:
        """A key that comes back joins the others where they are: absence earns no credit."""
        key = sequence.request.fairness_key
        if not self._num_present[key]:
            least = min((self._num_served[other] for other in self._num_present if other != key), default=0)
            self._num_served[key] = max(self._num_served.get(key, 0), least)
        self._num_present[key] += 1

    def leave(self, sequence: Sequence) -> None:
        key = sequence.request.fairness_key
        self._num_present[key] -= 1
        if not self._num_present[key]:
            del self._num_present[key]

    def serve(self, sequence: Sequence, num_tokens: int) -> None:
        """`num_tokens` of this sequence were computed."""
        self._num_served[sequence.request.fairness_key] += num_tokens

    def num_late(self, candidates: list[Sequence], now_s: float) -> int:
        """How many of them have waited beyond `LATE_S`; `now_s` is `time.monotonic()`."""
        return sum(now_s - sequence.timings.arrived_s > LATE_S for sequence in candidates)

    def order(
        self,
        candidates: list[Sequence],
        decoding: Iterable[Sequence],
        num_remaining: Callable[[Sequence], int],
        now_s: float,
    ) -> list[Sequence]:
        """The candidates, first come the most deserving. `decoding` holds places and is no candidate.

        `num_remaining` tells how many tokens are still to be computed; `now_s` is `time.monotonic()`.
        """
        if len(candidates) < 2:
            return candidates

        def rank_of_its_key(sequence: Sequence) -> tuple[int, bool, int, int]:
            is_early = now_s - sequence.timings.arrived_s <= PATIENCE_S
            remaining = num_remaining(sequence) if is_early else 0
            return sequence.request.priority, is_early, remaining, sequence.arrival

        ranked = sorted(candidates, key=rank_of_its_key)
        if len(self._num_present) > 1 or any(s.timings.num_preemptions for s in ranked):
            num_at_work = Counter(sequence.request.fairness_key for sequence in decoding)
            turns = {}
            for sequence in ranked:
                key = sequence.request.fairness_key
                turns[sequence] = (num_at_work[key], self._num_served[key])
                num_at_work[key] += 1
            ranked.sort(key=lambda s: (s.request.priority, not s.timings.num_preemptions, turns[s]))
        return ranked
