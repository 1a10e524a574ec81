"""A real Envoy as `aoai-operator local` runs it, beside a publisher and a control plane of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aoai_operator.adapters.envoy_process import EnvoyOptions, EnvoyProcess, find_envoy
from aoai_operator.control_plane import ControlPlane
from aoai_operator.core.envoy.bootstrap import UnixAddress, bootstrap
from aoai_operator.core.observed import Overrides
from aoai_operator.runners.publish import Publisher
from support.waiting import eventually


class NoObservations:
    """Implements `Observing`: nothing was ever seen."""

    def overrides(self, now: int) -> Overrides:  # noqa: ARG002
        """Return none."""
        return Overrides()

    def next_change(self, now: int) -> int | None:  # noqa: ARG002
        """Return none."""
        return None


@asynccontextmanager
async def envoy_beside(plane: ControlPlane, publisher: Publisher, directory: Path) -> AsyncIterator[Path]:
    """Run the publisher and an Envoy of its gateway while the block runs; the value is Envoy's admin socket."""
    control, admin = directory / "xds.sock", directory / "admin.sock"
    static = bootstrap(
        node_id="n", gateway="default", control_plane=UnixAddress(str(control)), admin=UnixAddress(str(admin))
    )
    options = EnvoyOptions(
        binary=find_envoy(None),
        directory=directory,
        bootstrap=static,
        admin_socket=admin,
        concurrency=1,
        drain_seconds=1,
    )
    envoy = EnvoyProcess(options, clean=publisher.cleaned)
    async with plane.serving(f"unix:{control}"):
        tasks = [asyncio.create_task(loop) for loop in (envoy.run(), publisher.run())]
        try:
            await eventually(admin.exists)
            yield admin
        finally:
            await envoy.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
