"""What lies behind the block pool: loads blocks from a store and saves them to it, a little in each step."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import numpy as np

from llm_serving.engine.blocks import BlockPool
from llm_serving.engine.protocol import BlockMemory, BlockStore

MOST_UNSAVED = 4096  # digests that wait to be saved
CLOSE_S = 5.0
# Writing a block takes a core from the kernels for a while, and a step waits for its slowest. While there are
# steps, so many bytes a second cost them about a hundredth; when there are none, everything is saved at once.
BUSY_BYTES_S = 4 << 20
MOST_BESIDE_A_STEP = 8
_LOAD_S = 2e-4  # first guess
_WEIGHT = 0.2  # of the last load in the mean


class BlockTier:
    """The prefix cache's second floor. Engine thread only, but for `close` and the counters.

    Saved are the full blocks of prompts: new ones, and of answers those that a later prompt goes on from.
    """

    PATIENCE = 0.5  # of the time that computing a block takes, what loading it may take

    def __init__(self, memory: BlockMemory, store: BlockStore) -> None:
        self.store = store
        self.num_dropped = 0
        self._memory = memory
        self._room = np.empty(memory.block_bytes, np.uint8)
        self._unsaved: OrderedDict[bytes, int] = OrderedDict()  # digest → depth
        self._load_s = _LOAD_S  # mean of a block
        self._loading_s = 0.0
        self._saved_s = 0.0  # when something was saved beside steps

    def load(
        self, pool: BlockPool, digests: Sequence[bytes], depth: int, block_s: float, most_s: float
    ) -> float:
        """Let the pool find as many of `digests` as there are, from the first on; the seconds it takes.

        `depth` is that of the first; `block_s` is what computing a block takes. If there are more than
        `most_s` allows, that is the result.
        """
        if self._load_s > self.PATIENCE * block_s:
            self._load_s /= 2  # or a disk that was slow once would never be asked again
            return 0.0
        begin_s = time.monotonic()
        seconds = 0.0
        for index, digest in enumerate(digests, depth):
            if pool.find(digest) is not None:
                continue
            if not self.store.has(digest):
                break
            if seconds + self._load_s > most_s:
                seconds = most_s
                break
            if not self._load(pool, digest, index):
                break
            seconds += self._load_s
        self._loading_s += time.monotonic() - begin_s
        return seconds

    def take_loading_s(self) -> float:
        """Seconds that loading took since the last call."""
        seconds, self._loading_s = self._loading_s, 0.0
        return seconds

    def keep(self, digest: bytes, depth: int) -> None:
        """A block that the pool can find is used: save it soon, if it is not kept yet."""
        if digest in self._unsaved or self.store.touch(digest, depth):
            return
        if len(self._unsaved) < MOST_UNSAVED:
            self._unsaved[digest] = depth
        else:
            self.num_dropped += 1

    def save_beside_steps(self, pool: BlockPool) -> None:
        """Save as much as `BUSY_BYTES_S` allows since the last time."""
        if self._unsaved:
            now_s = time.monotonic()
            count = int((now_s - self._saved_s) * BUSY_BYTES_S / self._memory.block_bytes)
            if count:
                self._saved_s = now_s
                self.save(pool, min(count, MOST_BESIDE_A_STEP))

    def save(self, pool: BlockPool, most: int) -> bool:
        """Save up to `most` blocks; whether there are more, and the store takes them."""
        for _ in range(min(most, len(self._unsaved))):
            digest, depth = next(iter(self._unsaved.items()))
            block = pool.find(digest)
            if block is None:
                self.num_dropped += 1
            elif not self.store.save(digest, depth, partial(self._memory.read_block, block)):
                return False
            del self._unsaved[digest]
        return bool(self._unsaved)

    def close(self, pool: BlockPool) -> None:
        """Save what is left as far as `CLOSE_S` allows, and close the store."""
        end_s = time.monotonic() + CLOSE_S
        while self._unsaved and time.monotonic() < end_s:
            if not self.save(pool, len(self._unsaved)):
                time.sleep(0.002)  # the store is busy
        self.store.close()

    def _load(self, pool: BlockPool, digest: bytes, depth: int) -> bool:
        block = pool.allocate()
        if block is None:
            return False
        begin_s = time.monotonic()
        is_there = self.store.load(digest, depth, self._room)
        if is_there:
            self._memory.write_block(block, self._room)
            pool.publish(block, digest)
            self._load_s += _WEIGHT * (time.monotonic() - begin_s - self._load_s)
        pool.release([block])
        return is_there
