"""Spans of requests, in memory: what they say, and what they do not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fake_server import fake_app, open_client, running_server, send
from patience import until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from trace_collector import Memory, memory

from llm_serving.api.routes import ROUTES
from llm_serving.ops.request_span import OPERATIONS

__all__ = ["memory"]

pytestmark = pytest.mark.anyio
SECRET = "xylophone"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_chat_answer(memory: Memory) -> None:
    before_ns = time.time_ns()
    async with open_client(tracing=memory) as client:
        body = {
            **CHAT, "model": "fake", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": -7, "n": 2,
            "presence_penalty": 0.25, "frequency_penalty": -0.5, "ignore_eos": True,
        }  # fmt: skip
        headers = {"x-request-id": "me", "user-agent": "tests/1"}
        answer = (await client.post("/v1/chat/completions?key=1", json=body, headers=headers)).json()
    span = memory.one()
    assert (span.name, span.kind, span.parent) == ("POST /chat/completions", SpanKind.SERVER, None)
    assert span.status.status_code is StatusCode.UNSET
    usage = answer["usage"]
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/chat/completions",
        "network.protocol.version": "1.1",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "server.address": "test",
        "client.address": "127.0.0.1",
        "user_agent.original": "tests/1",
        "llm_serving.request_id": "me",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llm_serving",
        "gen_ai.request.model": "fake",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 7.0,
        "gen_ai.request.seed": -7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.presence_penalty": 0.25,
        "gen_ai.request.frequency_penalty": -0.5,
        "gen_ai.response.id": answer["id"],
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert before_ns - 10**6 <= span.start_time <= span.end_time <= time.time_ns() + 10**6


@pytest.mark.parametrize("stream", [False, True])
async def test_phases_follow_each_other_inside_the_request(memory: Memory, stream: bool) -> None:
    async with open_client(tracing=memory, behaviour={"step_seconds": 0.01}) as client:
        await client.post("/chat/completions", json={**CHAT, "stream": stream, "ignore_eos": True})
    span, phases = memory.one(), memory.phases()
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    moments = [span.start_time, *(phase.start_time for phase in phases)]
    moments += [phases[-1].end_time, span.end_time]
    assert moments == sorted(moments, key=int)
    for earlier, later in zip(phases, phases[1:], strict=False):
        assert earlier.end_time == later.start_time
    for phase in phases:
        assert phase.parent is not None
        assert phase.parent.span_id == span.get_span_context().span_id
    prompt = attributes(span)["gen_ai.usage.input_tokens"]
    assert attributes(phases[1])["llm_serving.prompt_tokens"] == prompt
    assert attributes(phases[2])["llm_serving.completion_tokens"] == 4
    (event,) = span.events
    assert (event.name, event.timestamp) == ("first_token", phases[2].start_time)
    assert attributes(span)["gen_ai.request.stream"] is stream
    delay_s = attributes(span).get("gen_ai.response.time_to_first_chunk")
    assert (delay_s is not None) == stream
    assert delay_s is None or 0.01 <= delay_s < 5


async def test_of_many_choices_the_first_eight_are_told(memory: Memory) -> None:
    async with open_client(tracing=memory) as client:
        await client.post("/completions", json={"prompt": ["a", "b"], "n": 6, "max_tokens": 2})
    choices = {attributes(phase)["llm_serving.choice"] for phase in memory.phases()}
    assert choices == set(range(8))
    assert len(attributes(memory.one())["gen_ai.response.finish_reasons"]) == 12


GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", CHAT),
    ("/completions", {"prompt": SECRET, "max_tokens": 4, "stop": ["stop-" + SECRET]}),
    ("/responses", {"input": SECRET, "max_output_tokens": 4}),
    ("/messages", CHAT),
    ("/api/chat", {"messages": CHAT["messages"], "options": {"num_predict": 4}}),
    ("/api/generate", {"prompt": SECRET, "options": {"num_predict": 4}}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), GENERATING)
async def test_every_api_that_generates(
    memory: Memory, path: str, body: dict[str, Any], stream: bool
) -> None:
    async with open_client(tracing=memory) as client:
        response = await client.post(path, json={**body, "model": "fake", "stream": stream})
        assert response.status_code == 200, response.text
    told = attributes(memory.one())
    assert told["gen_ai.operation.name"] == OPERATIONS[path]
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "fake"
    assert told["gen_ai.request.max_tokens"] == 4
    assert told["gen_ai.request.stream"] is stream
    assert told["gen_ai.usage.input_tokens"] > 0
    assert len(told["gen_ai.response.finish_reasons"]) == 1
    assert len(memory.phases()) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embeddings", {"input": [SECRET, "b"]}),
        ("/api/embed", {"input": [SECRET, "b"], "model": "fake-embed"}),
        ("/api/embeddings", {"prompt": SECRET, "model": "fake-embed"}),
        ("/rerank", {"query": SECRET, "documents": ["a", "b"]}),
        ("/score", {"text_1": SECRET, "text_2": ["a", "b"]}),
    ],
)
async def test_every_api_that_encodes(memory: Memory, path: str, body: dict[str, Any]) -> None:
    async with open_client(tracing=memory) as client:
        assert (await client.post(path, json=body)).status_code == 200
    told = attributes(memory.one())
    assert told["gen_ai.operation.name"] == OPERATIONS[path]
    assert told["gen_ai.response.model"] == "fake-embed"
    assert told["gen_ai.usage.input_tokens"] > 2
    assert told["llm_serving.texts"] == (1 if path == "/api/embeddings" else 2)
    assert not memory.phases()


async def test_nothing_that_was_said_is_told(memory: Memory) -> None:
    """Nor stop strings, nor messages of errors, which may quote what was sent."""
    async with open_client(tracing=memory, behaviour={"reply": SECRET * 2}) as client:
        for path, body in GENERATING:
            await client.post(path, json={**body, "model": "fake"})
        await client.post("/completions", json={"prompt": ["a"], "suffix": SECRET})
        await client.post("/chat/completions", json={"messages": [{"role": SECRET, "content": "a"}]})
        await client.post("/embeddings", json={"input": [SECRET, ""]})
        await client.post("/tokenize", json={"prompt": SECRET})
        await client.post("/chat/completions", content=SECRET)
    assert len(memory.requests) == len(GENERATING) + 5
    assert SECRET not in "".join(span.to_json() for span in memory.spans)


async def test_every_operation_is_a_route() -> None:
    assert set(OPERATIONS) <= {route.path for route in ROUTES if route.method == "POST"}


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_probes_have_no_span(memory: Memory, path: str) -> None:
    async with open_client(tracing=memory) as client:
        for prefix in ("", "/v1"):
            assert (await client.get(prefix + path)).status_code == 200
            assert (await client.head(prefix + path)).status_code == 200
        await client.get("/v1/models")
    assert [span.name for span in memory.requests] == ["GET /models"]
    assert "gen_ai.operation.name" not in attributes(memory.one())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "name"),
    [
        ("POST", "/chat/completions", {"messages": 5}, 400, "invalid_value", "POST /chat/completions"),
        ("POST", "/rerank", {"query": "a"}, 400, "invalid_value", "POST /rerank"),
        ("POST", "/messages", CHAT, 404, "model_not_found", "POST /messages"),
        ("GET", "/models/nothing", None, 404, "model_not_found", "GET /models/{model_id:path}"),
        ("GET", "/nothing/here", None, 404, "404", "GET"),
        ("DELETE", "/chat/completions", None, 405, "405", "DELETE /chat/completions"),
        ("BREW", "/v1/coffee", None, 404, "404", "HTTP"),
    ],
)
async def test_what_a_client_did_wrong_is_no_error_of_the_server(
    memory: Memory, method: str, path: str, body: Any, status: int, code: str, name: str
) -> None:
    async with open_client(tracing=memory, strict_model_names=True) as client:
        sent = {**body, "model": "none"} if body and status == 404 else body
        assert (await client.request(method, path, json=sent)).status_code == status
    span = memory.one()
    assert (span.name, span.status.status_code) == (name, StatusCode.UNSET)
    told = attributes(span)
    assert told["http.response.status_code"] == status
    assert told["error.type"] == code
    assert told["http.request.method"] == ("_OTHER" if method == "BREW" else method)


async def test_what_the_server_cannot_do_is_one(memory: Memory) -> None:
    async with open_client(tracing=memory, behaviour={"fail_at_step": 2, "step_seconds": 0.005}) as client:
        body = {**CHAT, "ignore_eos": True}
        assert (await client.post("/chat/completions", json={**body, "stream": True})).status_code == 200
        assert (await client.post("/chat/completions", json=body)).status_code == 503
    broken, refused = memory.requests
    assert [span.status.status_code for span in (broken, refused)] == [StatusCode.ERROR] * 2
    assert attributes(broken)["http.response.status_code"] == 200
    assert attributes(broken)["error.type"] == "engine_dead"
    assert attributes(broken)["gen_ai.response.finish_reasons"] == ()
    assert attributes(refused)["error.type"] == "model_unavailable"
    assert [phase.name for phase in memory.phases()] == ["queue", "prefill", "decode"]


async def test_a_bug_is_an_internal_error(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_client(tracing=memory) as client:
        monkeypatch.setattr(client.services.chat, "_registry", None)
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 500
    span = memory.one()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "internal_error"
    assert not span.events


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves(memory: Memory, stream: bool) -> None:
    app = fake_app(tracing=memory, behaviour={"random": True, "step_seconds": 0.01})
    body = {**CHAT, "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    with running_server(app) as url:
        engine = app.state.services.registry.default.get().engine
        with send(url, "/chat/completions", body):
            await until(lambda: engine.stats().num_generated_tokens > 3)
        await until(lambda: memory.requests)
    span = memory.one()
    told = attributes(span)
    assert (told["http.response.status_code"], told["error.type"]) == (499, "client_disconnected")
    assert span.status.status_code is StatusCode.UNSET
    assert 0 < told["gen_ai.usage.output_tokens"] < 4000
    assert told["gen_ai.response.finish_reasons"] == ()
    decode = memory.phases()[-1]
    assert (decode.name, decode.end_time) == ("decode", span.end_time)


async def test_what_a_client_writes_is_bounded(memory: Memory) -> None:
    async with open_client(tracing=memory) as client:
        body = {**CHAT, "model": "m" * 500, "max_tokens": 2**64 - 1}
        headers = {"user-agent": "u" * 5000}
        response = await client.post("/chat/completions", json=body, headers=headers)
        assert response.status_code == 200, response.text
        await client.post("/chat/completions", json={**CHAT, "model": "m" * 9000})
        await client.post("/chat/completions", json={**CHAT, "model": {"a": SECRET}})
        await client.get("/" + "\N{SNOWMAN} " * 3000)
    told, refused, nameless, lost = map(attributes, memory.requests)
    assert told["gen_ai.request.model"] == refused["gen_ai.request.model"] == "m" * 256
    assert told["user_agent.original"] == "u" * 256
    assert told["gen_ai.request.max_tokens"] == 2**63 - 1
    assert "gen_ai.request.model" not in nameless
    assert len(lost["url.path"]) <= 256 * 9
    assert max(len(json.dumps(span.to_json())) for span in memory.requests) < 8192
