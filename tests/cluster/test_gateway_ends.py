"""A pod of the gateway ends under load as a kubelet ends it, by the chart's own hook: no client notices."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
from openai import AsyncAzureOpenAI

from aoai_operator.simulator import Deployment, Slow
from support.calls import HELLO
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import whole
from support.cluster.forwarder import forwarding
from support.cluster.house import House
from support.cluster.pods import GatewayPod
from support.load import load
from support.waiting import eventually

_PORT = 8080
_DATA, _HEADERS, _SETTINGS, _GOAWAY = 0, 1, 4, 7
_END_STREAM, _END_HEADERS = 0x1, 0x4
_GET = b"\x82\x86\x04\x08/nothing\x01\x07gateway"
"""GET http://gateway/nothing (RFC 7541)."""
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Service:
    """The gateway's Service: a port of this machine, and the pods behind it."""

    house: House
    port: int
    endpoints: list[GatewayPod]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def installed(plane: ControlPlane, namespace: str) -> AsyncIterator[Service]:
    """Two Envoys at addresses of their own, each with a replica that says where it listens, behind a Service."""
    endpoints: list[GatewayPod] = []
    async with House(plane, namespace) as house, forwarding(lambda: [(p.ip, _PORT) for p in endpoints]) as port:
        for number in range(2):
            ip = house.release.address()
            operator = await house.release.start_operator(f"operator-{number}", AOAI_GATEWAY_HTTP=f"{ip}:{_PORT}")
            endpoints.append(await house.release.start_gateway(f"gateway-{number}", served_by=operator, ip=ip))
        house.azure.regions["west"].deploy(Deployment(name="long", model="long"))
        house.azure.fault("west", Slow(deployment="long", seconds=0.0, between_events=0.5))
        await house.apply_pool()
        await whole(house)
        yield Service(house, port, endpoints)


async def count(pod: GatewayPod, name: str) -> int:
    """Return a statistic of an Envoy's listeners for clients."""
    found = json.loads(await pod.admin(f"/stats?format=json&filter=^http.default.{name}$"))
    return sum(stat["value"] for stat in found["stats"] if "value" in stat)


async def more(pod: GatewayPod, name: str, by: int) -> None:
    """Return when a statistic has grown by so much."""
    goal = await count(pod, name) + by

    async def reached() -> bool:
        return await count(pod, name) >= goal

    await eventually(reached, what=f"{pod.name} has {by} more of {name}")


async def hook_began(pod: GatewayPod) -> bool:
    return "DRAINING" in await pod.admin("/server_info")


async def whole_stream(client: AsyncAzureOpenAI, begun: asyncio.Event) -> str | None:
    """Read a stream that lasts longer than a hook without requests does; return how it finished."""
    finished = None
    async with client:
        async for chunk in await client.chat.completions.create(model="long", messages=HELLO, stream=True):
            begun.set()
            finished = chunk.choices[0].finish_reason if chunk.choices else finished
    return finished


class KeptAlive:
    """Two connections to one pod, HTTP/1.1 and HTTP/2, with a request now and then."""

    def __init__(self, one: Wire, two: Wire) -> None:
        self._one, self._two = one, two
        self._streams = itertools.count(1, 2)

    async def ask_1(self) -> bytes:
        """Send a request, and return the head of its answer."""
        self._one[1].write(b"GET /nothing HTTP/1.1\r\nhost: gateway\r\n\r\n")
        head = await self._one[0].readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")
        )
        await self._one[0].readexactly(length)
        return head.lower()

    async def ask_2(self) -> set[int]:
        """Send a request, and return the types of the frames that come until its answer has ended (RFC 9113)."""
        stream = next(self._streams)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0) if stream == 1 else b""
        self._two[1].write(preface + frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, _GET))
        kinds = set()
        while True:
            head = await self._two[0].readexactly(9)
            await self._two[0].readexactly(int.from_bytes(head[:3]))
            kinds.add(head[3])
            if head[3] in (_DATA, _HEADERS) and head[4] & _END_STREAM and int.from_bytes(head[5:]) == stream:
                return kinds


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


@asynccontextmanager
async def kept_alive(pod: GatewayPod) -> AsyncIterator[KeptAlive]:
    """Keep two connections while the block runs. What a test asks before and after goes over the same ones."""
    wires = [await asyncio.open_connection(pod.ip, _PORT) for _ in range(2)]
    try:
        yield KeptAlive(*wires)
    finally:
        for _, writer in wires:
            writer.transport.abort()


async def test_a_pod_of_the_gateway_ends_under_load(plane: ControlPlane, namespace: str) -> None:
    async with installed(plane, namespace) as service, AsyncExitStack() as stack:
        house, (ending, staying) = service.house, service.endpoints
        fresh = httpx2.AsyncClient(limits=httpx2.Limits(max_keepalive_connections=0))
        clients = (
            house.client(gateway=service.url, max_retries=0),
            house.client(gateway=service.url, max_retries=0, http_client=fresh),
        )
        loads = [await stack.enter_async_context(load(client, streams="long")) for client in clients]
        for pod in (ending, staying):
            await more(pod, "downstream_rq_total", 20)
        wires = await stack.enter_async_context(kept_alive(ending))
        assert b"connection: close" not in await wires.ask_1()
        assert _GOAWAY not in await wires.ask_2()
        begun = asyncio.Event()
        direct = house.client(gateway=f"http://{ending.ip}:{_PORT}", max_retries=0)
        async with asyncio.TaskGroup() as tasks:
            stream = tasks.create_task(whole_stream(direct, begun))
            await begun.wait()
            tasks.create_task(ending.terminate())
            await eventually(lambda: hook_began(ending), what="the hook has begun")
            # Not everybody knows at once that a pod is to end: for a moment its Service goes on.
            await more(ending, "downstream_cx_total", 10)
            assert b"connection: close" in await wires.ask_1()
            assert _GOAWAY in await wires.ask_2()
            service.endpoints.remove(ending)
        assert stream.result() == "stop"
        for under in loads:
            await under.goes_on()
    assert not ending.part.running
