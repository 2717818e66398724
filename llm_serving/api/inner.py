"""Requests that no connection brings: a batch asks the app itself, by its own routes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

from llm_serving.api.schemas.sampling import MAX_PRIORITY
from llm_serving.service.batch_answers import Asked
from llm_serving.service.batch_lines import BatchLine

_GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


async def ask_app(app: ASGIApp, line: BatchLine, fairness_key: str) -> Asked:
    """The answer to one request, in behind all who wait for theirs, in the turn of this key."""
    body = line.body
    if line.endpoint in _GENERATING:
        body = {"priority": MAX_PRIORITY, **body}
    sent = False
    status, headers, parts = 0, dict[bytes, bytes](), list[bytes]()

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()  # nobody leaves
        sent = True
        return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message["headers"])
        else:
            parts.append(message.get("body", b""))

    await app(_scope(line.endpoint, fairness_key), receive, send)
    retry_after_s = 1.0
    with suppress(ValueError):
        retry_after_s = float(headers.get(b"retry-after", b"1"))
    return Asked(status, b"".join(parts), headers.get(b"x-request-id", b"").decode("latin-1"), retry_after_s)


def _scope(path: str, fairness_key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {"batch_key": fairness_key},
    }
