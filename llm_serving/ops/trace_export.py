"""Spans to a collector: a queue with a bound, a thread that sends it in batches, an end with a deadline.

Queue, batches and sampling are the library's own and read its variables (`OTEL_BSP_…`,
`OTEL_TRACES_SAMPLER`). Needs the extra `otel`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Tracer
from starlette.types import Scope

from llm_serving.ops.request_span import RequestSpan

logger = logging.getLogger(__name__)

_NAME = "llm-serving"
_LAST_BATCH_S = 3.0  # for what waits when the server stops
_BETWEEN_WARNINGS_S = 60.0


class Tracing:
    """Spans of requests between `start` and `stop`; at other times there are none. Event loop only."""

    def __init__(self, exporter: Any, to_processor: Callable[[Any], Any] = BatchSpanProcessor) -> None:
        """`exporter` is a `SpanExporter`, of which `to_processor` makes a `SpanProcessor`."""
        self._exporter = exporter
        self._to_processor = to_processor
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def start(self) -> None:
        """Start the thread that sends. Where a variable is wrong there are no spans, and a warning."""
        of_environment = OTELResourceDetector().detect().attributes
        resource = Resource.create({"service.name": _NAME, **of_environment})
        try:
            provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            provider.add_span_processor(self._to_processor(self._exporter))
        except ValueError as error:
            logger.warning("no traces are sent: a variable OTEL_… is wrong: %s", error)
            return
        self._provider, self._tracer = provider, provider.get_tracer("llm_serving")

    def begin(self, scope: Scope, started_s: float) -> RequestSpan | None:
        """The span of a request that came at `started_s` of the monotonic clock."""
        return None if self._tracer is None else RequestSpan(self._tracer, scope, started_s)

    async def stop(self) -> None:
        """Send what waits, for some seconds at most."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is None:
            return
        loop, is_over = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
                loop.call_soon_threadsafe(is_over.set)

        threading.Thread(target=shut_down, name="last-traces", daemon=True).start()
        try:
            await asyncio.wait_for(is_over.wait(), _LAST_BATCH_S)
        except asyncio.TimeoutError:
            self._exporter.shutdown()
            logger.warning("the last traces are lost: the collector did not take them in %g s", _LAST_BATCH_S)


class Delivery:
    """An exporter that tells of lost spans once a minute at most, where the library's own tells each time."""

    def __init__(self, exporter: Any, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`exporter` is a `SpanExporter`; `place` is what the log calls its collector."""
        self._exporter = exporter
        self._place = place
        self._clock = clock
        self._log = logging.getLogger(type(exporter).__module__)
        self._num_lost = 0  # since the last warning
        self._warned_s = -_BETWEEN_WARNINGS_S
        self._is_failing = False
        self._is_shut = False

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Never raises."""
        heard = _Overheard()
        self._log.addFilter(heard)
        result: SpanExportResult
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            result = SpanExportResult.FAILURE
            heard.reason = f"{type(error).__name__}: {error}"
        finally:
            self._log.removeFilter(heard)
        if result is SpanExportResult.SUCCESS:
            self._note_success()
        else:
            self._note_loss(len(spans), heard.reason)
        return result

    def shutdown(self) -> None:
        """Once more is allowed: what is sent just now gives up then."""
        if not self._is_shut:
            self._is_shut = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.info("traces reach %s again", self._place)

    def _note_loss(self, num_spans: int, reason: str) -> None:
        self._is_failing = True
        self._num_lost += num_spans
        now_s = self._clock()
        if now_s - self._warned_s >= _BETWEEN_WARNINGS_S:
            logger.warning(
                "traces do not reach %s, %d spans were lost: %s", self._place, self._num_lost, reason
            )
            self._warned_s = now_s
            self._num_lost = 0


class _Overheard(logging.Filter):
    """Keeps the first message of this thread, and all of them from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""
        self._thread_id = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread_id:
            return True
        self.reason = self.reason or record.getMessage()[:300]
        return False


def otlp_exporter(endpoint: str) -> Delivery:
    """OTLP over HTTP to `endpoint`; headers, certificates and the rest are the environment's.

    Raises: ValueError for variables that are wrong.
    """
    url = urlsplit(endpoint)
    place = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"  # a URL may hold a password
    logger.info("traces go to %s", place)
    return Delivery(OTLPSpanExporter(endpoint=endpoint), place)
