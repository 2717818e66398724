"""Prompts with pictures: decoded, cut, tokenised and encoded, one at a time on a thread of a model."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np

from llm_serving.backends.sight import Sight
from llm_serving.chat.pictures import Picture
from llm_serving.engine.request import GivenRows
from llm_serving.errors import ContextLengthExceeded, InvalidRequest, Overloaded, RequestCancelled
from llm_serving.images.data_url import bytes_of_url, check_url
from llm_serving.images.decoding import decode
from llm_serving.images.pixels import Grid

KEPT_BYTES = 64 << 20  # of rows: a conversation sends its pictures again with every turn

Tokenize = Callable[[list[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the rows that stand for some of them."""

    ids: list[int]
    given: tuple[GivenRows, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes."""

    max_images: int  # in one request
    max_pixels: int  # of one image
    max_waiting: int  # requests, beside the one at work


@dataclass(slots=True, eq=False)
class _Seen:
    """A picture: its tiles, uint8, until there are rows of each."""

    key: bytes
    grid: Grid
    tiles: np.ndarray | None
    rows: list[np.ndarray]


class Vision:
    """What a model sees with, and what it has seen lately. Any event loop may ask."""

    def __init__(self, sight: Sight, image_id: int, limits: Limits) -> None:
        self._sight = sight
        self._image_id = image_id
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vision")
        self._lock = threading.Lock()
        self._num_asked = 0
        self._at_work: threading.Event | None = None  # of the request that is looked at
        self._closed = threading.Event()
        self._kept: OrderedDict[bytes, _Seen] = OrderedDict()  # by content, oldest use first
        self._kept_bytes = 0

    @property
    def mark(self) -> str:
        """What the model's template writes for each picture."""
        return self._sight.wording.mark

    @property
    def marks(self) -> tuple[str, str]:
        """The same, and the token of a row: what no text may hold beside a picture."""
        return self._sight.wording.mark, self._sight.wording.place

    async def read(
        self, pictures: Sequence[Picture], tokenize: Tokenize, most: int, *, looks: bool = True
    ) -> Prompt:
        """The prompt that `tokenize` makes of the texts for the pictures; of fewer than `most` tokens.

        Without `looks` it has no rows: to count tokens is quick.
        Raises: InvalidRequest that names a picture, ContextLengthExceeded, Overloaded, RequestCancelled (the
        model was unloaded), what `tokenize` raises.
        """
        self._check(pictures)
        left = threading.Event()
        job = partial(self._read, pictures, tokenize, most, looks, left)
        with self._lock:
            if self._closed.is_set():
                raise Overloaded("The model takes no new requests: it is being unloaded.")
            if self._num_asked > self._limits.max_waiting:
                raise Overloaded(f"{self._num_asked} requests with images are waiting. Try again soon.")
            asked = asyncio.get_running_loop().run_in_executor(self._thread, self._work, job, left)
            self._num_asked += 1
        try:
            return await asked
        finally:
            left.set()
            with self._lock:
                self._num_asked -= 1
                if self._at_work is left:
                    self._sight.encoder.interrupt()

    def close(self) -> None:
        """End the thread, and give memory back."""
        with self._lock:
            self._closed.set()
            self._sight.encoder.interrupt()
        self._thread.shutdown()
        self._kept.clear()
        self._sight.encoder.close()

    def _check(self, pictures: Sequence[Picture]) -> None:
        most = self._limits.max_images
        if len(pictures) > most:
            raise InvalidRequest(
                f"The request has {len(pictures)} images; up to {most} are read (--max-images).",
                pictures[most]["where"],
            )
        for picture in pictures:
            check_url(picture["url"], picture["where"])

    def _work(self, job: Callable[[], Prompt], left: threading.Event) -> Prompt:
        with self._lock:
            self._at_work = left
            if not self._closed.is_set():
                self._sight.encoder.resume()
        try:
            return job()
        finally:
            with self._lock:
                self._at_work = None

    def _read(
        self, pictures: Sequence[Picture], tokenize: Tokenize, most: int, looks: bool, left: threading.Event
    ) -> Prompt:
        seen: list[_Seen] = []
        num_places = 0
        for picture in pictures:
            self._stop_if(left)
            seen.append(self._open(picture, seen))
            num_places += seen[-1].grid.tiles * self._rows(seen[-1])
            if num_places >= most:  # before there are more tiles than any prompt holds
                raise ContextLengthExceeded(num_places, 0, most)
        ids = tokenize([self._sight.wording.expansion(each.grid, self._rows(each)) for each in seen])
        starts = self._starts(ids, [self._rows(each) for each in seen for _ in range(each.grid.tiles)])
        if len(ids) >= most:
            raise ContextLengthExceeded(len(ids), 0, most)
        if not looks:
            return Prompt(ids)
        tiles = [tile for each in seen for tile in self._look(each, left)]
        return Prompt(ids, tuple(GivenRows(start, *tile) for start, tile in zip(starts, tiles, strict=True)))

    def _rows(self, seen: _Seen) -> int:
        """That each tile becomes."""
        return math.prod(self._sight.encoder.shape(seen.grid))

    def _starts(self, ids: list[int], rows: list[int]) -> list[int]:
        """Where the rows of each tile begin. Raises: InvalidRequest if there are not places for all."""
        places = np.flatnonzero(np.array(ids, np.int64) == self._image_id)
        before = np.cumsum([0, *rows])
        fits = len(places) == before[-1]
        starts = places[before[:-1]] if fits else places[:0]
        if not fits or not (places == np.repeat(starts - before[:-1], rows) + np.arange(len(places))).all():
            raise InvalidRequest("The model's chat template does not show these images.", "messages")
        return [int(start) for start in starts]

    def _open(self, picture: Picture, others: Sequence[_Seen]) -> _Seen:
        where = picture["where"]
        data = bytes_of_url(picture["url"], where)
        whole = self._sight.tiling
        tiling = whole.low if picture["is_low"] else whole
        key = blake2b(data, digest_size=16, key=b"" if tiling is whole else b"low").digest()
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        if (same := next((each for each in others if each.key == key), None)) is not None:
            return same
        image = decode(data, self._limits.max_pixels, where)
        try:
            tiles, grid = tiling.cut(image)
        except ValueError as error:
            raise InvalidRequest(f"'{where}' {error}.", where) from None
        return _Seen(key, grid, tiles, [])

    def _look(
        self, seen: _Seen, left: threading.Event
    ) -> list[tuple[np.ndarray, bytes, tuple[int, int] | None]]:
        """The rows of each tile, with their digest and shape."""
        if seen.tiles is not None:
            for tile in seen.tiles:
                self._stop_if(left)
                seen.rows.append(self._sight.encoder.encode(self._sight.tiling.normalized(tile)))
            seen.tiles = None
            self._keep(seen)
        shape = self._sight.encoder.shape(seen.grid) if self._sight.by_axes else None
        person = b"" if shape is None else b"%d x %d" % shape
        digests = [blake2b(rows.tobytes(), digest_size=16, person=person).digest() for rows in seen.rows]
        return [(rows, digest, shape) for rows, digest in zip(seen.rows, digests, strict=True)]

    def _keep(self, seen: _Seen) -> None:
        self._kept[seen.key] = seen
        self._kept_bytes += sum(rows.nbytes for rows in seen.rows)
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= sum(rows.nbytes for rows in oldest.rows)

    def _stop_if(self, left: threading.Event) -> None:
        if left.is_set() or self._closed.is_set():
            raise RequestCancelled()
