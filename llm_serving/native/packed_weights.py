"""The matrices of a core plan: from a packed file where there is one, else packed, and kept for next time."""

from __future__ import annotations

import atexit
import hashlib
import threading
from typing import Any, cast

import numpy as np

from llm_serving.checkpoints import Checkpoint, Tensor, content_digest, release
from llm_serving.native.core import load_core
from llm_serving.native.packed_cache import PackedCache
from llm_serving.native.packed_file import PackedFile
from llm_serving.native.tables import halves_order

# A loading thread is a daemon. Ended by the interpreter on its way out of C++, it would abort the process.
# So the end waits for the tensor at hand, and lets no other begin.
_in_core = threading.Lock()
atexit.register(_in_core.acquire)


class PackedWeights:
    """Fills a core plan with matrices. The bytes are the same whichever way they come.

    In memory there is one copy: packed panels, or a mapping of the file; of the checkpoint's pages only
    those of the tensor being packed.
    """

    def __init__(
        self, core: Any, checkpoint: Checkpoint, weight_format: str, cache: PackedCache | None
    ) -> None:
        self._core = core
        self._checkpoint = checkpoint
        self._cache = cache
        self._digest = self._name(weight_format) if cache is not None and cache.limit else None
        # Of each matrix: tensor, how its rows stand, format, checksum.
        self.sums: list[tuple[str, str, str, int]] = []
        self._copies = False
        self._missed = False
        self._file = self._open()
        self._pending = None
        if cache is not None and self._digest is not None and self._file is None:
            self._pending = cache.write(self._digest, checkpoint.path, weight_format)

    def matrix(self, tensor: Tensor, interleaved: int, weight_format: str, rotated: int = 0) -> int:
        """The number of the tensor's matrix in the plan; `interleaved` and `rotated` as in `Projection`.

        Raises: ValueError for a kind, shape or format that cannot be packed.
        """
        pairs = f"{interleaved}/{rotated}" if rotated else str(interleaved)
        key = f"{tensor.name} {pairs} {weight_format}"
        order = halves_order(tensor.shape[0], interleaved, rotated) if interleaved else None
        with _in_core:
            number = self._stored(key, tensor, pairs)
            return self._pack(key, tensor, pairs, weight_format, order) if number is None else number

    def note_unread(self, tensor: Tensor) -> None:
        """A tensor stays in its file; `sums` names it by stamps and samples, for a sum would read it all."""
        content = content_digest(self._checkpoint.files)
        named = int(content[:16], 16) if content else self._core.checksum(tensor.as_rows().data)
        self.sums.append((tensor.name, "", tensor.kind, named))

    def finish(self) -> None:
        """All matrices are there: keep what was packed, if the model is still what it was when opened."""
        if self._missed and self._cache is not None and self._digest is not None:
            self._cache.reject(self._digest, "they lack a matrix")
        if self._pending is None:
            return
        if content_digest(self._checkpoint.files) is None:
            self._pending.discard()
        else:
            self._pending.publish()
        self._pending = None

    def discard(self) -> None:
        """The plan is not going to be complete: keep nothing."""
        if self._pending is not None:
            self._pending.discard()
            self._pending = None

    def _name(self, weight_format: str) -> str | None:
        content = content_digest(self._checkpoint.files)
        if content is None:
            return None
        return hashlib.sha256(f"{content} {weight_format} {load_core().PACKING}".encode()).hexdigest()[:40]

    def _open(self) -> PackedFile | None:
        if self._cache is None or self._digest is None:
            return None
        file = self._cache.open(self._digest)
        if file is None:
            return None
        self._copies = not file.is_fast_to_map()
        for entry in file.entries.values():
            with _in_core:
                checksum = self._core.checksum(file.panels(entry))
            if checksum != entry.checksum:
                self._cache.reject(self._digest, "their bytes are damaged")
                return None
        return file

    def _stored(self, key: str, tensor: Tensor, pairs: str) -> int | None:
        entry = self._file.entries.get(key) if self._file is not None else None
        if self._file is None or entry is None or (entry.rows, entry.cols) != tensor.shape:
            self._missed = self._file is not None
            return None
        panels = self._file.panels(entry)
        self.sums.append((tensor.name, pairs, entry.format, entry.checksum))
        number = self._core.adopt(entry.format, panels, entry.rows, entry.cols, self._copies)
        if self._copies:
            release(panels)
        return cast(int, number)

    def _pack(
        self, key: str, tensor: Tensor, pairs: str, weight_format: str, order: np.ndarray | None
    ) -> int:
        rows, cols = tensor.shape
        own = tensor.as_rows()
        number: int = self._core.pack(own.kind, own.data, rows, cols, weight_format, order)
        release(tensor.data)
        if tensor.scales is not None:
            release(tensor.scales)
        form, panels = self._core.panels(number)
        checksum: int = self._core.checksum(panels)
        self.sums.append((tensor.name, pairs, form, checksum))
        if self._pending is not None:
            self._pending.add(key, form, (rows, cols), panels, checksum)
        return number
