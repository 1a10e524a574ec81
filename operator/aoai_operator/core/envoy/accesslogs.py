"""The access loggers: into a named pipe beside Envoy, or by OpenTelemetry to the control plane in another pod."""

from __future__ import annotations

from collections.abc import Iterable

from aoai_operator.core.envoy.config import extension
from aoai_operator.core.envoy.settings import CONTROL_PLANE, GatewaySettings
from aoai_operator.core.envoy.snapshot import Json
from aoai_operator.core.proxies import Proxy

GATEWAY_METADATA = "x-aoai-gateway"
"""The gRPC metadata of an export or an ask that says to which gateway the Envoy belongs, as `node.cluster` for ADS."""


def claimed(metadata: Iterable[tuple[str, str | bytes]] | None) -> Proxy:
    """Return what the sender of a call with this metadata says that it is; such a call names no single Envoy."""
    return Proxy(id="", gateway=str(dict(metadata or ()).get(GATEWAY_METADATA, "")))


_FLUSH = "0.050s"
"""As `--file-flush-interval-msec` does for the pipe: a Retry-After cannot wait."""
_BUFFER_BYTES = 32 << 10
_TIMEOUT = "2s"
"""An export that nobody answers is given up, so that what waits for a control plane that hangs stays bounded."""


def access_log(settings: GatewaySettings, line: str) -> Json:
    """Return the logger that writes a line (core/accesslog.py) where the settings say."""
    if settings.access_log is None:
        return _open_telemetry(settings.gateway, line)
    return extension(
        "access-log",
        "access_loggers.file.v3.FileAccessLog",
        path=settings.access_log,
        log_format={"text_format_source": {"inline_string": line}},
    )


def _open_telemetry(gateway: str, line: str) -> Json:
    """The line is the record's whole body: attributes, and Envoy's own labels, would cost and say nothing more."""
    return extension(
        "access-log",
        "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        common_config={
            "log_name": "aoai",
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": CONTROL_PLANE},
                "timeout": _TIMEOUT,
                "initial_metadata": [{"key": GATEWAY_METADATA, "value": gateway}],
            },
            "buffer_flush_interval": _FLUSH,
            "buffer_size_bytes": _BUFFER_BYTES,
        },
        disable_builtin_labels=True,
        body={"string_value": line.rstrip("\n")},
    )
