"""The socket of a simulated Azure Resource Manager, and accounts made of simulated regions."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from aoai_operator.simulator.arm import Account, ArmState
from aoai_operator.simulator.simulator import RunningRegion


class Arm:
    """Serves accounts while the block runs; by TLS with a certificate, which a credential's policy demands."""

    def __init__(
        self, state: ArmState, *, certfile: str | None = None, keyfile: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        """Take what is to be served, and the certificate; None: plain HTTP."""
        self.state = state
        self.url = ""
        """The address that stands for https://management.azure.com."""
        self._host = host
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certfile else None
        if self._context and certfile:
            self._context.load_cert_chain(certfile, keyfile)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", self._answer)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0, ssl_context=self._context).start()
        port = self._runner.addresses[0][1]
        self.url = f"https://localhost:{port}" if self._context else f"http://{self._host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        reply = self.state.answer(
            request.method,
            request.path,
            request.query_string,
            request.headers.get("authorization", ""),
            await request.read(),
            base=self.url,
        )
        headers = {**reply.headers, "content-type": "application/json; charset=utf-8"}
        return web.Response(status=reply.status, body=reply.body, headers=headers)


def account_of(region: RunningRegion, **settings: Any) -> Account:
    """Return the account of a simulated region: its address, its keys and its deployments; the rest as given."""
    own = {"name": region.name, "location": region.name, "endpoint": f"{region.url}/", "region": region.state}
    return Account(**{**own, **settings})
