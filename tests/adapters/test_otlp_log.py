"""The logs service: who may tell what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.otlp_log import LogServer
from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.audience import Audience, Placement
from aoai_operator.core.names import PoolKey
from aoai_operator.core.proxies import Proxy

SIDECAR = Audience("default", Placement.SIDECAR, "search")
EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
ATTEMPT = "attempt\tai/{pool}|0|any|gpt-4o\teast\td\tr\t429\t-\t1500\t-"
ANSWER = (
    "answer\tai/{pool}|0|any|gpt-4o\tai/team\t/openai/v1/embeddings\teast\td\tr\t200\t-\tvia\t1\t9\t8\t7\t6\t-\tid\t-"
)


class Sink:
    """Keeps which pools it hears of, in the order of hearing."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def answers(self, batch: Sequence[Answer]) -> None:
        self.heard += [("answer", a.pool) for a in batch]

    def attempts(self, batch: Sequence[Attempt]) -> None:
        self.heard += [("attempt", a.pool) for a in batch]


@asynccontextmanager
async def exporting(sink: Sink, audience: Audience | None) -> AsyncIterator[Any]:
    async def identify(context: Any, _claimed: Proxy, /) -> Audience:
        if audience is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "nobody")
            raise AssertionError
        return audience

    def sees(_audience: Audience, pool: PoolKey) -> bool:
        return pool.name == "chat"

    handler = LogServer(sink, identify=identify, sees=sees).handler()
    async with serving("127.0.0.1:0", [handler]) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.unary_unary(EXPORT, request_serializer=bytes, response_deserializer=bytes)


def request(*lines: str) -> bytes:
    message = logs_service_pb2.ExportLogsServiceRequest()
    records = message.resource_logs.add().instrumentation_library_logs.add().logs
    for line in lines:
        records.add().body.string_value = line
    return bytes(message.SerializeToString())


async def test_failed_attempts_are_told_first_and_garbage_not_at_all() -> None:
    sink = Sink()
    async with exporting(sink, SIDECAR) as export:
        await export(request(ANSWER.format(pool="chat"), "garbage", "", ATTEMPT.format(pool="chat"), "answer\tcut"))
    assert sink.heard == [("attempt", "ai/chat"), ("answer", "ai/chat")]


async def test_what_is_said_of_other_pools_is_dropped() -> None:
    sink = Sink()
    lines = [line.format(pool=pool) for line in (ANSWER, ATTEMPT) for pool in ("chat", "other")]
    async with exporting(sink, SIDECAR) as export:
        await export(request(*lines))
    assert sink.heard == [("attempt", "ai/chat"), ("answer", "ai/chat")]


async def test_nobody_tells_anything() -> None:
    sink = Sink()
    async with exporting(sink, None) as export:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await export(request(ATTEMPT.format(pool="chat")))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not sink.heard
