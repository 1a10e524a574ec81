"""Where a replica is called and written to; where that cannot be, the start fails and says which and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from aoai_operator.adapters.http import Checks, serve_http
from aoai_operator.adapters.pipe_log import access_log
from aoai_operator.runners.accounting import Accounting
from aoai_operator.settings import HostPort


class StartError(Exception):
    """It cannot start as asked: no credentials, a port in use. The message says which and why."""


@asynccontextmanager
async def pods_log(directory: Path | None, accounting: Accounting) -> AsyncIterator[None]:
    """Read the access log of the Envoy in this pod, where there is one, while the block runs.

    Raises:
        StartError: see there.
    """
    async with AsyncExitStack() as stack:
        if directory is not None:
            try:
                await stack.enter_async_context(access_log(directory / "access.log", accounting, keep=True))
            except OSError as error:
                raise StartError(f"cannot make a pipe for the Envoy of this pod in {directory}: {error}") from error
        yield


@asynccontextmanager
async def health(wanted: HostPort, registry: CollectorRegistry, checks: Checks) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics while the block runs.

    Raises:
        StartError: see there.
    """
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(
                serve_http(host=wanted.host, port=wanted.port, registry=registry, checks=checks)
            )
        except OSError as error:
            raise StartError(f"cannot listen on {wanted}: {error.strerror}") from error
        yield
