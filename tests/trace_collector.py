"""Where spans go in tests: into memory, or to a collector on a socket that reads OTLP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from llm_serving.ops.trace_export import Tracing


class Memory(Tracing):
    """Tracing that keeps its spans."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter, SimpleSpanProcessor)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def requests(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.SERVER]

    def one(self) -> ReadableSpan:
        """The only request's span."""
        (span,) = self.requests
        return span

    def phases(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is not SpanKind.SERVER]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return Memory()


class Collector:
    """Answers exports with `status`, after `delay_s`."""

    def __init__(self) -> None:
        self.status = 200
        self.delay_s = 0.0
        self.num_posts = 0
        self.paths: set[str] = set()
        self.services: set[str] = set()
        self.spans: list[Any] = []  # of protobuf
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        self.num_posts += 1
        time.sleep(self.delay_s)
        if self.status != 200:
            return
        self.paths.add(path)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services.add(attributes_of(of_resource.resource)["service.name"])
            for of_scope in of_resource.scope_spans:
                self.spans.extend(of_scope.spans)


def attributes_of(item: Any) -> dict[str, Any]:
    """Attributes of a span or a resource of protobuf, lists left out."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in item.attributes
        if pair.value.WhichOneof("value") != "array_value"
    }


@contextmanager
def running_collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
