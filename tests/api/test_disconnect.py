"""Whoever leaves ends their own work, whatever happens at the same moment."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

import llm_serving.api.disconnect as disconnect
from llm_serving.api.disconnect import until_disconnect

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def watched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "_WATCH_AFTER_S", 0.0)


async def stays() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def leaves() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def breaks() -> dict[str, Any]:
    raise ConnectionResetError


async def test_result_of_the_work() -> None:
    assert await until_disconnect(stays, asyncio.sleep(0.01, "done")) == "done"


async def test_error_of_the_work() -> None:
    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await until_disconnect(stays, fails())


@pytest.mark.parametrize("receive", [leaves, breaks])
async def test_leaving_cancels_the_work_and_nothing_behind_it(receive: Any) -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ClientDisconnect):
        await until_disconnect(receive, work())
    assert cancelled
    await asyncio.sleep(0.01)  # what the caller does next is not cancelled
    if sys.version_info >= (3, 11):
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_leaving_just_after_the_answer_is_too_late() -> None:
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> str:
        await asyncio.sleep(0.01)
        gone.set()
        return "done"

    assert await until_disconnect(receive, work()) == "done"
    await asyncio.sleep(0.01)


async def test_cancelling_from_outside_is_no_disconnect() -> None:
    task = asyncio.ensure_future(until_disconnect(stays, asyncio.sleep(10)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
