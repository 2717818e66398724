"""A small HTTP/1.1 client for streamed chat completions. It shares the cores with the server it
measures, so it parses by hand and does nothing else: asyncio streams, one JSON parse an event."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click
import orjson

_LIMIT = 4 << 20  # bytes of one header block or SSE event


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `head` is the constant part of the request, up to the body's length."""

    host: str
    port: int
    tls: bool
    head: bytes


@dataclass(slots=True)
class Outcome:
    """One request. Times are `time.perf_counter()` seconds; `error` is empty if all went well."""

    start_s: float
    first_s: float = 0.0  # first event with text
    last_s: float = 0.0  # last event with text
    end_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)  # between events with text
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    error: str = ""  # "429", "500", "connect", "timeout", "closed", "stream", "no usage"
    detail: str = ""


def parse_target(url: str, api_key: str | None) -> Target:
    """`http://host:port`, with or without `/v1`. Raises: click.BadParameter."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise click.BadParameter(
            f"'{url}' is not an address such as http://127.0.0.1:8001.", param_hint="--url"
        )
    path = parts.path.rstrip("/")
    path = path if path.endswith("/v1") else f"{path}/v1"
    lines = [
        f"POST {path}/chat/completions HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        *([f"Authorization: Bearer {api_key}"] if api_key else []),
        "Content-Length: ",
    ]
    return Target(parts.hostname, port, parts.scheme == "https", "\r\n".join(lines).encode())


class ChatClient:
    """Sends requests over kept connections; as many at once as are asked for."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def complete(self, body: bytes, start_s: float, timeout_s: float) -> Outcome:
        """Stream one completion. Never raises for what the server does: see `Outcome.error`."""
        outcome = Outcome(start_s)
        try:
            await asyncio.wait_for(self._complete(body, outcome), timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            outcome.error = "timeout"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            outcome.error = outcome.error or ("closed" if isinstance(error, EOFError) else "connect")
            outcome.detail = str(error)
        outcome.end_s = time.perf_counter()
        if not outcome.error and not outcome.output_tokens:
            outcome.error = "no usage"
        return outcome

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _complete(self, body: bytes, outcome: Outcome) -> None:
        request = b"%b%d\r\n\r\n%b" % (self._target.head, len(body), body)
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await self._connect()
        keep = False
        try:
            try:
                status, headers = await _send(reader, writer, request)
            except (OSError, EOFError):
                if not reused:
                    raise
                # The server closed a connection that lay idle; that is no failure of the request.
                writer.close()
                reader, writer = await self._connect()
                status, headers = await _send(reader, writer, request)
            pieces = _body(reader, headers)
            if status == 200:
                await _read_events(pieces, outcome)
            else:
                outcome.error = str(status)
                outcome.detail = _message(b"".join([piece async for piece in pieces]))
            keep = headers.get(b"connection", b"").lower() != b"close" and _is_framed(headers)
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = ssl.create_default_context() if self._target.tls else None
        return await asyncio.open_connection(self._target.host, self._target.port, ssl=context, limit=_LIMIT)


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[bytes, bytes]]:
    writer.write(request)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    return int(lines[0].split(b" ", 2)[1]), headers


def _is_framed(headers: dict[bytes, bytes]) -> bool:
    return b"content-length" in headers or b"chunked" in headers.get(b"transfer-encoding", b"").lower()


async def _body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> AsyncIterator[bytes]:
    """The body's bytes as they arrive: chunked, of known length, or until the end of the connection."""
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    elif b"content-length" in headers:
        yield await reader.readexactly(int(headers[b"content-length"]))
    else:
        while piece := await reader.read(_LIMIT):
            yield piece


async def _read_events(pieces: AsyncIterator[bytes], outcome: Outcome) -> None:
    pending = b""
    async for piece in pieces:
        now = time.perf_counter()
        *events, pending = (pending + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            for line in event.split(b"\n"):
                if line.startswith(b"data:") and line != b"data: [DONE]":
                    _take(orjson.loads(line[5:]), now, outcome)


def _take(data: dict[str, Any], now: float, outcome: Outcome) -> None:
    if "error" in data:
        outcome.error, outcome.detail = "stream", _message(orjson.dumps(data))
        return
    usage = data.get("usage")
    if usage:
        outcome.prompt_tokens = usage.get("prompt_tokens", 0)
        outcome.output_tokens = usage.get("completion_tokens", 0)
        outcome.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    choices = data.get("choices")
    if choices and choices[0].get("delta", {}).get("content"):
        if outcome.first_s:
            outcome.gaps_s.append(now - outcome.last_s)
        else:
            outcome.first_s = now
        outcome.last_s = now


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
