"""One span a request, in the words of OpenTelemetry's conventions for HTTP and for generative AI.

All but its beginning is told when the request is over, from what its log line and the metrics know then. No
text of a prompt or an answer is told, nor what may quote one: stop strings, messages of errors.
Needs the extra `otel`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, Tracer, format_trace_id, get_current_span
from opentelemetry.trace import set_span_in_context as with_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from llm_serving.engine.request import TokenEvent
from llm_serving.service.generation import Generation, GenerationOptions

OPERATIONS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
    "/api/chat": "chat",
    "/completions": "text_completion",
    "/api/generate": "text_completion",
    "/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/rerank": "rerank",
    "/score": "score",
    "/classify": "classify",
    "/predict": "classify",
}
_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_MOST_SEQUENCES = 8  # of one request whose phases are told
_MOST_CHARS = 256  # of what a client wrote freely
_INT64 = 2**63 - 1  # numbers beyond would cost a whole batch
_CODES = {499: "client_disconnected"}  # where no error has one
_PROPAGATOR = TraceContextTextMapPropagator()
_UNSAID = GenerationOptions()
_SAID = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
_USAGE = {
    "model": "gen_ai.response.model",
    "prompt": "gen_ai.usage.input_tokens",
    "cached": "gen_ai.usage.cache_read.input_tokens",
    "completion": "gen_ai.usage.output_tokens",
    "texts": "llm_serving.texts",
}


class RequestSpan:
    """The span of the request in `scope`, whose parent is the one that its `traceparent` names."""

    def __init__(self, tracer: Tracer, scope: Scope, started_s: float) -> None:
        """`started_s` is of the monotonic clock, as all times here.

        `trace_id` is 32 hex digits, or "" where they lead nowhere: not recorded here, and nobody else's.
        """
        self._tracer = tracer
        self._scope = scope
        self._started_s = started_s
        self._epoch_ns = time.time_ns() - int(time.monotonic() * 1e9)
        parent = _parent_of(scope)
        self._method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        self._span = tracer.start_span(
            self._method,
            parent,
            SpanKind.SERVER,
            dict(_http_attributes(scope)),
            start_time=self._at(started_s),
        )
        leads_somewhere = self._span.is_recording() or get_current_span(parent).get_span_context().is_valid
        self.trace_id = format_trace_id(self._span.get_span_context().trace_id) if leads_somewhere else ""

    def end(self, status: int, seconds: float) -> None:
        """Tell what became of the request, `seconds` behind its start."""
        ended_s = self._started_s + seconds
        if self._span.is_recording():
            state: Mapping[str, Any] = self._scope["state"]
            route = getattr(self._scope.get("route"), "path", "").removeprefix("/v1")
            if route:
                self._span.update_name(f"{self._method} {route}")
                self._span.set_attribute("http.route", route)
            self._span.set_attribute("http.response.status_code", status)
            self._span.set_attribute("llm_serving.request_id", state["request_id"])
            self._tell_error(status, state.get("error"))
            if self._method == "POST" and route in OPERATIONS:
                self._span.set_attributes(dict(_gen_ai_attributes(OPERATIONS[route], state)))
            if "generation" in state:
                self._tell_phases(state["generation"], ended_s, is_stream=state["is_stream"])
        self._span.end(self._at(ended_s))

    def _tell_error(self, status: int, code: str | None) -> None:
        """As the convention has it, the client's errors are none of the server's."""
        if code is None and status < 400:
            return
        self._span.set_attribute("error.type", code or _CODES.get(status, str(status)))
        if status >= 500 or status < 400:
            self._span.set_status(StatusCode.ERROR)

    def _tell_phases(self, generation: Generation, ended_s: float, *, is_stream: bool) -> None:
        """Spans of what each sequence waited for, and when the first token came."""
        context = with_span(self._span, Context())
        for index in sorted(generation.latest)[:_MOST_SEQUENCES]:
            for name, begin_s, end_s, facts in _phases(generation.latest[index], ended_s):
                child = self._tracer.start_span(
                    name,
                    context,
                    attributes={"llm_serving.choice": index, **facts},
                    start_time=self._at(begin_s),
                )
                child.end(self._at(max(begin_s, end_s)))
        firsts = [event.timings.first_token_s for event in generation.latest.values()]
        first_s = min((moment_s for moment_s in firsts if moment_s), default=None)
        if first_s is not None:
            self._span.add_event("first_token", timestamp=self._at(first_s))
            if is_stream:
                delay_s = first_s - self._started_s
                self._span.set_attribute("gen_ai.response.time_to_first_chunk", delay_s)

    def _at(self, moment_s: float) -> int:
        """The time of day in nanoseconds."""
        return self._epoch_ns + int(moment_s * 1e9)


def _parent_of(scope: Scope) -> Context:
    """What `traceparent` names, empty if that is nothing or nonsense. Two parents are nonsense.

    `tracestate` is left out: nothing here passes it on, and the library logs what is wrong in it.
    """
    found = [str(value, "latin-1") for name, value in scope["headers"] if name == b"traceparent"]
    if len(found) != 1 or len(found[0]) > _MOST_CHARS:
        return Context()
    return _PROPAGATOR.extract({"traceparent": found}, Context())


def _http_attributes(scope: Scope) -> Iterator[tuple[str, Any]]:
    """What is known when a request begins."""
    method = scope["method"]
    if method in _METHODS:
        yield "http.request.method", method
    else:
        yield "http.request.method", "_OTHER"
        yield "http.request.method_original", method[:_MOST_CHARS]
    yield "url.scheme", scope.get("scheme", "http")
    yield "url.path", quote(scope["path"][:_MOST_CHARS], errors="replace")
    yield "network.protocol.version", scope.get("http_version", "1.1")
    address, port = scope.get("server") or (None, None)
    if address is not None:
        yield "server.address", address
    if port is not None:
        yield "server.port", port
    if scope.get("client"):
        yield "client.address", scope["client"][0]
    for name, value in scope["headers"]:
        if name == b"user-agent":
            yield "user_agent.original", str(value[:_MOST_CHARS], "latin-1")


def _gen_ai_attributes(operation: str, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What was asked of a model, and what it took; nothing that was said."""
    yield "gen_ai.operation.name", operation
    yield "gen_ai.provider.name", "llm_serving"
    asked = state.get("asked_model")
    if isinstance(asked, str):
        yield "gen_ai.request.model", asked[:_MOST_CHARS]
    for fact, name in _USAGE.items():
        if fact in state["log"]:
            yield name, state["log"][fact]
    generation: Generation | None = state.get("generation")
    if generation is None:
        return
    yield "gen_ai.response.id", state["response_id"]
    yield "gen_ai.request.stream", state["is_stream"]
    yield from _request_attributes(generation.options)
    reasons = [generation.finals[index].finish_reason for index in sorted(generation.finals)]
    yield "gen_ai.response.finish_reasons", [reason.value for reason in reasons if reason is not None]


