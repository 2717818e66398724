"""Where states of recurrent layers lie: a slot for each running sequence, and snapshots. Engine thread only.

Keys and values of a token serve whoever has the same tokens up to it. A state sums up all tokens so far, and
the next one replaces it: what is to be found again must be left behind. So where a sequence passes the end of
a block it leaves a snapshot under that block's digest. Its state is written there, and it goes on from there
into its own slot, which costs no copy.

    slots   [ one for each running sequence, by its row | snapshots, of which the least recently used goes ]
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving.engine.blocks import BlockPool
from llm_serving.engine.sequence import Sequence


class StateSlots:
    """Says which slots a step reads and writes, and keeps those that others may go on from.

    Two snapshots stay until there is no room: at the end of a prompt, and where it begins to differ from
    others (Pan et al. 2025, "Marconi"). One more goes along with the sequence, behind its last full block.
    """

    def __init__(self, num_states: int, max_running: int, block_size: int) -> None:
        self.pool = BlockPool(num_states - max_running)
        self._first = max_running
        self._block_size = block_size

    def open(self, sequence: Sequence, num_shared: int) -> None:
        """A sequence is admitted; others have its first `num_shared` blocks, or will."""
        at_end = (sequence.num_prompt_tokens - 1) // self._block_size
        sequence.stops = tuple(sorted({min(num_shared, at_end), at_end} - {0}))

    def close(self, sequence: Sequence) -> None:
        """A sequence is done, or gives way; its snapshots stay."""
        self._let_go(sequence)
        sequence.state, sequence.snapshot, sequence.stops = -1, None, ()

    def has(self, digest: bytes) -> bool:
        return self.pool.find(digest) is not None

    def restore(self, sequence: Sequence, digest: bytes) -> None:
        """Go on from the snapshot of this digest, which there is."""
        slot = self.pool.find(digest)
        assert slot is not None
        self.pool.acquire(slot)
        self._let_go(sequence)
        sequence.state = self._first + slot

    def segments(self, sequence: Sequence, count: int, begin: int) -> list[tuple[int, int, int]]:
        """Rows of `Step.state_segments` for its next `count` tokens, which are those from `begin` on."""
        rows = []
        first = sequence.num_computed_tokens
        source, end = sequence.state, first + count
        for index in self._ends(sequence, first, end):
            if sequence.snapshot is not None and index not in sequence.stops:
                self.pool.discard(sequence.snapshot)
            slot = self.pool.allocate()
            if slot is None:  # others go on from all there are
                break
            sequence.leaving.append((index, slot))
            position = index * self._block_size
            rows.append((begin + position - first, source, self._first + slot))
            source = self._first + slot
        if not rows or rows[-1][0] < begin + count:
            rows.append((begin + count, source, sequence.slot))
        return rows

    def commit(self, sequence: Sequence, end: int) -> None:
        """The step ran: `end` tokens are in its state. Digests of its full blocks must be known."""
        self._let_go(sequence)
        sequence.state = sequence.slot
        for index, slot in sequence.leaving:
            digest = sequence.digests[index - 1]
            self.pool.publish(slot, digest)
            if index * self._block_size == end:
                sequence.state = self._first + slot
            else:
                self.pool.release([slot])
            if sequence.snapshot is not None:
                self.pool.discard(sequence.snapshot)
                sequence.snapshot = None
            if index not in sequence.stops and self.pool.find(digest) == slot:
                sequence.snapshot = digest
        sequence.leaving.clear()

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Verify slots against the sequences. Raises: AssertionError."""
        held = []
        for sequence in running:
            if sequence.leaving or (sequence.state < 0) != (sequence.num_computed_tokens == 0):
                raise AssertionError("a sequence's state is not that of its computed tokens")
            if 0 <= sequence.state < self._first and sequence.state != sequence.slot:
                raise AssertionError("a sequence's state is another one's")
            if sequence.state >= self._first:
                held.append([sequence.state - self._first])
        self.pool.check_integrity(held)

    def _ends(self, sequence: Sequence, first: int, end: int) -> list[int]:
        """At the end of which blocks, by their number, to leave what cannot be found yet."""
        last = end // self._block_size
        wanted = {*sequence.stops, last}
        return [
            index
            for index in sorted(wanted)
            if first < index * self._block_size <= end and not self._is_kept(sequence, index)
        ]

    def _is_kept(self, sequence: Sequence, index: int) -> bool:
        return index <= len(sequence.digests) and self.has(sequence.digests[index - 1])

    def _let_go(self, sequence: Sequence) -> None:
        if sequence.state >= self._first:
            self.pool.release([sequence.state - self._first])
