"""Fixtures of all tests. The server is imported by those that use it only; most tests do not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """A `fake_server.Client` of an app with default settings."""
    from fake_server import open_client

    async with open_client(behaviour={"reply": "Hello, world! 😀"}) as opened:
        yield opened


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the services of servers that other tests keep running in this process."""
    monkeypatch.setattr("llm_serving.api.running._running", [])


@pytest.fixture(scope="session")
def live_url() -> Iterator[str]:
    """A live server that says the same sentence to everybody."""
    from fake_server import fake_app, running_server

    with running_server(fake_app(behaviour={"reply": "Hello, world! 😀"})) as url:
        yield url
