"""The server that is judged: a small client that keeps what it sent and gives answers as they came."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from llm_serving.cli.conformance.check import Failed, Skipped, short
from llm_serving.cli.conformance.sse import Stream, parse_json

T = TypeVar("T")
Body = Mapping[str, Any] | bytes | None
Pause = Callable[[], Awaitable[None]]

CHAT = "/chat/completions"
MAX_BYTES = 32 << 20  # of one answer
MISSING = (404, 405, 501)  # no such route
ASK = [{"role": "user", "content": "Count from one to twenty in words, with commas."}]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises: Failed."""
        try:
            return parse_json(self.body)
        except ValueError as error:
            raise Failed(f"status {self.status} and a body that is no JSON ({error}): {self}") from None

    def __str__(self) -> str:
        return f"status {self.status}: {short(self.body.decode('utf-8', 'replace'))}"


class Server:
    """One server, and the models that checks ask for: "" where nothing chats, or nothing embeds."""

    def __init__(self, base: str, api_key: str | None, model: str = "", embedding_model: str = "") -> None:
        self.base = base
        self.model = model
        self.embedding_model = embedding_model
        self.api_key = api_key
        self.sent = ""  # the last request, for the report
        self._kept: dict[str, tuple[Any, str]] = {}
        self._broken: dict[str, str] = {}
        # A connection each: servers close those that lie idle, and a request may meet that. Every check
        # has a time of its own, so only connecting is bounded here.
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=10.0), limits=limits)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        at_root: bool = False,
        key: str | None = None,
        until_head: bool = False,
    ) -> Answer:
        """`path` below `/v1`, or `at_root` beside it. A `key` goes in place of the server's; "" sends none.

        `until_head`: where the status is 200, leave without the body, which the model may be long at.
        """
        async with self._open(method, path, body, at_root=at_root, key=key) as response:
            if until_head and response.status_code == 200:
                return Answer(200, response.headers, b"")
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_BYTES:
                    raise Failed(f"an answer of more than {MAX_BYTES >> 20} MiB")
            return Answer(response.status_code, response.headers, b"".join(pieces))

    async def stream(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        may_refuse: bool = False,
        leave_after: int = 0,
        pause: Pause | None = None,
    ) -> Stream:
        """The events of an answer to `body` that is streamed. Raises: Failed, Skipped; see `post`.

        leave_after: close the connection after so many events. pause: awaited after each event.
        """
        start_s = time.perf_counter()
        async with self._open("POST", path, {**body, "stream": True}) as response:
            stream = Stream(response.headers.get("content-type", ""), time.perf_counter() - start_s)
            if response.status_code != 200:
                content = await response.aread()
                raise _refusal(Answer(response.status_code, response.headers, content), may_refuse)
            pending, size = b"", 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > MAX_BYTES:
                    raise Failed(f"a stream of more than {MAX_BYTES >> 20} MiB")
                *frames, pending = (pending + piece).replace(b"\r\n", b"\n").split(b"\n\n")
                for frame in frames:
                    if not stream.take(frame):
                        continue
                    stream.first_s = stream.first_s or time.perf_counter() - start_s
                    if leave_after and len(stream.events) >= leave_after:
                        return stream
                    if pause is not None:
                        await pause()
            stream.take(pending)
        stream.end_s = time.perf_counter() - start_s
        return stream

    async def post(self, path: str, body: Body, *, may_refuse: bool = False) -> Any:
        """The JSON of an answer that is a 200.

        may_refuse: what is asked for is not for every server, and a 400 that says so is no fault.
        Raises: Failed, Skipped.
        """
        answer = await self.ask("POST", path, body)
        if answer.status != 200:
            raise _refusal(answer, may_refuse)
        return answer.json()

    async def chat(self, *, may_refuse: bool = False, **fields: Any) -> dict[str, Any]:
        """A chat completion of `chat_body`; see `post`."""
        answer: dict[str, Any] = await self.post(CHAT, self.chat_body(**fields), may_refuse=may_refuse)
        return answer

    async def chat_stream(self, *, may_refuse: bool = False, **fields: Any) -> Stream:
        """The same, streamed."""
        return await self.stream(CHAT, self.chat_body(**fields), may_refuse=may_refuse)

    def chat_body(self, **fields: Any) -> dict[str, Any]:
        """A short greedy answer to the same question each time, but for `fields`."""
        if not self.model:
            raise Skipped("no model here answers chats")
        base = {"model": self.model, "messages": ASK, "temperature": 0, "seed": 7, "max_tokens": 24}
        return {**base, **fields}

    async def once(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, asked once for all checks that look at it; they are skipped if it failed."""
        if name in self._broken:
            raise Skipped(self._broken[name])
        if name not in self._kept:
            try:
                self._kept[name] = await ask(), self.sent
            except Skipped as skipped:
                self._broken[name] = str(skipped)
                raise
            except BaseException as error:  # a check's time is over by cancelling it
                self._broken[name] = f"there is no answer to look at: {short(error) or 'it took too long'}"
                raise
        value, self.sent = self._kept[name]
        return value  # type: ignore[no-any-return]

    def _open(
        self, method: str, path: str, body: Body, *, at_root: bool = False, key: str | None = None
    ) -> Any:
        key = self.api_key if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self.sent = f"{method} {path} {short((content or b'').decode('utf-8', 'replace'), 600)}".rstrip()
        url = (self.base.removesuffix("/v1") if at_root else self.base) + path
        return self._client.stream(method, url, content=content, headers=headers)


def _refusal(answer: Answer, may_refuse: bool) -> Failed | Skipped:
    if may_refuse and answer.status in (400, *MISSING):
        return Skipped(f"refused with {answer}")
    return Failed(str(answer))
