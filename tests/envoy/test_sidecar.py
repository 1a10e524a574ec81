"""The sidecar's Envoy from its own bootstrap: it is ready when it serves, and not before."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from aoai_operator.adapters.envoy_process import find_envoy
from aoai_operator.adapters.grpc_server import serving
from aoai_operator.adapters.listening import reserved_port
from aoai_operator.adapters.xds_cache import SnapshotCache
from aoai_operator.adapters.xds_resources import pack
from aoai_operator.adapters.xds_server import XdsServer
from aoai_operator.core.envoy.control_plane import UnixAddress, control_plane_cluster
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.translate import translate
from aoai_operator.core.observed import Overrides
from aoai_operator.core.sidecar import Sidecar
from support.waiting import eventually


async def test_the_kubelet_hears_of_readiness_once_the_configuration_has_come() -> None:
    cache = SnapshotCache(pack)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aoai-test-")))
        port, ready, admin = (stack.enter_context(reserved_port("127.0.0.1", 0)) for _ in range(3))
        sidecar = Sidecar(
            gateway="default",
            operator_namespace="aoai-system",
            name="aoai-operator",
            image="",
            port=port,
            ready_port=ready,
            control_plane_port=18001,
        )
        bootstrap = sidecar.bootstrap()
        # The way to the operator is tested elsewhere; here it is a socket.
        bootstrap["static_resources"]["clusters"][0] = control_plane_cluster(UnixAddress(str(directory / "xds")))
        file = directory / "bootstrap.json"
        file.write_text(json.dumps(bootstrap).replace("9901", str(admin)))
        await stack.enter_async_context(serving(f"unix:{directory / 'xds'}", [XdsServer(cache, []).handler()]))
        envoy = await asyncio.create_subprocess_exec(
            str(find_envoy(None)),
            *("-c", str(file), "--service-node", "pod", "--concurrency", "1", "--disable-hot-restart"),
            *("--use-dynamic-base-id", "--log-level", "error"),
        )
        try:
            assert await eventually(lambda: status(admin, "/ready")) == 503
            assert await status(ready, "/ready") == 0
            settings = GatewaySettings(gateway="default", listen_host="127.0.0.1", listen_port=port, access_log=None)
            cache.publish("default", translate([], {}, Overrides(), settings))
            await eventually(lambda: is_ready(ready))
            assert await status(port, "/") == 404
            assert await status(ready, "/stats") == 404
        finally:
            envoy.kill()
            await envoy.wait()


async def is_ready(port: int) -> bool:
    return await status(port, "/ready") == 200


async def status(port: int, path: str) -> int:
    """Return the status of an answer; 0 if there is none."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=1) as client:
        try:
            return (await client.get(path)).status_code
        except httpx.TransportError:
            return 0
