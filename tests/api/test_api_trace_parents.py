"""Whose children the spans of requests are, which are told, and where else their trace is named."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fake_server import Client, open_client
from patience import until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from trace_collector import Memory, memory

__all__ = ["memory"]

pytestmark = pytest.mark.anyio
CHAT: dict[str, Any] = {"messages": [{"content": "Hi"}], "max_tokens": 4}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


async def send(client: Client, *headers: tuple[str, str]) -> None:
    response = await client.get("/models", headers=list(headers))
    assert response.status_code == 200


async def test_the_parent_is_the_one_that_the_client_names(memory: Memory) -> None:
    async with open_client(tracing=memory) as client:
        await send(client, ("traceparent", TRACEPARENT), ("tracestate", "a=1"))
    span = memory.one()
    assert span.parent is not None
    assert span.parent.is_remote
    assert f"{span.parent.span_id:016x}" == PARENT
    assert f"{span.get_span_context().trace_id:032x}" == TRACE


HOSTILE = [
    "", "x", "00", TRACEPARENT[:-1], TRACEPARENT + "0", TRACEPARENT + "-00", TRACEPARENT.upper(),
    f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{PARENT}-zz", f"00-{TRACE}-{PARENT}", "-" * 5000, f"01-{TRACE}-{PARENT}-01-" + "a" * 5000,
    f"00-{TRACE[:-1]}\xe9-{PARENT}-01",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
async def test_nonsense_is_no_parent_and_no_error(
    memory: Memory, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_client(tracing=memory) as client:
        response = await client.get("/models", headers=[(b"traceparent", value.encode("latin-1"))])
        assert response.status_code == 200
    assert memory.one().parent is None
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_two_parents_are_none(memory: Memory) -> None:
    async with open_client(tracing=memory) as client:
        await send(client, ("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT))
    assert memory.one().parent is None


@pytest.mark.parametrize("flags", ["01", "03", "09", "ff"])
async def test_any_flags_may_be_set(memory: Memory, flags: str) -> None:
    async with open_client(tracing=memory) as client:
        await send(client, ("traceparent", TRACEPARENT[:-2] + flags))
    assert memory.one().parent is not None


async def test_wild_tracestates_are_not_even_logged(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    async with open_client(tracing=memory) as client:
        for state in ("=,=;\xff", "a" * 20000, "a=1,a=1," * 40):
            headers = [(b"traceparent", TRACEPARENT.encode()), (b"tracestate", state.encode("latin-1"))]
            assert (await client.get("/models", headers=headers)).status_code == 200
    assert [span.parent is not None for span in memory.requests] == [True] * 3
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_what_is_not_sampled_elsewhere_is_not_told_but_has_its_id_in_the_log(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_client(tracing=memory) as client:
        await send(client, ("traceparent", TRACEPARENT[:-2] + "00"))
        await until(lambda: f"trace_id={TRACE}" in caplog.text)
    assert not memory.spans


@pytest.mark.parametrize(("sampler", "count"), [("always_off", 0), ("always_on", 1)])
async def test_the_standards_sampler(
    memory: Memory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sampler: str,
    count: int,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    caplog.set_level(logging.INFO)
    async with open_client(tracing=memory) as client:
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
        await until(lambda: "POST /chat/completions 200" in caplog.text)
    assert len(memory.requests) == count
    assert len(memory.phases()) == 3 * count
    assert ("trace_id=" in caplog.text) == bool(count)


async def test_the_line_of_the_log_has_the_trace(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_client(tracing=memory) as client:
        await client.post("/chat/completions", json=CHAT, headers={"x-request-id": "me"})
        await until(lambda: " id=me " in caplog.text)
    (line,) = (record.getMessage() for record in caplog.records if " id=me " in record.getMessage())
    assert line.endswith(f" trace_id={memory.one().get_span_context().trace_id:032x}")
