"""Whether traces are asked for, where they go, and what is said when they do not arrive."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from llm_serving.config import Settings, SettingsError
from llm_serving.errors import MissingExtra
from llm_serving.ops.tracing import _url, open_tracing

ENDPOINT, EXPORTER = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER"
SOMEWHERE = "http://collector:4318"


@pytest.mark.parametrize(
    ("setting", "environ"),
    [
        ("", {}),
        ("", {ENDPOINT: ""}),
        ("", {EXPORTER: "none", ENDPOINT: SOMEWHERE}),
        ("", {EXPORTER: "otlp", "OTEL_SDK_DISABLED": "true"}),
        (SOMEWHERE, {"OTEL_SDK_DISABLED": " True "}),
        ("", {"OTEL_SERVICE_NAME": "a", "OTEL_TRACES_SAMPLER": "always_on"}),
    ],
)
def test_nobody_asks(setting: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_serving.ops.trace_export", None)
    assert open_tracing(Settings(otlp_endpoint=setting), environ) is None


ASKING = [
    (SOMEWHERE, {}),
    (SOMEWHERE, {EXPORTER: "none"}),
    ("", {ENDPOINT: SOMEWHERE}),
    ("", {EXPORTER: "OTLP"}),
    ("", {EXPORTER: "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}),
    ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": SOMEWHERE + "/v1/traces"}),
]


@pytest.mark.parametrize(("setting", "environ"), ASKING)
def test_somebody_asks(setting: str, environ: dict[str, str]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    assert open_tracing(Settings(otlp_endpoint=setting), environ) is not None


def test_opening_starts_no_thread() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    before = threading.active_count()
    assert open_tracing(Settings(otlp_endpoint=SOMEWHERE), {}) is not None
    assert threading.active_count() == before


PROBLEMS = [
    ({EXPORTER: "jaeger"}, "OTEL_TRACES_EXPORTER: must be otlp or none"),
    ({EXPORTER: "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: must be"),
    ({ENDPOINT: SOMEWHERE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "TRACES_PROTOCOL: must be http/"),
]


@pytest.mark.parametrize(("environ", "message"), PROBLEMS)
def test_what_is_wrong_in_the_environment_is_a_warning(
    environ: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Which may be meant for other programs: a server that served without traces goes on so."""
    assert open_tracing(Settings(), environ) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert message in record.getMessage()


def test_what_the_setting_asks_for_and_cannot_be_is_an_error() -> None:
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf"):
        open_tracing(Settings(otlp_endpoint=SOMEWHERE), {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_a_missing_extra_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "llm_serving.ops.trace_export", None)
    with pytest.raises(MissingExtra) as caught:
        open_tracing(Settings(otlp_endpoint=SOMEWHERE), {})
    command = "pip install 'llm-serving[otel]'"
    assert str(caught.value).endswith(command)
    assert open_tracing(Settings(), {EXPORTER: "otlp"}) is None
    assert caplog.messages[0].endswith(command)


@pytest.mark.parametrize(
    ("setting", "environ", "url"),
    [
        (SOMEWHERE, {ENDPOINT: "http://other"}, SOMEWHERE + "/v1/traces"),
        (SOMEWHERE + "/", {}, SOMEWHERE + "/v1/traces"),
        (SOMEWHERE + "/v1/traces", {}, SOMEWHERE + "/v1/traces"),
        ("", {ENDPOINT: SOMEWHERE + "/base/"}, SOMEWHERE + "/base/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/b", ENDPOINT: SOMEWHERE}, "http://a/b"),
        ("", {EXPORTER: "otlp"}, "http://localhost:4318/v1/traces"),
    ],
)
def test_where_they_go(setting: str, environ: dict[str, str], url: str) -> None:
    assert _url(setting, environ) == url


@pytest.mark.parametrize("value", ["collector:4318", "grpc://a", "http://", "http:// a", "http://a?b", "x"])
def test_an_endpoint_is_a_url(value: str) -> None:
    with pytest.raises(SettingsError, match="--otlp-endpoint"):
        Settings(otlp_endpoint=value)


def test_a_password_in_a_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    caplog.set_level(logging.INFO)
    assert open_tracing(Settings(otlp_endpoint="http://me:sesame@collector:4318"), {}) is not None
    assert "http://collector:4318/v1/traces" in caplog.text
    assert "sesame" not in caplog.text


class Exporter:
    """Fails, raises or succeeds as it is told, and says so in the log each time, as the library's does."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.outcomes = SpanExportResult
        self.outcome: Any = SpanExportResult.FAILURE
        self.num_shut = 0
        self.is_free = threading.Event()

    def export(self, spans: Sequence[Any]) -> Any:
        logging.getLogger(__name__).warning("refused by %s", "nobody")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def shutdown(self) -> None:
        self.num_shut += 1
        self.is_free.set()


def test_of_what_is_lost_one_line_is_written_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from llm_serving.ops.trace_export import Delivery

    caplog.set_level(logging.INFO)
    exporter, now_s = Exporter(), [1000.0]
    delivery = Delivery(exporter, "somewhere", clock=lambda: now_s[0])
    for _ in range(59):
        assert delivery.export(["span"] * 3) is exporter.outcomes.FAILURE
        now_s[0] += 1
    assert caplog.messages == ["traces do not reach somewhere, 3 spans were lost: refused by nobody"]
    exporter.outcome = OSError("no route")
    now_s[0] += 1
    delivery.export(["span"])
    assert caplog.messages[1:] == ["traces do not reach somewhere, 175 spans were lost: OSError: no route"]
    exporter.outcome = exporter.outcomes.SUCCESS
    for _ in range(3):
        assert delivery.export(["span"]) is exporter.outcomes.SUCCESS
    assert caplog.messages[2:] == ["traces reach somewhere again"]
    logging.getLogger(__name__).warning("from elsewhere")
    assert caplog.messages[-1] == "from elsewhere"


@pytest.mark.anyio
async def test_the_end_has_a_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that takes its time is given up, by an exporter that is told so once."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from llm_serving.ops.trace_export import Delivery, Tracing

    class Waiting(SimpleSpanProcessor):
        def shutdown(self) -> None:
            assert exporter.is_free.wait(10)
            super().shutdown()
            is_over.set()

    monkeypatch.setattr("llm_serving.ops.trace_export._LAST_BATCH_S", 0.05)
    exporter, is_over = Exporter(), threading.Event()
    tracing = Tracing(Delivery(exporter, "somewhere"), Waiting)
    tracing.start()
    await asyncio.wait_for(tracing.stop(), 5)
    assert caplog.messages == ["the last traces are lost: the collector did not take them in 0.05 s"]
    assert await asyncio.to_thread(is_over.wait, 5)
    assert exporter.num_shut == 1
    await tracing.stop()
