"""Answers what proxies in other pods ask the ledger, by gRPC: where their xDS comes from, and as who they proved to be.

Our Lua frames its line as gRPC does, so that no other port, certificate or token is needed. Messages are plain bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog

from aoai_operator.core.audience import Audience
from aoai_operator.core.envoy.accesslogs import claimed
from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.asking import read
from aoai_operator.ports import Identify, UnavailableError

_SERVICE = "aoai.dev.Ledger"

_log = structlog.get_logger("ledger")


class LedgerServer:
    """Lets proxies ask, each of its own pools alone."""

    def __init__(
        self,
        answer: Callable[[str], Awaitable[str]],
        *,
        identify: Identify,
        sees: Callable[[Audience, PoolKey], bool],
    ) -> None:
        """Take who answers, and what decides who may ask.

        Args:
            answer: answers an ask, or raises UnavailableError.
            identify: finds out the audience of the proxy that calls, and ends the call when it proves nothing.
            sees: tells whether the proxies of an audience carry a pool.
        """
        self._answer = answer
        self._identify = identify
        self._sees = sees

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Return the service, to be put on a server."""
        method = grpc.unary_unary_rpc_method_handler(self._ask, request_deserializer=bytes, response_serializer=bytes)
        return grpc.method_handlers_generic_handler(_SERVICE, {"Ask": method})

    async def _ask(self, request: bytes, context: Any) -> bytes:
        audience = await self._identify(context, claimed(context.invocation_metadata()))
        try:
            line = request.decode()
            if not self._sees(audience, read(line).pool):
                _log.warning("a proxy asks for a pool that is not its own", audience=str(audience))
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this proxy does not carry that pool")
            return (await self._answer(line)).encode()
        except ValueError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no ask")
        except UnavailableError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        raise AssertionError
