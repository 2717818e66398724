"""What a browser lets pages of other sites do with a server on its user's machine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fake_server import fake_app, open_client, running_server

from llm_serving.config import SettingsError

pytestmark = pytest.mark.anyio

EVIL = "evil.example:8001"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
ELSEWHERE = [
    "https://evil.example",
    "http://localhost.evil.example",
    "null",
    "http://127.0.0.1.evil.example:80",
]
HERE = [
    *("http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "http://app.localhost:8080"),
    *("app://obsidian.md", "tauri://localhost", "vscode-webview://0abc"),
]


@pytest.mark.parametrize("origin", ELSEWHERE)
async def test_pages_of_elsewhere_make_nothing_happen(origin: str) -> None:
    """Sent as a form may be, without the browser asking before."""
    async with open_client() as client:
        headers = {"origin": origin, "content-type": "text/plain"}
        for path in (CHAT, "/v1/files", "/v1/batches", "/api/generate", "/tokenize"):
            response = await client.post(path, content=b"{}", headers=headers)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (403, "origin_not_allowed")
            assert "--allowed-origins" in error["message"]
            assert response.headers["x-request-id"]
        asked = await client.get("/v1/models", headers=headers)
        assert (asked.status_code, "access-control-allow-origin" in asked.headers) == (200, False)


@pytest.mark.parametrize("origin", HERE)
async def test_pages_of_this_machine_read_answers(origin: str) -> None:
    async with open_client() as client:
        response = await client.post(CHAT, json=BODY, headers={"origin": origin})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
        assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_streams_and_errors_are_read_too() -> None:
    headers = {"origin": "http://localhost:3000"}
    async with open_client() as client:
        streamed = await client.post(CHAT, json={**BODY, "stream": True}, headers=headers)
        refused = await client.post(CHAT, json={}, headers=headers)
    for response in (streamed, refused):
        assert response.headers["access-control-allow-origin"] == headers["origin"]


@pytest.mark.parametrize(("key", "status"), [((), 200), (("sesame",), 200)])
async def test_a_browser_asks_before(key: tuple[str, ...], status: int) -> None:
    asking = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    async with open_client(api_key=key, allowed_origins="https://app.example/") as client:
        for origin, told in (("https://app.example", status), ("https://evil.example", 400)):
            response = await client.options(CHAT, headers={"origin": origin, **asking})
            assert response.status_code == told
        headers = {"origin": "https://app.example", "authorization": "Bearer sesame"}
        response = await client.post(CHAT, json=BODY, headers=headers)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (
            200,
            headers["origin"],
        )


async def test_a_key_is_what_pages_do_not_have() -> None:
    async with open_client(api_key=("sesame",)) as client:
        headers = {"origin": "https://evil.example"}
        assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 401
        headers["authorization"] = "Bearer sesame"
        response = await client.post(CHAT, json=BODY, headers=headers)
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (200, False)


async def test_all_may_where_all_are_named() -> None:
    async with open_client(allowed_origins="*") as client:
        response = await client.post(CHAT, json=BODY, headers={"origin": "https://any.example"})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        (
            {},
            {
                "localhost:1": 200,
                "127.0.0.1": 200,
                "[::1]:9": 200,
                "a.localhost": 200,
                "evil.example:8001": 403,
            },
        ),
        ({}, {"0.0.0.0:8001": 200, "my-machine": 200, "printer.local": 200, "a.internal": 200, "[::1": 403}),
        ({"allowed_origins": "https://llm.example"}, {"llm.example": 200, "other.example": 403}),
        ({"allowed_origins": "*"}, {"evil.example": 200}),
        ({"api_key": ("sesame",)}, {"evil.example": 200}),
    ],
)
def test_names_that_lead_here(settings: dict[str, Any], hosts: dict[str, int]) -> None:
    """A page of evil.example, whose name leads to 127.0.0.1 by now, is one of this server for its browser."""
    with running_server(fake_app(**settings)) as url:
        for host, status in hosts.items():
            headers = {"host": host, "origin": f"http://{host}", "authorization": "Bearer sesame"}
            for path in ("/v1/models", "/v1/files"):
                assert httpx.get(url + path, headers=headers).status_code == status, host
            assert httpx.post(url + CHAT, json=BODY, headers=headers).status_code == status, host


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/page", "https://[", "https://a b", "**"]
)
async def test_what_is_no_origin_is_told_at_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="--allowed-origins.*must be"):
        fake_app(allowed_origins=origin)


async def test_a_server_that_others_reach_by_a_name() -> None:
    """Its own page is served under a name, and may ask."""
    async with open_client() as client:
        headers = {"host": "llm.example", "origin": "https://llm.example"}
        assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 200
