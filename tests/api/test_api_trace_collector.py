"""Traces on their way to a collector: through OTLP, past one that does not answer, from a whole process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import fake_app, running_server
from patience import PATIENCE_S, wait_until

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from trace_collector import Collector, attributes_of, running_collector

ROOT = Path(__file__).parents[2]
CHAT: dict[str, Any] = {"messages": [{"content": "Hi"}], "max_tokens": 3, "model": "fake"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("llm_serving.ops.trace_export._LAST_BATCH_S", PATIENCE_S)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


def test_spans_arrive_as_otlp(collector: Collector) -> None:
    """The largest numbers and the strangest texts that a client may send, too."""
    hostile = {
        **CHAT,
        "seed": -(2**63),
        "max_tokens": 2**64 - 1,
        "model": "\N{SNOWMAN}" * 300,
        "top_k": 2**31 - 1,
    }
    with running_server(fake_app(otlp_endpoint=collector.url)) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=PARENT).status_code == 200
        assert httpx.post(f"{url}/v1/chat/completions", json=hostile).status_code == 200
        httpx.get(f"{url}/%ff%fe", headers=[(b"user-agent", b"\xff\xfe\x00"[:2])])
    assert (collector.paths, collector.services) == ({"/v1/traces"}, {"llm-serving"})
    spans = {span.span_id: span for span in collector.spans}
    ours = [span for span in spans.values() if span.trace_id.hex() == TRACE]
    (request,) = (span for span in ours if span.name == "POST /chat/completions")
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert attributes_of(request)["gen_ai.usage.output_tokens"] == 3
    assert {span.name for span in ours if span.parent_span_id == request.span_id} == {
        "queue", "prefill", "decode",
    }  # fmt: skip
    (other,) = (span for span in spans.values() if span.trace_id.hex() != TRACE and span.name == request.name)
    told = attributes_of(other)
    assert told["gen_ai.request.seed"] == -(2**63)
    assert told["gen_ai.request.max_tokens"] == 2**63 - 1
    assert told["gen_ai.request.model"] == "\N{SNOWMAN}" * 256
    assert [span.name for span in spans.values()].count("GET") == 1


def test_the_standards_variables(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/its/own")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with running_server(fake_app()) as url:
        httpx.get(f"{url}/models")
        wait_until(lambda: collector.spans)  # a batch leaves while the server runs
    assert (collector.paths, collector.services) == ({"/its/own"}, {"answers"})


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_a_variable_that_is_wrong_ends_nothing(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "-1")
    with running_server(fake_app(otlp_endpoint=collector.url)) as url:
        assert httpx.get(f"{url}/models").status_code == 200
    assert not collector.spans
    assert "no traces are sent: a variable OTEL_… is wrong: " in caplog.text


@pytest.mark.parametrize("kind", ["nobody", "refuses", "hangs"])
def test_a_collector_that_does_not_take_them(
    collector: Collector,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Answers come as always, the log has a line, and the server stops when it should."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr("llm_serving.ops.trace_export._LAST_BATCH_S", 0.2)
    endpoint = collector.url
    if kind == "nobody":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    collector.status = 403
    collector.delay_s = 30.0 if kind == "hangs" else 0.0
    with running_server(fake_app(otlp_endpoint=endpoint)) as url:
        for _ in range(20):
            assert httpx.post(f"{url}/chat/completions", json=CHAT, timeout=PATIENCE_S).status_code == 200
        if kind != "hangs":
            wait_until(lambda: "traces do not reach" in caplog.text)
        else:
            wait_until(lambda: collector.num_posts)
        assert httpx.get(f"{url}/ready", timeout=PATIENCE_S).status_code == 200
    assert not collector.spans
    assert caplog.text.count("traces do not reach") <= 1
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]


def test_without_an_endpoint_there_is_no_thread_and_no_layer() -> None:
    before = set(threading.enumerate())
    app = fake_app()
    assert app.state.services.tracing is None
    with running_server(app) as url:
        assert httpx.get(f"{url}/models").status_code == 200
        begun = set(threading.enumerate()) - before
        assert begun
        assert not [thread for thread in begun if "Otel" in thread.name]


PROGRAMS = {
    "serve": ["-m", "llm_serving.cli", "serve", "--engine", "fake", "--port", "0"],
    "main": ["-m", "uvicorn", "main:app", "--port", "0"],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_process_sends_what_it_has_when_it_is_stopped(collector: Collector, program: str) -> None:
    environ = {
        **os.environ,
        "LLM_SERVING_ENGINE": "fake",
        "LLM_SERVING_MODEL_NAME": "fake",
        "LLM_SERVING_EMBEDDING_MODEL": "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    with subprocess.Popen(
        [sys.executable, *PROGRAMS[program]], cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = url_of(process)
            wait_until(lambda: is_ready(url))
            assert httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=PARENT).status_code == 200
            assert not collector.spans
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert "Traceback" not in errors
    assert f"trace_id={TRACE}" in errors
    assert sorted(span.name for span in collector.spans) == [
        "POST /chat/completions", "decode", "prefill", "queue",
    ]  # fmt: skip


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.ConnectError:  # bound, and not listening yet
        return False


def url_of(process: subprocess.Popen[str]) -> str:
    """Where it listens, which it says on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"(?:Address +|running on )(http://127\.0\.0\.1:\d+)", line)
        if found is not None:
            return found[1]
    raise AssertionError("it ended")


def test_a_missing_extra_ends_serve_with_one_line() -> None:
    """Where `main:app` does the same."""
    hide = "import sys; sys.modules['opentelemetry.sdk'] = None; "
    serve = (
        "from llm_serving.cli.program import run; sys.exit(run(['serve', '--engine', 'fake', '--port', '0']))"
    )
    for program in (serve, "import main"):
        done = subprocess.run(
            [sys.executable, "-c", hide + program],
            cwd=ROOT,
            env={**os.environ, "LLM_SERVING_OTLP_ENDPOINT": "http://localhost:4318"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1].endswith("pip install 'llm-serving[otel]'")
        assert "Traceback" not in done.stderr
