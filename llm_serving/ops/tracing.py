"""Whether OpenTelemetry traces are asked for, and where they go. The library is not imported otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llm_serving.config import Settings, SettingsError
from llm_serving.errors import MissingExtra

if TYPE_CHECKING:
    from llm_serving.ops.trace_export import Tracing

logger = logging.getLogger(__name__)

EXTRA = "otel"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_TRACES_ENDPOINT, _ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_PATH = "/v1/traces"
_DEFAULT = "http://localhost:4318"


def open_tracing(settings: Settings, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Traces if `--otlp-endpoint` or the standard's environment asks for them, else None.

    The environment is often that of many programs, so what is wrong or missing there is a warning.
    Raises: MissingExtra, SettingsError, if the setting asks.
    """
    try:
        return _open(settings.otlp_endpoint, environ) if _are_asked_for(settings, environ) else None
    except (MissingExtra, SettingsError) as error:
        if settings.otlp_endpoint:
            raise
        logger.warning("no traces are sent, though the environment asks for them. %s", error)
        return None


def _are_asked_for(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Raises: SettingsError for an exporter that is not here."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if settings.otlp_endpoint:
        return True
    exporter = environ.get(_EXPORTER, "").strip().lower()
    if exporter not in ("", "otlp", "none"):
        raise SettingsError(f"{_EXPORTER}: must be otlp or none")
    if exporter:
        return exporter == "otlp"
    return bool(environ.get(_TRACES_ENDPOINT) or environ.get(_ENDPOINT))


def _open(endpoint: str, environ: Mapping[str, str]) -> Tracing:
    """Raises: MissingExtra, SettingsError."""
    name = next((name for name in _PROTOCOLS if environ.get(name)), None)
    if name is not None and environ[name].strip().lower() != _PROTOCOL:
        raise SettingsError(f"{name}: must be {_PROTOCOL}, which collectors take on port 4318")
    try:
        from llm_serving.ops.trace_export import Tracing, otlp_exporter
    except ModuleNotFoundError:
        raise MissingExtra("opentelemetry-sdk", EXTRA) from None
    try:
        return Tracing(otlp_exporter(_url(endpoint, environ)))
    except ValueError as error:
        raise SettingsError(f"A variable OTEL_… is wrong: {error}") from None


def _url(endpoint: str, environ: Mapping[str, str]) -> str:
    """The variable for traces alone holds the whole URL, the other one and the setting its base."""
    if not endpoint and environ.get(_TRACES_ENDPOINT):
        return environ[_TRACES_ENDPOINT]
    base = endpoint or environ.get(_ENDPOINT) or _DEFAULT
    return base.rstrip("/").removesuffix(_PATH) + _PATH
