"""Calls to a gateway that several tests make."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from openai.types.chat import ChatCompletionMessageParam

from aoai_operator.simulator import RequestRecord, Simulator

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]

STANDARD_HEADERS = frozenset(
    {"accept", "accept-encoding", "accept-language", "api-key", "connection", "content-encoding", "content-length",
     "content-type", "host", "te", "transfer-encoding", "user-agent"}
)  # fmt: skip
"""Headers towards Azure that are HTTP's own (RFC 9110), and the credential."""


def requests(azure: Simulator) -> list[RequestRecord]:
    """Return the requests that all regions saw, in the order of their arrival."""
    return sorted((record for region in azure.regions.values() for record in region.log), key=lambda r: r.at)


def last(azure: Simulator) -> RequestRecord:
    """Return the last request that any region saw."""
    return requests(azure)[-1]


async def ask(client: Any, model: str = "gpt-4o", **options: Any) -> str:
    """Ask a question, and return the answer's text."""
    answer = await client.chat.completions.create(model=model, messages=HELLO, **options)
    return answer.choices[0].message.content or ""


async def raw(address: tuple[str, int], *parts: bytes, marker: bytes = b"") -> bytes:
    """Send bytes as they are, and return what comes back until the gateway closes, or until `marker` has come."""
    reader, writer = await asyncio.open_connection(*address)
    answer = b""
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(20):
            while chunk := await reader.read(65_536):
                answer += chunk
                if marker and marker in answer:
                    break
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return answer


def head(method: str, path: str, headers: Iterable[tuple[str, str]] = (), *, version: str = "HTTP/1.1") -> bytes:
    """Return the head of a request that closes the connection."""
    lines = [f"{method} {path} {version}", "host: gateway", "connection: close", *(f"{n}: {v}" for n, v in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def heal(azure: Simulator) -> None:
    """Have all regions healthy, and forget what they counted."""
    for name in azure.regions:
        azure.heal(name)
    azure.reset_counts()
