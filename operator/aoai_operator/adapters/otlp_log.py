"""Takes the access log of Envoys in other pods, by OpenTelemetry's logs service.

Only the records' bodies count: each is one line, as the pipe brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import structlog
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from aoai_operator.core.accesslog import parse_lines
from aoai_operator.core.audience import Audience
from aoai_operator.core.envoy.accesslogs import claimed
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import Identify, LogSink

_SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"
_TAKEN = logs_service_pb2.ExportLogsServiceResponse()

_log = structlog.get_logger("accesslog")


class LogServer:
    """Gives what proxies tell to a sink; what they have no business to tell is dropped.

    A proxy that lies about its own pools can take hosts from them: it carries their traffic, and could do worse.
    """

    def __init__(
        self,
        sink: LogSink,
        *,
        identify: Identify,
        sees: Callable[[Audience, PoolKey], bool],
    ) -> None:
        """Take who hears, and what decides who may speak.

        Args:
            sink: gets the lines, failed attempts first.
            identify: finds out the audience of the proxy that calls, and ends the call when it proves nothing.
            sees: tells whether the proxies of an audience carry a pool.
        """
        self._sink = sink
        self._identify = identify
        self._sees = sees

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service, to be put on a server."""
        method = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=logs_service_pb2.ExportLogsServiceRequest.FromString,
            response_serializer=logs_service_pb2.ExportLogsServiceResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"Export": method})

    async def _export(self, request: Any, context: Any) -> Any:
        audience = await self._identify(context, claimed(context.invocation_metadata()))
        attempts, answers = parse_lines(_lines(request))
        named = {a.pool for a in attempts} | {a.pool for a in answers}
        foreign = {pool for pool in named if not self._sees(audience, PoolKey.of(pool))}
        if foreign:
            _log.warning("a proxy tells of pools that are not its own", audience=str(audience), pools=len(foreign))
            attempts = [a for a in attempts if a.pool not in foreign]
            answers = [a for a in answers if a.pool not in foreign]
        # Attempts first: they change where the next requests go.
        if attempts:
            self._sink.attempts(attempts)
        if answers:
            self._sink.answers(answers)
        return _TAKEN


def _lines(request: Any) -> Iterator[str]:
    # xds-protos has the names from before OpenTelemetry 1.0, such as this for "scope_logs"; the wire is the same.
    for resource in request.resource_logs:
        for scope in resource.instrumentation_library_logs:
            for record in scope.logs:
                yield record.body.string_value
