"""Bodies that are too large, or do not come: both are told, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fake_server import Client, open_client
from patience import PATIENCE_S

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Client]:
    async with open_client(max_body_bytes="512k") as client:
        yield client


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
async def test_body_over_the_cap_is_413(server: Client, path: str) -> None:
    body = {"messages": [{"content": "x" * 600_000}], "prompt": "x" * 600_000}
    response = await server.post(path, json=body)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert "524288" in response.json()["error"]["message"]


@pytest.mark.parametrize("sent", [b"", b'{"prompt": "'])
async def test_a_body_that_stops_coming_is_408(
    server: Client, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("llm_serving.api.middleware._PATIENCE_S", 0.05)

    async def stalls() -> AsyncIterator[bytes]:
        yield sent
        await asyncio.sleep(60)

    response = await asyncio.wait_for(server.post("/completions", content=stalls()), PATIENCE_S)
    assert response.status_code == 408
    assert response.headers["connection"] == "close"
    assert response.json()["error"]["code"] == "request_timeout"
    assert (await server.post("/completions", json={"prompt": "Hello", "max_tokens": 1})).status_code == 200


async def test_body_over_the_cap_without_a_length_is_413(server: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"messages": [{"content": "'
        for _ in range(60):
            yield b"x" * 10_000
        yield b'"}]}'

    response = await server.post("/chat/completions", content=chunks())
    assert response.status_code == 413
