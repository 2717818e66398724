"""What is kept of responses is bounded, and belongs to whoever asked."""

from __future__ import annotations

import pytest

from llm_serving.errors import Overloaded, ResponseNotFound
from llm_serving.service.event_log import EventLog
from llm_serving.service.responses import ResponseStore, StoredResponse

pytestmark = pytest.mark.anyio


def stored(num_bytes: int = 10) -> StoredResponse:
    return StoredResponse(b"x" * (num_bytes - 4), b"[]", b"[]")


def names(store: ResponseStore, owner: str = "") -> list[str]:
    found = []
    for name in "abcdef":
        try:
            store.get(owner, name)
            found.append(name)
        except ResponseNotFound:
            pass
    return found


def test_the_oldest_beyond_the_number_is_forgotten() -> None:
    store = ResponseStore(max_responses=2)
    for name in "abc":
        store.add("", name, stored())
    assert names(store) == ["b", "c"]


async def test_the_oldest_beyond_the_bytes_is_forgotten() -> None:
    store = ResponseStore(max_bytes=25)
    for name in "abc":
        store.add("", name, stored())
    assert names(store) == ["b", "c"]
    await store.remove("", "b")
    store.add("", "d", stored(15))
    assert names(store) == ["c", "d"]


def test_what_is_larger_than_all_of_it_drives_nobody_out() -> None:
    store = ResponseStore(max_bytes=25)
    store.add("", "a", stored())
    store.add("", "b", stored(26))
    assert names(store) == ["a"]


async def test_each_owner_has_its_own() -> None:
    store = ResponseStore()
    store.add("one", "a", stored())
    assert names(store, "one") == ["a"]
    assert names(store, "two") == []
    with pytest.raises(ResponseNotFound, match="'a'"):
        await store.remove("two", "a")


def at_work(num_bytes: int = 10, num_event_bytes: int | None = None) -> StoredResponse:
    response = stored(num_bytes)
    response.events = EventLog(num_event_bytes) if num_event_bytes is not None else None
    return response


def test_what_is_at_work_is_not_forgotten() -> None:
    store = ResponseStore(max_responses=1, max_bytes=25)
    store.begin("", "a", at_work())
    for name in "bcd":
        store.add("", name, stored())
        assert names(store) == ["a", name]
    store.end("", "a")
    assert names(store) == ["a"]
    store.add("", "e", stored())
    assert names(store) == ["e"]


def test_what_is_at_work_is_bounded_by_owner() -> None:
    store = ResponseStore(max_at_work=2)
    store.begin("one", "a", at_work())
    store.begin("one", "b", at_work())
    with pytest.raises(Overloaded, match="2 responses"):
        store.begin("one", "c", at_work())
    assert names(store, "one") == ["a", "b"]
    store.begin("two", "c", at_work())
    store.end("one", "a")
    store.begin("one", "d", at_work())


def test_what_is_at_work_is_bounded_in_bytes_and_counts_them() -> None:
    store = ResponseStore(max_bytes=100)
    store.add("", "a", stored(40))
    store.begin("", "b", at_work(10, 50))  # with the events that it may have
    assert names(store) == ["a", "b"]
    with pytest.raises(Overloaded, match="memory"):
        store.begin("", "c", at_work(10, 31))
    assert names(store) == ["a", "b"]
    store.begin("", "c", at_work(20))  # what has ended gives way to what begins
    assert names(store) == ["b", "c"]
    store.end("", "b")
    store.end("", "c")
    store.add("", "d", stored(70))
    assert names(store) == ["b", "c", "d"]


async def test_removed_twice() -> None:
    store = ResponseStore()
    store.add("", "a", stored())
    await store.remove("", "a")
    with pytest.raises(ResponseNotFound):
        await store.remove("", "a")
