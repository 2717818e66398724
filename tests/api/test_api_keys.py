"""Who may come in, and where."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import httpx
import pytest
from fake_server import Client, fake_app, open_client

from llm_serving.api.convert.ollama_output import ollama_error
from llm_serving.api.routes import PREFIXES, ROUTES
from llm_serving.config import SettingsError

pytestmark = pytest.mark.anyio

PUBLIC = {"/", "/health", "/ready", "/chat"}


def test_public_routes_are_these_and_no_others() -> None:
    assert {route.path for route in ROUTES if route.is_public} == PUBLIC


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_every_other_route_needs_the_key(prefix: str) -> None:
    async with open_client(api_key=("first", "second")) as client:
        for route in ROUTES:
            path = prefix + re.sub(r"\{[a-z]+_id\}", "none", route.path.replace("{model_id:path}", "fake"))
            expected = 404 if "/none" in path else 200 if route.method == "GET" else 400
            without = await client.request(route.method, path, content=b"{")
            if route.is_public:
                assert without.status_code == 200
                continue
            assert without.status_code == 401, path
            error = without.json()["error"]
            if route.to_error is ollama_error:
                assert "API key" in error
            else:
                assert error.get("code", error["type"]) in ("invalid_api_key", "authentication_error")
            assert without.headers["www-authenticate"] == "Bearer"
            for key in ("first", "second"):
                headers = {"authorization": f"Bearer {key}"}
                response = await client.request(route.method, path, content=b"{", headers=headers)
                assert response.status_code == expected


async def test_the_header_of_anthropics_clients() -> None:
    async with open_client(api_key=("first", "second")) as client:
        assert (await client.get("/models", headers={"x-api-key": "second"})).status_code == 200
        assert (await client.get("/models", headers={"x-api-key": "third"})).status_code == 401
        both = {"x-api-key": "first", "authorization": "Bearer wrong"}
        assert (await client.get("/models", headers=both)).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "first",
        "Basic first",
        "Bearer firs",
        "Bearer firstt",
        "Bearer FIRST",
        "Bearer first x",
    ],
)
async def test_wrong_keys(header: str) -> None:
    async with open_client(api_key=("first",)) as client:
        response = await client.get("/models", headers={"authorization": header})
        assert response.status_code == 401
        assert "first" not in response.text


async def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# who\n one \n\ntwo\n")
    async with open_client(api_key=("zero",), api_key_file=path) as client:
        for key, status in [("zero", 200), ("one", 200), ("two", 200), ("# who", 401), ("", 401)]:
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.get("/models", headers=headers)).status_code == status


@pytest.mark.parametrize("content", [None, b"# nothing\n\n", b"\xff\xfe"])
def test_bad_key_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="--api-key-file"):
        fake_app(api_key_file=path)


async def test_without_keys_everybody_may(client: Client) -> None:
    headers = {"authorization": "Bearer OPENAI_API_KEY"}  # what the seed's client sends
    assert (await client.get("/models", headers=headers)).status_code == 200


async def test_keys_and_prompts_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"messages": [{"content": "my secret prompt"}]}
    async with open_client(api_key=("sk-secret",)) as client:
        for key in ("sk-secret", "sk-guess"):
            await client.post("/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        while "POST /chat/completions 401" not in caplog.text:
            await asyncio.sleep(0.01)
    assert "POST /chat/completions 200" in caplog.text
    for secret in ("sk-secret", "sk-guess", "my secret", "Bearer"):
        assert secret not in caplog.text


async def test_warning_when_everybody_can_reach_an_open_server(caplog: pytest.LogCaptureFixture) -> None:
    async with open_client(host="0.0.0.0"):
        assert "without an API key" in caplog.text
    caplog.clear()
    async with open_client(host="0.0.0.0", api_key=("k",)), open_client(host="127.0.0.1"):
        assert "without an API key" not in caplog.text


async def test_warning_when_somebody_comes_from_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    """`uvicorn --host` does not tell the settings where the server listens."""
    async with open_client() as client:
        stranger = httpx.ASGITransport(client.app, client=("192.168.1.9", 5))
        async with httpx.AsyncClient(transport=stranger, base_url="http://test") as other:
            for _ in range(3):
                assert (await other.get("/health")).status_code == 200
    assert caplog.text.count("without an API key") == 1
