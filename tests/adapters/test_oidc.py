"""Asking issuers for their keys, over HTTP: what comes, and what is said where nothing does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from aoai_operator.adapters.oidc import HttpIssuers
from aoai_operator.core.table import TokenIssuer
from aoai_operator.ports import IssuerError
from support.entra import DIRECTORY, Entra


@pytest_asyncio.fixture
async def entra() -> AsyncIterator[Entra]:
    async with Entra().serving() as running:
        yield running


def issuer(url: str) -> TokenIssuer:
    return TokenIssuer(kind="entra", url=url, audience="aoai")


async def refusal(url: str) -> str:
    """Return why an issuer's keys cannot be had."""
    async with HttpIssuers() as issuers:
        with pytest.raises(IssuerError) as found:
            await issuers.keys(issuer(url))
    return str(found.value)


@pytest.mark.parametrize("version", [1, 2])
async def test_a_directory_has_two_issuers_and_one_set_of_keys(entra: Entra, version: int) -> None:
    path = {1: DIRECTORY, 2: f"{DIRECTORY}/v2.0"}[version]
    async with HttpIssuers() as issuers:
        found = await issuers.keys(issuer(f"{entra.url}/{path}"))
    assert found.issuer == entra.issuer(version)
    assert [key["kid"] for key in json.loads(found.jwks)["keys"]] == ["first"]
    assert not found.fault


async def test_what_does_not_answer_as_it_should_is_named(entra: Entra) -> None:
    assert "404" in await refusal(f"{entra.url}/nowhere")
    entra.broken = True
    assert "503" in await refusal(f"{entra.url}/{DIRECTORY}")
    assert "cannot be reached" in await refusal("http://127.0.0.1:1/nobody")
    assert "there is no API server here" in await refusal("")


async def answering(text: str, **headers: str) -> AsyncIterator[str]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=302 if headers else 200, text=text, headers=headers)

    app = web.Application()
    app.add_routes([web.get("/{tail:.*}", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("text", "headers", "why"),
    [
        ("x" * 300_000, {}, "more than"),
        ("<html>", {}, "no JSON"),
        ("{}", {}, "tells no issuer"),
        ("", {"location": "http://127.0.0.1:1/"}, "302"),
    ],
)
async def test_what_is_no_answer_of_an_issuers_is_told(text: str, headers: dict[str, str], why: str) -> None:
    async for url in answering(text, **headers):
        assert why in await refusal(url)
