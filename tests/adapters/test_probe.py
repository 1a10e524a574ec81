"""Probes against real sockets: each fault with its own reason, and no secret in any message."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from aoai_operator.adapters.probe import HttpProber
from aoai_operator.core.health import ProbeTarget, Sample
from aoai_operator.core.observed import Reason
from aoai_operator.core.secret import SecretValue
from support.servers import Authority, answer, serving

KEY = "sk-do-not-print-me"
NOT_FOUND = json.dumps({"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}})


@pytest_asyncio.fixture(loop_scope="function")
async def prober() -> AsyncIterator[HttpProber]:
    async with HttpProber() as prober:
        yield prober


def target(
    port: int,
    *,
    scheme: str = "http",
    host: str = "east.example",
    addresses: tuple[str, ...] = ("127.0.0.1",),
    timeout_ms: int = 10_000,
    key: str = KEY,
) -> ProbeTarget:
    return ProbeTarget(scheme, host, port, SecretValue(key), timeout_ms, addresses)


def assert_fault(sample: Sample, reason: Reason, words: str) -> None:
    assert sample.reason is reason, sample
    assert words in sample.message
    assert KEY not in sample.message


async def test_a_live_endpoint_is_asked_for_its_models_with_its_key(prober: HttpProber) -> None:
    async with serving(answer(200, "{}", set_cookie="a=b")) as server:
        assert await prober.endpoint(target(server.port)) == Sample(Reason.OK)
        assert await prober.endpoint(target(server.port)) == Sample(Reason.OK)
    head, again = server.requests
    assert head.startswith("GET /openai/v1/models HTTP/1.1\r\n")
    assert f"host: east.example:{server.port}\r\n" in head.lower()
    assert f"api-key: {KEY}\r\n" in head
    assert "cookie" not in again.lower()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.AUTH),
        (403, Reason.AUTH),
        (302, Reason.STATUS),
        (404, Reason.STATUS),
        (500, Reason.STATUS),
        (503, Reason.STATUS),
    ],
)
async def test_refusals_are_told_apart(prober: HttpProber, status: int, reason: Reason) -> None:
    async with serving(answer(status, location="http://127.0.0.1:1/")) as server:
        assert_fault(await prober.endpoint(target(server.port)), reason, f"was answered {status}")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry_after": "3"}, 3_000),
        ({"retry_after": "3", "retry_after_ms": "250"}, 250),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
    ],
)
async def test_a_busy_endpoint_is_alive(prober: HttpProber, headers: dict[str, str], wait: int | None) -> None:
    async with serving(answer(429, **headers)) as server:
        sample = await prober.endpoint(target(server.port))
    assert sample == Sample(Reason.RETRY_AFTER, retry_after_ms=wait)
    assert sample.good


async def test_a_closed_port_is_a_connect_fault(prober: HttpProber) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        sample = await prober.endpoint(target(closed.getsockname()[1]))
    assert_fault(sample, Reason.CONNECT, "Connection refused")
    assert "east.example" in sample.message


async def test_a_server_that_hangs_up_is_a_connect_fault(prober: HttpProber) -> None:
    async with serving(b"") as server:
        assert_fault(await prober.endpoint(target(server.port)), Reason.CONNECT, "broke before an answer")


async def test_nonsense_is_a_connect_fault(prober: HttpProber) -> None:
    async with serving(b"SSH-2.0-OpenSSH_9.6\r\n") as server:
        assert_fault(await prober.endpoint(target(server.port)), Reason.CONNECT, "broke before an answer")


async def test_a_silent_server_is_a_timeout(prober: HttpProber) -> None:
    async with serving(None) as server:
        sample = await prober.endpoint(target(server.port, timeout_ms=100))
        assert_fault(sample, Reason.TIMEOUT, "within 100 ms")


async def test_the_head_of_a_good_answer_is_enough(prober: HttpProber) -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n") as server:
        assert await prober.endpoint(target(server.port)) == Sample(Reason.OK)


async def test_an_unknown_name_is_a_dns_fault(prober: HttpProber) -> None:
    sample = await prober.endpoint(target(443, host="no-such-host.invalid", addresses=()))
    assert_fault(sample, Reason.DNS, "no-such-host.invalid:443 does not resolve")


async def test_the_next_address_is_tried_when_the_first_refuses(prober: HttpProber) -> None:
    async with serving(answer(200)) as server:
        sample = await prober.endpoint(target(server.port, addresses=("127.0.0.2", "127.0.0.1")))
    assert sample.good


async def test_a_trusted_certificate_for_the_endpoints_name_is_good(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        HttpProber(ca_file=authority.ca_file) as prober,
        serving(answer(200), tls=authority.server("east.example")) as server,
    ):
        assert (await prober.endpoint(target(server.port, scheme="https"))).good
        west = await prober.endpoint(target(server.port, scheme="https", host="west.example"))
        assert_fault(west, Reason.TLS, "Hostname mismatch")


async def test_an_expired_certificate_is_a_tls_fault(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with (
        HttpProber(ca_file=authority.ca_file) as prober,
        serving(answer(200), tls=authority.server("east.example", expired=True)) as server,
    ):
        assert_fault(await prober.endpoint(target(server.port, scheme="https")), Reason.TLS, "expired")


async def test_an_unknown_authority_is_a_tls_fault(prober: HttpProber, tmp_path: Path) -> None:
    async with serving(answer(200), tls=Authority(tmp_path).server("east.example")) as server:
        assert_fault(await prober.endpoint(target(server.port, scheme="https")), Reason.TLS, "is not trusted")


async def test_plain_http_where_tls_is_due_is_a_tls_fault(prober: HttpProber) -> None:
    async with serving(answer(200)) as server:
        assert_fault(await prober.endpoint(target(server.port, scheme="https")), Reason.TLS, "TLS with east.example")


async def test_a_server_silent_in_the_tls_handshake_is_a_timeout(prober: HttpProber) -> None:
    async with serving(None) as server:
        assert_fault(
            await prober.endpoint(target(server.port, scheme="https", timeout_ms=100)), Reason.TIMEOUT, "100 ms"
        )


async def test_a_key_that_no_header_can_carry_is_an_auth_fault(prober: HttpProber) -> None:
    async with serving(answer(200)) as server:
        assert_fault(await prober.endpoint(target(server.port, key=KEY + "\n")), Reason.AUTH, "characters")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(400, "{}"), Reason.OK),
        (answer(404, NOT_FOUND), Reason.DEPLOYMENT_MISSING),
        (answer(404, "not json"), Reason.STATUS),
        (answer(404, '{"error": "odd"}'), Reason.STATUS),
        (answer(401), Reason.AUTH),
        (answer(429, retry_after="1"), Reason.RETRY_AFTER),
        (answer(500), Reason.STATUS),
    ],
)
async def test_a_deployment_is_asked_for_nothing(prober: HttpProber, reply: bytes, reason: Reason) -> None:
    async with serving(reply) as server:
        sample = await prober.deployment(target(server.port), "gpt-4o")
    assert sample.reason is reason
    head = server.requests[0]
    assert head.startswith("POST /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n")
