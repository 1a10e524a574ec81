"""Active probes of Azure OpenAI endpoints over HTTPS, free of tokens.

An endpoint is probed by `GET /openai/v1/models`: it proves network, TLS, credential and resource. Its answer lists
the models of the resource's region, not its deployments, so it cannot tell whether a deployment exists.

A deployment is probed by a chat completion with an empty body. Azure looks the deployment up before it reads the body:
404 `DeploymentNotFound` when there is none, else 400, whatever the deployment's kind. Such a request spends no token,
but may count against the deployment's requests per minute; so it is asked for by `probe: Deployment` only.
Source: Azure Architecture Center, "Use a gateway in front of multiple Azure OpenAI deployments", health checks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from aoai_operator.core.health import ProbeTarget, Sample
from aoai_operator.core.observed import Reason

API_VERSION = "2024-10-21"
_MODELS = "/openai/v1/models"
_BODY_LIMIT = 16 * 1024


class HttpProber:
    """Implements `Prober`. Each probe opens a connection of its own, so that it sees what a new connection sees.

    It dials the addresses that Envoy dials, in turn, and checks the certificate against the endpoint's host name.
    """

    def __init__(self, *, ca_file: Path | None = None) -> None:
        """Trust the CAs of `ca_file` (PEM), or the machine's own when None."""
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=ca_file),
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close it; no probe may be under way."""
        await self._client.aclose()

    async def endpoint(self, target: ProbeTarget) -> Sample:
        """Ask for the resource's models."""
        return await _with_each_key(target, self._models)

    async def deployment(self, target: ProbeTarget, name: str) -> Sample:
        """Ask the deployment for nothing."""
        return await _with_each_key(target, lambda one: self._deployment(one, name))

    async def _models(self, target: ProbeTarget) -> Sample:
        answer = await self._ask(target, "GET", _MODELS)
        if isinstance(answer, Sample):
            return answer
        if 200 <= answer.status_code < 300:
            return Sample(Reason.OK)
        return _verdict(answer, f"GET {_MODELS}")

    async def _deployment(self, target: ProbeTarget, name: str) -> Sample:
        path = f"/openai/deployments/{name}/chat/completions"
        answer = await self._ask(target, "POST", path)
        if isinstance(answer, Sample):
            return answer
        if answer.status_code == 400:
            return Sample(Reason.OK)
        if answer.status_code == 404 and _error_code(answer) == "DeploymentNotFound":
            return Sample(Reason.DEPLOYMENT_MISSING, f"there is no deployment {name!r} at {target.host}")
        return _verdict(answer, f"POST {path}")

    async def _ask(self, target: ProbeTarget, method: str, path: str) -> httpx.Response | Sample:
        where = f"{target.host}:{target.port}"
        try:
            # httpx's own limit, on each phase, cleans up after itself; cancelling a TLS handshake leaks its socket.
            # So the limit on the whole only stops an answer that dribbles.
            async with asyncio.timeout(2 * target.timeout_ms / 1000):
                return await self._first_to_connect(target, method, path)
        except (TimeoutError, httpx.TimeoutException):
            return Sample(Reason.TIMEOUT, f"no answer from {where} within {target.timeout_ms} ms")
        except httpx.LocalProtocolError:
            # Its text quotes the header: nothing of it may be shown.
            return Sample(Reason.AUTH, f"the credential for {where} holds characters that no HTTP header can carry")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return _fault(error, where)

    async def _first_to_connect(self, target: ProbeTarget, method: str, path: str) -> httpx.Response:
        addresses = target.addresses or (target.host.strip("[]"),)
        for address in addresses[:-1]:
            try:
                return await self._send(target, address, method, path)
            except httpx.ConnectError:
                continue
        return await self._send(target, addresses[-1], method, path)

    async def _send(self, target: ProbeTarget, address: str, method: str, path: str) -> httpx.Response:
        url = httpx.URL(scheme=target.scheme, host=address, port=target.port, path=path)
        default = 443 if target.scheme == "https" else 80
        headers = {
            b"host": (target.host if target.port == default else f"{target.host}:{target.port}").encode(),
            **_credential(target),
            b"user-agent": b"aoai-operator",
            b"accept-encoding": b"identity",
        }
        request = self._client.build_request(
            method,
            url if method == "GET" else url.copy_with(params={"api-version": API_VERSION}),
            headers=headers,
            json={} if method == "POST" else None,
            timeout=target.timeout_ms / 1000,
            extensions={"sni_hostname": target.host.strip("[]")},
        )
        response = await self._client.send(request, stream=True)
        try:
            return httpx.Response(response.status_code, headers=_telling(response), content=await _beginning(response))
        finally:
            await response.aclose()


async def _with_each_key(target: ProbeTarget, ask: Callable[[ProbeTarget], Awaitable[Sample]]) -> Sample:
    """Ask with both keys of an account, of which one may just have been renewed: the other is good enough."""
    if target.other is None:
        return await ask(target)
    found = [await ask(replace(target, credential=key, other=None)) for key in (target.credential, target.other)]
    taken = [sample for sample in found if sample.reason is not Reason.AUTH]
    return replace(taken[0], stale=len(taken) < len(found)) if taken else found[0]


def _credential(target: ProbeTarget) -> dict[bytes, bytes]:
    value = target.credential.reveal()
    return {b"authorization": f"Bearer {value}".encode()} if target.bearer else {b"api-key": value.encode()}


async def _beginning(response: httpx.Response) -> bytes:
    """Read a refusal's body, as far as it can be one; a good answer's does not matter."""
    body = b""
    if response.status_code >= 400:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _BODY_LIMIT:
                break
    return body


def _telling(response: httpx.Response) -> dict[str, str]:
    return {name: value for name in ("retry-after-ms", "retry-after") if (value := response.headers.get(name))}


def _verdict(answer: httpx.Response, what: str) -> Sample:
    status = answer.status_code
    if status == 429:
        return Sample(Reason.RETRY_AFTER, retry_after_ms=_retry_after_ms(answer))
    reason = Reason.AUTH if status in (401, 403) else Reason.STATUS
    return Sample(reason, f"{what} was answered {status}")


def _retry_after_ms(answer: httpx.Response) -> int | None:
    for name, factor in (("retry-after-ms", 1), ("retry-after", 1000)):
        text = answer.headers.get(name, "").strip()
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text) * factor
    return None


def _error_code(answer: httpx.Response) -> str | None:
    try:
        code = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def _fault(error: Exception, where: str) -> Sample:
    """Name the fault by what lies under httpx's error. Only texts of the system and of OpenSSL are quoted."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Sample(Reason.TLS, f"the certificate of {where} is not trusted: {cause.verify_message.rstrip('.')}")
        if isinstance(cause, ssl.SSLError):
            return Sample(Reason.TLS, f"TLS with {where} failed: {cause.reason or 'handshake'}")
        if isinstance(cause, socket.gaierror):
            return Sample(Reason.DNS, f"{where} does not resolve: {cause.strerror}")
    number = next((c.errno for c in causes if isinstance(c, OSError) and c.errno), None)
    if number == errno.ETIMEDOUT:
        return Sample(Reason.TIMEOUT, f"no connection to {where}: {os.strerror(number)}")
    if isinstance(error, (httpx.ConnectError, OSError)):
        why = os.strerror(number) if number else "it closed at once"
        return Sample(Reason.CONNECT, f"no connection to {where}: {why}")
    return Sample(Reason.CONNECT, f"the connection to {where} broke before an answer")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        cause = pending.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            pending += [cause.__context__, cause.__cause__]
            if isinstance(cause, BaseExceptionGroup):
                pending += cause.exceptions
