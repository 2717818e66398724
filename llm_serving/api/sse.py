"""Server-sent events, written straight to ASGI: headers at once, heartbeat by wall clock, cheap frames."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llm_serving.api.disconnect import until_disconnect
from llm_serving.api.errors import error_body
from llm_serving.errors import ServingError
from llm_serving.service.generation import Batch, Generation

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
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
        """Frames after the last token, without `[DONE]`."""
        ...


class EventStream(Response):
    """Answers with the events of `generation`, which it leaves in any case.

    After the first byte, an error is an `error` event and the end of the stream.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        generation: Generation,
        chunks: Chunks,
        *,
        heartbeat_s: float,
        on_end: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        )
        del self.headers["content-length"]
        self._generation = generation
        self._chunks = chunks
        self._heartbeat_s = heartbeat_s
        self._on_end = on_end
        self._last_s = 0.0
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = scope.get("state", {}).get("request_id", "")
        try:
            async with self._generation:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await until_disconnect(receive, self._with_heartbeat(send, request_id))
        finally:
            self._on_end()

    async def _with_heartbeat(self, send: Send, request_id: str) -> None:
        self._last_s = time.monotonic()
        beating = asyncio.ensure_future(self._beat(send))
        try:
            await self._write(send, request_id)
        finally:
            beating.cancel()

    async def _write(self, send: Send, request_id: str) -> None:
        chunks = self._chunks
        try:
            await self._send(send, chunks.opening())
            async for batch in self._generation:
                frames = chunks.batch(batch)
                if frames:
                    await self._send(send, frames)
            last = chunks.closing(self._generation) + DONE
        except Exception as error:
            if not isinstance(error, ServingError):
                logger.exception("request %s failed in its stream", request_id)
            last = b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"
        await self._send(send, last, more_body=False)

    async def _send(self, send: Send, body: bytes, *, more_body: bool = True) -> None:
        self._is_sending = True
        await send({"type": "http.response.body", "body": body, "more_body": more_body})
        self._is_sending = False
        self._last_s = time.monotonic()

    async def _beat(self, send: Send) -> None:
        """A comment whenever nothing was written for `heartbeat_s`, whatever the engine does meanwhile."""
        while True:
            wait_s = self._last_s + self._heartbeat_s - time.monotonic()
            if self._is_sending or wait_s > 0:
                await asyncio.sleep(max(wait_s, 0.001 if not self._is_sending else self._heartbeat_s))
            else:
                await self._send(send, PING)
