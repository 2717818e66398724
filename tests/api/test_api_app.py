"""Whoever extends the app finds FastAPI: middleware sees every request, and routes are answered."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fake_server import Client, open_client
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

pytestmark = pytest.mark.anyio

BODY = {"messages": [{"content": "Hello"}]}


@pytest.fixture
async def extended() -> AsyncIterator[Client]:
    async with open_client(allowed_origins="https://example.org") as client:
        app = client.app
        app.add_middleware(CORSMiddleware, allow_origins=["https://example.org"])

        @app.middleware("http")
        async def mark(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
            response = await go_on(request)
            response.headers["x-seen"] = request.url.path
            return response

        @app.get("/own")
        async def own() -> dict[str, int]:
            return {"own": 1}

        @app.get("/broken")
        async def broken() -> None:
            raise LookupError("secret")

        yield client


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_middleware_stands_before_our_routes(extended: Client, path: str) -> None:
    body = BODY if "chat" in path else {"input": "Hello"}
    response = await extended.post(path, json=body, headers={"origin": "https://example.org"})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://example.org"
    assert response.headers["x-seen"] == path
    assert len(response.headers["x-request-id"]) == 32


async def test_routes_can_be_added(extended: Client) -> None:
    response = await extended.get("/own")
    assert response.json() == {"own": 1}
    assert response.headers["x-seen"] == "/own"
    assert response.headers["x-request-id"]


async def test_their_errors_leave_in_our_shape(extended: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = await extended.get("/broken", headers={"x-request-id": "abc"})
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "internal_error"
    assert "abc" in error["message"]
    assert "secret" not in response.text
    assert "request abc failed" in caplog.text


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/ready", "/v1/models/fake"])
def test_head_is_get_without_the_body(live_url: str, path: str) -> None:
    whole, head = httpx.get(live_url + path), httpx.head(live_url + path)
    assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert httpx.head(f"{live_url}/v1/chat/completions").status_code == 405
