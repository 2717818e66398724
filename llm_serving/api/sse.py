"""Streams, written straight to ASGI: headers at once, heartbeat by wall clock, cheap frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.errors import note_error
from llm_serving.errors import ServingError
from llm_serving.service.generation import Batch, Generation

logger = logging.getLogger(__name__)

PING = b": ping\n\n"


class Chunks(Protocol):
    """How one endpoint writes its stream."""

    def opening(self) -> bytes:
        """Frames before the first token."""
        ...

    def batch(self, batch: Batch) -> bytes:
        """Frames of one batch of events; empty if there is nothing to show yet."""
        ...

    def closing(self, generation: Generation) -> bytes:
        """Frames after the last token, and the mark of the end."""
        ...

    def failure(self, error: Exception, request_id: str) -> bytes:
        """Frames that tell of an error, and end the stream."""
        ...


class ServerSentEvents(Response):
    """Headers at once, then what `write` sends, with a heartbeat in silence; until the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, *, heartbeat_s: float, headers: Mapping[str, str]) -> None:
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        )
        del self.headers["content-length"]
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await until_disconnect(receive, self._with_heartbeat(scope, send))

    async def write(self, scope: Scope, send: Send) -> None:
        """Send the whole body, the last of it with `more_body` False."""
        raise NotImplementedError

    async def _with_heartbeat(self, scope: Scope, send: Send) -> None:
        heart = _Heart(self._heartbeat_s, send)
        try:
            await self.write(scope, heart.send)
        finally:
            heart.stop()


class EventStream(ServerSentEvents):
    """Answers with the events of `generation` as server-sent events, and leaves it in any case.

    After the first byte, an error is an `error` event and the end of the stream.
    """

    def __init__(
        self,
        generation: Generation,
        chunks: Chunks,
        *,
        heartbeat_s: float,
        on_end: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(heartbeat_s=heartbeat_s, headers=headers)
        self._generation = generation
        self._chunks = chunks
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._generation:
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()

    async def write(self, scope: Scope, send: Send) -> None:
        chunks = self._chunks
        try:
            await send(body_message(chunks.opening()))
            async for batch in self._generation:
                frames = chunks.batch(batch)
                if frames:
                    await send(body_message(frames))
            last = chunks.closing(self._generation)
        except Exception as error:
            request_id = scope["state"]["request_id"]
            note_error(scope, error)
            log_unknown(error, request_id)
            last = chunks.failure(error, request_id)
        await send(body_message(last, more_body=False))


class LineStream(EventStream):
    """The same as JSON, one object a line. Nothing else may stand between them, so there is no heartbeat."""

    media_type = "application/x-ndjson"

    async def _with_heartbeat(self, scope: Scope, send: Send) -> None:
        await self.write(scope, send)


def typed_event(event: Mapping[str, Any]) -> bytes:
    """An event whose `type` is its name, too, as the newer APIs have them."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def body_message(frames: bytes, *, more_body: bool = True) -> Message:
    """A piece of a stream's body."""
    return {"type": "http.response.body", "body": frames, "more_body": more_body}


def log_unknown(error: Exception, request_id: str) -> None:
    """The trace of an error that is not ours, behind an answer's first byte."""
    if not isinstance(error, ServingError):
        logger.error("request %s failed in its stream", request_id, exc_info=error)


class _Heart:
    """Sends a comment whenever nothing was sent for `period_s`, whatever the engine does meanwhile.

    A timer that looks at the clock when it is due: a task, or a timer a token, would cost more than a token.
    """

    def __init__(self, period_s: float, send: Send) -> None:
        self._period_s = period_s
        self._send = send
        self._is_sending = False
        self._beating: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer = self._loop.call_at(self._last_s + period_s, self._look)

    async def send(self, message: Message) -> None:
        self._is_sending = True
        await self._send(message)
        self._is_sending = False
        self._last_s = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()
        if self._beating is not None:
            self._beating.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        due_s = self._last_s + self._period_s
        is_busy = self._is_sending or (self._beating is not None and not self._beating.done())
        if due_s <= now_s and not is_busy:
            self._beating = asyncio.ensure_future(self.send(body_message(PING)))
        self._timer = self._loop.call_at(due_s if due_s > now_s else now_s + self._period_s, self._look)
