"""Decides whether this process traces, from OpenTelemetry's environment variables.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) turns it on; `OTEL_SDK_DISABLED=true` and
`OTEL_TRACES_EXPORTER=none` turn it off. Everything else (headers, sampling, the service's name) is read by
OpenTelemetry itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from perdure.api.telemetry.spans import Spans

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_logger = structlog.get_logger("perdure")


def tracing_of(app: str, environ: Mapping[str, str]) -> Spans | None:
    """The spans of an app of this name.

    None if the environment does not turn tracing on, or the extra is missing.
    """
    endpoint = next((name for name in _ENDPOINTS if environ.get(name)), None)
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if endpoint is None or disabled or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        from perdure.api.telemetry.spans import exporting
    except ImportError:
        _logger.warning(
            f"{endpoint} is set, but nothing is traced, because OpenTelemetry is not installed: "
            "pip install 'opentelemetry-sdk>=1.30,<2' 'opentelemetry-exporter-otlp-proto-http>=1.30,<2'"
        )
        return None
    return exporting(None if environ.get("OTEL_SERVICE_NAME") else app)