def _request_attributes(options: GenerationOptions) -> Iterator[tuple[str, Any]]:
    """Only what the request says itself."""
    for name in _SAID:
        value = getattr(options, name)
        if value != getattr(_UNSAID, name):
            yield f"gen_ai.request.{name}", min(value, _INT64)
    if options.top_k:
        yield "gen_ai.request.top_k", float(options.top_k)
    if options.n != 1:
        yield "gen_ai.request.choice.count", options.n


def _phases(event: TokenEvent, ended_s: float) -> Iterator[tuple[str, float, float, dict[str, int]]]:
    """Name, begin, end and facts of what `event`, the latest of its sequence, has behind it."""
    timings = event.timings
    end_s = timings.finished_s or ended_s
    if not timings.scheduled_s:
        return
    yield "queue", timings.arrived_s, timings.scheduled_s, {}
    facts = {"prompt_tokens": event.num_prompt_tokens, "cached_tokens": event.num_cached_tokens}
    yield "prefill", timings.scheduled_s, timings.first_token_s or end_s, _named(facts)
    if timings.first_token_s:
        facts = {"completion_tokens": event.num_completion_tokens, "preemptions": timings.num_preemptions}
        yield "decode", timings.first_token_s, end_s, _named(facts)


def _named(facts: Mapping[str, int]) -> dict[str, int]:
    return {f"llm_serving.{name}": value for name, value in facts.items()}
