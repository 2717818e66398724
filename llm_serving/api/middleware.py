"""Around every request: id, size cap, log line, counters, span, and the last resort. Pure ASGI."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_serving.api.errors import BodyStalled, BodyTooLarge, error_response, note_error
from llm_serving.api.request_log import Line, RequestLog
from llm_serving.ops.auth import is_loopback
from llm_serving.ops.metrics import Metrics

if TYPE_CHECKING:
    from llm_serving.ops.request_span import RequestSpan
    from llm_serving.ops.trace_export import Tracing

logger = logging.getLogger(__name__)

_random = random.Random()  # its own: whoever seeds the common one must not get the same ids again
_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,64}")
_CLIENT_LEFT = 499
_PATIENCE_S = 60  # for the next part of a body
_QUIET = frozenset(("/health", "/ready", "/metrics"))


class BodyLimit(NamedTuple):
    """How large the body of a request may be, and what to do about one that is larger."""

    num_bytes: int
    remedy: str = "Send less, or raise --max-body-bytes."


class RequestMiddleware:
    """One instance an app. `state["log"]` of the scope collects what the log line says beside the status."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        body_limit: Callable[[str], BodyLimit],
        *,
        warn_strangers: bool,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._body_limit = body_limit
        self._warn_strangers = warn_strangers
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._log.flush()  # of the lifespan, which ends behind the last request
            return
        exchange = _Exchange(scope, receive, send, self._body_limit(scope["path"]))
        self._look_at_client(scope)
        self._metrics.in_flight.inc()
        started_s = time.monotonic()
        span = None if self._tracing is None else self._begin_span(self._tracing, scope, started_s)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = _CLIENT_LEFT
        except asyncio.CancelledError:  # by a server that tells so that the client left
            exchange.status = _CLIENT_LEFT
            raise
        except Exception as error:  # the last resort: nothing may leave without an answer
            logger.exception("request %s failed", exchange.request_id)
            note_error(scope, error)
            if exchange.status == 0:
                await error_response(error, exchange.request_id)(scope, exchange.receive, exchange.send)
        finally:
            self._metrics.in_flight.dec()
            self._conclude(scope, exchange, span, time.monotonic() - started_s)

    def _begin_span(self, tracing: Tracing, scope: Scope, started_s: float) -> RequestSpan | None:
        is_quiet = scope["path"].removeprefix("/v1") in _QUIET
        return None if is_quiet else tracing.begin(scope, started_s)

    def _conclude(self, scope: Scope, exchange: _Exchange, span: RequestSpan | None, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched").removeprefix("/v1")
        status = exchange.status or _CLIENT_LEFT
        if span is not None:
            span.end(status, seconds)
            if span.trace_id:
                exchange.log["trace_id"] = span.trace_id
        self._metrics.requests.labels(route, status).inc()
        level = logging.DEBUG if route in _QUIET else logging.INFO
        line = Line(scope["method"], scope["path"], status, seconds, exchange.request_id, exchange.log)
        self._log.add(level, line)

    def _look_at_client(self, scope: Scope) -> None:
        """Warn once when somebody from elsewhere comes in and no key is set; nobody is refused."""
        client = scope.get("client")
        if self._warn_strangers and client and not is_loopback(client[0]):
            self._warn_strangers = False
            logger.warning("%s is served without an API key. Set --api-key, or --host 127.0.0.1.", client[0])


class _Exchange:
    """One request and its answer, with the cap on the way in and the id on the way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: BodyLimit) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._num_bytes = 0
        self._is_whole = False
        self.status = 0
        self.request_id = _request_id(scope)
        self.log: dict[str, object] = {}
        state = scope.setdefault("state", {})
        state["request_id"] = self.request_id
        state["log"] = self.log

    async def receive(self) -> Message:
        """Raises: BodyTooLarge, after the rest was read, so that the client hears the answer; BodyStalled."""
        if self._is_whole:  # what may come is that the client leaves
            return await self._receive()
        message = await self._next_part()
        if self._num_bytes > self._limit.num_bytes:
            await self._discard(message)
            raise BodyTooLarge(*self._limit)
        return message

    async def _next_part(self) -> Message:
        # Until Python 3.12 `asyncio.wait_for` makes a task of every wait: six times as long.
        task = asyncio.current_task()
        assert task is not None
        has_stalled = False

        def give_up() -> None:
            nonlocal has_stalled
            has_stalled = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(_PATIENCE_S, give_up)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if not has_stalled:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise BodyStalled(_PATIENCE_S) from None
        finally:
            timer.cancel()
        self._num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def _discard(self, message: Message) -> None:
        # A client that gets its connection cut while it sends does not read the answer. Bounded all the same.
        while message.get("more_body") and self._num_bytes < 16 * self._limit.num_bytes:
            message = await self._next_part()
            if message["type"] != "http.request":
                raise ClientDisconnect


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return f"{_random.getrandbits(128):032x}"
