"""The `BlockStore` of the engine over a directory: reads at once, writes on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llm_serving.blockstore.block_file import HEADER_BYTES, BlockFileError, read_block, write_block
from llm_serving.blockstore.directory import BlockDirectory

logger = logging.getLogger(__name__)

QUEUE_BYTES = 32 << 20  # memory for blocks that wait to be written
LEAST_QUEUE = 4
TOUCH_S = 60.0  # a use is noted if the last one noted is older
MAX_TOUCHES = 4096
GATHER_S = 0.1  # who wakes up beside busy kernel workers takes one's core: the less often the better
FLUSH_S = 5.0


class DiskBlockStore:
    """Blocks of one model in `directory`, which holds up to `limit` bytes of any models' blocks.

    `model` names what computed the blocks: 16 bytes that differ whenever any block's bytes could.
    `has`, `touch`, `load`, `save` are for one thread, the rest for any. Nothing raises: a disk that refuses
    costs one line in the log, and from then on there are no writes, or no reads.
    """

    def __init__(self, directory: Path, limit: int, model: bytes, block_bytes: int) -> None:
        self._directory = BlockDirectory(directory, limit, model)
        self._model = model
        self._file_bytes = HEADER_BYTES + block_bytes
        self._block_bytes = block_bytes
        self._most_buffers = max(LEAST_QUEUE, QUEUE_BYTES // block_bytes)
        self._many = self._most_buffers // 2  # that do not wait for others to be written with
        self._buffers: list[np.ndarray] = []  # made and not in use
        self._num_buffers = 0
        self._known: dict[bytes, float] = {}  # digests on the disk → when their last use was noted
        self._num_bytes = 0
        self._num_new_bytes = 0  # of them, written since the directory was looked through
        self._num_written = self._num_read = 0
        self._reads = self._writes = True
        self._wake = threading.Condition()
        self._blocks: deque[tuple[bytes, int, np.ndarray]] = deque()
        self._touches: deque[tuple[bytes, int]] = deque(maxlen=MAX_TOUCHES)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="block-writer", daemon=True)
        self._thread.start()

    @property
    def num_read(self) -> int:
        return self._num_read

    @property
    def num_written(self) -> int:
        return self._num_written

    @property
    def num_bytes(self) -> int:
        """In the directory, as far as this process has seen."""
        return self._num_bytes

    def has(self, digest: bytes) -> bool:
        """Whether `load` would probably succeed."""
        return self._reads and (digest in self._known or os.path.exists(self._directory.file(digest)))

    def load(self, digest: bytes, depth: int, out: np.ndarray) -> bool:
        """Fill `out`, uint8 [block_bytes], with the block; if False, `out` holds anything."""
        if not self._reads:
            return False
        path = self._directory.file(digest)
        try:
            read_block(path, self._model, digest, out)
        except FileNotFoundError:
            self._known.pop(digest, None)
            return False
        except BlockFileError as error:
            logger.warning("the block %s is removed: %s", path, error)
            self._known.pop(digest, None)
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError as error:
            logger.warning("no more blocks are read from %s: %s", self._directory.path, error)
            self._reads = False
            return False
        self._num_read += 1
        self._known.setdefault(digest, -TOUCH_S)
        self.touch(digest, depth)
        return True

    def touch(self, digest: bytes, depth: int) -> bool:
        """Note a use of a block; False if it is not known to be there, and should be saved."""
        noted_s = self._known.get(digest)
        if noted_s is None:
            return not self._writes
        now_s = time.monotonic()
        if now_s - noted_s >= TOUCH_S:
            self._known[digest] = now_s
            with self._wake:
                self._touches.append((digest, depth))
                if len(self._touches) == 1:
                    self._wake.notify()
        return True

    def save(self, digest: bytes, depth: int, read: Callable[[np.ndarray], None]) -> bool:
        """Have a block written soon; False while too many wait. `read` fills an array as `load` does.

        `depth` is the number of blocks before it in its prefix. What comes late is of use only with what is
        before it, so for each of them it counts as used a second earlier, and goes first.
        """
        with self._wake:
            if not self._writes:
                return True
            if self._buffers:
                buffer = self._buffers.pop()
            elif self._num_buffers < self._most_buffers:
                self._num_buffers += 1
                buffer = np.empty(self._block_bytes, np.uint8)
            else:
                return False
        read(buffer)
        with self._wake:
            if self._writes:
                self._blocks.append((digest, depth, buffer))
                if len(self._blocks) in (1, self._many):
                    self._wake.notify()
        return True

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Write what waits, for so long at most."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._directory.create()
            self._look_through()
            while self._wait():
                self._do_next()
        except OSError as error:
            logger.warning("no more blocks are kept in %s: %s", self._directory.path, error)
            with self._wake:
                self._writes = False
                self._blocks.clear()
                self._buffers.clear()

    def _wait(self) -> bool:
        with self._wake:
            if not (self._blocks or self._touches):
                self._wake.wait_for(lambda: self._blocks or self._touches or self._closing)
                self._wake.wait_for(lambda: self._closing or len(self._blocks) >= self._many, GATHER_S)
            return bool(self._blocks or self._touches)

    def _do_next(self) -> None:
        if self._touches:
            digest, depth = self._touches.popleft()
            self._set_used(digest, depth)
            return
        digest, depth, data = self._blocks[0]
        if not self._directory.file(digest).exists():
            self._write(digest, data)
        self._set_used(digest, depth)
        self._known[digest] = time.monotonic()
        with self._wake:
            self._blocks.popleft()
            self._buffers.append(data)

    def _write(self, digest: bytes, data: np.ndarray) -> None:
        directory = self._directory
        if self._num_bytes + self._file_bytes > directory.limit or self._num_new_bytes > directory.trim_bytes:
            self._look_through()
        write_block(directory.file(digest), directory.partial(), self._model, digest, data)
        self._num_bytes += self._file_bytes
        self._num_new_bytes += self._file_bytes
        self._num_written += 1

    def _set_used(self, digest: bytes, depth: int) -> None:
        used_s = time.time() - depth
        with contextlib.suppress(FileNotFoundError):  # another process found that it had to go
            os.utime(self._directory.file(digest), (used_s, used_s))

    def _look_through(self) -> None:
        contents = self._directory.trim()
        known, long_ago_s = self._known, time.monotonic() - TOUCH_S
        self._known = {digest: known.get(digest, long_ago_s) for digest in contents.digests}
        self._num_bytes = contents.num_bytes
        self._num_new_bytes = 0
