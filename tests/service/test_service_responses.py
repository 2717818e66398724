"""What is kept of responses is bounded, and belongs to whoever asked."""

from __future__ import annotations

import pytest

from llm_serving.errors import ResponseNotFound
from llm_serving.service.responses import ResponseStore, StoredResponse


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


def test_the_oldest_beyond_the_bytes_is_forgotten() -> None:
    store = ResponseStore(max_bytes=25)
    for name in "abc":
        store.add("", name, stored())
    assert names(store) == ["b", "c"]
    store.remove("", "b")
    store.add("", "d", stored(15))
    assert names(store) == ["c", "d"]


def test_what_is_larger_than_all_of_it_drives_nobody_out() -> None:
    store = ResponseStore(max_bytes=25)
    store.add("", "a", stored())
    store.add("", "b", stored(26))
    assert names(store) == ["a"]


def test_each_owner_has_its_own() -> None:
    store = ResponseStore()
    store.add("one", "a", stored())
    assert names(store, "one") == ["a"]
    assert names(store, "two") == []
    with pytest.raises(ResponseNotFound, match="'a'"):
        store.remove("two", "a")
