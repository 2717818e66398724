"""Kept events: each reader gets all behind its number, in order, or hears that they are gone."""

from __future__ import annotations

import asyncio

import pytest

from llm_serving.errors import InvalidRequest
from llm_serving.service.event_log import EventLog

pytestmark = pytest.mark.anyio


def events(start: int, stop: int) -> list[bytes]:
    return [b"%2d," % number for number in range(start, stop)]


async def read(log: EventLog, after: int = -1) -> bytes:
    return b"".join([piece async for piece in log.read(after)])


async def test_readers_of_different_times_read_the_same() -> None:
    log = EventLog()
    readers = [asyncio.create_task(read(log))]
    for start in range(0, 20, 2):
        log.add(events(start, start + 2))
        readers += [asyncio.create_task(read(log)), asyncio.create_task(read(log, start))]
        await asyncio.sleep(0)
    log.complete()
    whole = b"".join(events(0, 20))
    texts = await asyncio.gather(*readers)
    assert texts[0] == whole
    assert texts[1::2] == [whole] * 10
    assert texts[2::2] == [b"".join(events(start + 1, 20)) for start in range(0, 20, 2)]
    assert await read(log, 19) == b""


async def test_a_reader_that_leaves_does_not_end_others() -> None:
    log = EventLog()
    log.add(events(0, 1))
    leaving, staying = (asyncio.create_task(read(log)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    log.add(events(1, 3))
    log.complete()
    assert await staying == b"".join(events(0, 3))


async def test_the_oldest_beyond_the_bound_are_forgotten() -> None:
    log = EventLog(max_bytes=10)
    for number in range(5):
        log.add(events(number, number + 1))
    assert log.num_bytes == 9
    log.complete()
    assert await read(log, 1) == b"".join(events(2, 5))
    with pytest.raises(InvalidRequest, match="before number 2 are not kept any more. Send starting_after=1"):
        log.require(0)
    log.require(4)
    with pytest.raises(InvalidRequest, match="the last one so far has 4"):
        log.require(5)


async def test_what_was_added_last_is_kept_whatever_its_size() -> None:
    log = EventLog(max_bytes=10)
    log.add(events(0, 3))
    log.add(events(3, 9))
    log.complete()
    assert await read(log, 2) == b"".join(events(3, 9))


async def test_a_reader_that_is_too_slow_hears_it() -> None:
    log = EventLog(max_bytes=6)
    log.add(events(0, 1))
    reader = log.read(-1)
    assert await anext(reader) == b" 0,"
    log.add(events(1, 3))
    log.add(events(3, 5))
    with pytest.raises(InvalidRequest, match="not kept"):
        await anext(reader)
