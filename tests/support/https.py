"""Clients that speak HTTPS to a gateway on this machine, under any host name."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx2
from cryptography import x509
from openai import AsyncOpenAI

from support.certificates import authority
from support.manifests import TENANT_KEY


def trusting() -> ssl.SSLContext:
    """Return what trusts the tests' CA."""
    return ssl.create_default_context(cadata=authority()[1])


class _OnThisMachine(httpx2.AsyncHTTPTransport):
    """Connects to 127.0.0.1, whatever the name; the name is asked for, and checked, all the same."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host="127.0.0.1")
        return await super().handle_async_request(request)


def https(name: str, port: int, **options: Any) -> httpx2.AsyncClient:
    """Return a client of https://name:port."""
    return httpx2.AsyncClient(
        base_url=f"https://{name}:{port}", transport=_OnThisMachine(verify=trusting(), **options), timeout=20
    )


def sdk(name: str, port: int, *, key: str = TENANT_KEY, **options: Any) -> AsyncOpenAI:
    """Return the SDK's client of the pool at https://name:port, without retries of its own."""
    made = https(name, port, **options)
    return AsyncOpenAI(base_url=f"https://{name}:{port}/openai/v1", api_key=key, max_retries=0, http_client=made)


async def handshake(name: str, port: int, context: ssl.SSLContext | None = None) -> ssl.SSLObject:
    """Shake hands as a client of `name`, and return what was agreed."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context or trusting(), server_hostname=name)
    agreed: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return agreed


async def serial(name: str, port: int) -> int:
    """Return the serial number of the certificate that a new connection sees."""
    der = (await handshake(name, port)).getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial_of(pem: str) -> int:
    """Return the serial number of a certificate."""
    return x509.load_pem_x509_certificate(pem.encode()).serial_number
