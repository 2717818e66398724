"""The thread that looks at pictures: what it remembers, when it stops, and whom it turns away."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs the extra: pip install 'llm-serving[images]'")

from pictures import png_url
from seeing_model import IMAGE_ID, ROWS, TILING, FakeEyes

from llm_serving.backends.sight import Sight
from llm_serving.chat.pictures import Picture
from llm_serving.errors import ContextLengthExceeded, InvalidRequest, Overloaded, RequestCancelled
from llm_serving.service import vision as module
from llm_serving.service.vision import Limits, Vision

pytestmark = pytest.mark.anyio


def of(seed: int = 0, is_low: bool = True) -> Picture:
    return Picture(url=png_url(seed=seed), where=f"picture.{seed}", is_low=is_low)


def tokenize(expansions: list[str]) -> list[int]:
    return [i for text in expansions for i in [1] + [IMAGE_ID] * ROWS * text.count("<global-img>") + [2]]


def vision_of(eyes: FakeEyes, max_waiting: int = 4) -> Vision:
    return Vision(Sight(TILING, eyes), IMAGE_ID, Limits(8, 10_000, max_waiting))


class SlowEyes(FakeEyes):
    """Waits at each tile until it may look."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_look = threading.Event()

    def encode(self, tile: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.may_look.wait(10)
        return super().encode(tile)


async def test_rows_go_where_the_places_are() -> None:
    vision = vision_of(FakeEyes())
    prompt = await vision.read([of(0), of(1)], tokenize, 100)
    assert [each.start for each in prompt.given] == [1, 7]
    assert len({each.digest for each in prompt.given}) == 2
    assert all(each.rows.shape == (ROWS, 8) for each in prompt.given)
    vision.close()


async def test_what_was_seen_lately_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    eyes = FakeEyes()
    vision = vision_of(eyes)
    first = await vision.read([of(0), of(0)], tokenize, 100)
    again = await vision.read([of(0)], tokenize, 100)
    assert eyes.num_tiles == 1
    assert first.given[0].digest == first.given[1].digest == again.given[0].digest
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * ROWS * 8 * 4)
    for seed in (1, 2, 0):
        await vision.read([of(seed)], tokenize, 100)
    assert eyes.num_tiles == 4, "two are kept; the oldest was forgotten"
    vision.close()


async def test_little_of_a_picture_is_another_picture() -> None:
    eyes = FakeEyes()
    vision = vision_of(eyes)
    with pytest.raises(InvalidRequest, match="does not show"):  # our tokens are those of one tile
        await vision.read([of(0, is_low=False)], tokenize, 1000)
    await vision.read([of(0)], tokenize, 100)
    assert eyes.num_tiles == 1
    vision.close()


async def test_counting_looks_at_nothing() -> None:
    eyes = FakeEyes()
    vision = vision_of(eyes)
    prompt = await vision.read([of(0)], tokenize, 100, looks=False)
    assert (len(prompt.ids), prompt.given, eyes.num_tiles) == (6, (), 0)
    vision.close()


@pytest.mark.parametrize("most", [4, 6])
async def test_no_room(most: int) -> None:
    eyes = FakeEyes()
    vision = vision_of(eyes)
    with pytest.raises(ContextLengthExceeded):
        await vision.read([of(0)], tokenize, most)
    assert eyes.num_tiles == 0
    vision.close()


async def test_who_leaves_is_not_worked_for() -> None:
    eyes = SlowEyes()
    vision = vision_of(eyes)
    asked = asyncio.create_task(vision.read([of(0), of(1), of(2)], tokenize, 100))
    await asyncio.to_thread(eyes.begun.wait, 10)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert eyes.is_interrupted
    eyes.may_look.set()
    await vision.read([of(3)], tokenize, 100)
    assert not eyes.is_interrupted
    assert eyes.num_tiles == 2, "the tile at hand, and the next request's"
    vision.close()


async def test_a_queue_has_an_end_and_so_has_the_model() -> None:
    eyes = SlowEyes()
    vision = vision_of(eyes, max_waiting=1)
    asked = [asyncio.create_task(vision.read([of(i), of(9)], tokenize, 100)) for i in range(2)]
    await asyncio.to_thread(eyes.begun.wait, 10)
    with pytest.raises(Overloaded):
        await vision.read([of(5)], tokenize, 100)
    closing = asyncio.create_task(asyncio.to_thread(vision.close))
    while not vision._closed.is_set():
        await asyncio.sleep(0.01)
    assert eyes.is_interrupted
    eyes.may_look.set()
    for each in asked:
        with pytest.raises(RequestCancelled):
            await each
    await closing
    assert eyes.is_closed
    assert eyes.num_tiles == 1
    with pytest.raises(Overloaded, match="unloaded"):
        await vision.read([of(5)], tokenize, 100)
