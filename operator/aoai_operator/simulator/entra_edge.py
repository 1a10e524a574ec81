"""The sockets of a simulated directory: Entra ID by TLS, and the metadata service of a virtual machine by HTTP."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self

from aiohttp import web

from aoai_operator.simulator.entra import Answer, EntraState, as_body


class Entra:
    """Serves a directory while the block runs. ``delay`` seconds pass before each answer."""

    def __init__(self, state: EntraState, *, certfile: str, keyfile: str, host: str = "127.0.0.1") -> None:
        """Take the directory, and the certificate: azure-identity speaks to an authority by HTTPS alone."""
        self.state = state
        self.delay = 0.0
        self.url = ""
        """Of Entra ID: ``AZURE_AUTHORITY_HOST``, or ``authorityHost``."""
        self.imds_url = ""
        """Of the metadata service: ``AZURE_POD_IDENTITY_AUTHORITY_HOST``."""
        self._host = host
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certfile, keyfile)
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        authority = web.Application()
        authority.add_routes([web.post("/{tenant}/oauth2/v2.0/token", self._token)])
        imds = web.Application()
        imds.add_routes([web.get("/metadata/identity/oauth2/token", self._managed)])
        self.url = f"https://localhost:{await self._serve(authority, self._context)}"
        self.imds_url = f"http://{self._host}:{await self._serve(imds, None)}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _serve(self, app: web.Application, context: ssl.SSLContext | None) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self._host, 0, ssl_context=context).start()
        return int(runner.addresses[0][1])

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        tenant = request.match_info["tenant"]
        endpoint = f"{self.url}/{tenant}/oauth2/v2.0/token"
        return await self._answer(self.state.token(tenant, form, endpoint=endpoint))

    async def _managed(self, request: web.Request) -> web.Response:
        metadata = request.headers.get("metadata") == "true"
        return await self._answer(self.state.managed(request.query, metadata=metadata))

    async def _answer(self, answer: Answer) -> web.Response:
        await asyncio.sleep(self.delay)
        return web.Response(status=answer[0], body=as_body(answer), content_type="application/json")
