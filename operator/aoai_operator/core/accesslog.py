"""The access log: which lines Envoy writes, and what they mean. One line a request, one more for each failed attempt.

Lines are tab-separated text, because each other way costs Envoy more (docs/performance.md). No field of a client's can
hold a tab or a line break: HTTP forbids both in paths, and the rest is ours or Azure's, cleaned by our Lua.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from aoai_operator.core.operations import INFERENCE

_LABEL = "%UPSTREAM_METADATA(aoai:id)%\t%UPSTREAM_METADATA(aoai:deployment)%\t%UPSTREAM_METADATA(aoai:region)%"

ANSWER_LINE = (
    "answer\t%ROUTE_NAME%\t%FILTER_STATE(aoai.tenant:PLAIN)%\t%PATH(NQ)%\t"
    f"{_LABEL}\t%RESPONSE_CODE%\t%RESPONSE_FLAGS%\t%RESPONSE_CODE_DETAILS%\t%UPSTREAM_REQUEST_ATTEMPT_COUNT%\t"
    "%DURATION%\t%RESPONSE_DURATION%\t%BYTES_RECEIVED%\t%BYTES_SENT%\t%RESP(content-type)%\t%FILTER_STATE(aoai.request_id:PLAIN)%\t"
    "%FILTER_STATE(aoai.quota:PLAIN)%\t%FILTER_STATE(aoai.usage:PLAIN)%\n"
)
"""The line of an answered request, in Envoy's command operators."""

ATTEMPT_LINE = (
    f"attempt\t%ROUTE_NAME%\t{_LABEL}\t%RESPONSE_CODE%\t%RESPONSE_FLAGS%\t%RESP(retry-after-ms)%\t%RESP(retry-after)%\n"
)
"""The line of an attempt that failed."""


class Usage(NamedTuple):
    """Tokens as Azure counted them. `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int
    completion: int
    total: int
    cached: int = 0
    reasoning: int = 0


class Answer(NamedTuple):
    """One request of a client, answered. Times in milliseconds; empty text where there is nothing to say.

    A tuple, as one is made for every request, and a frozen dataclass of this size takes three times as long.

    Attributes:
        pool: "namespace/pool".
        tenant: "namespace/tenant", empty for an anonymous caller or before it was known.
        model: the model that was asked for; for a request that named none or an unknown one, empty.
        operation: "chat/completions", "embeddings" and so on.
        endpoint, deployment, region: who answered; empty when the gateway did.
        flags: Envoy's response flags, such as "UH" or "DC".
        attempts: how many hosts were asked.
        usage: None when the answer told none.
        quota: how it was let in (lua/quota.lua); empty where nothing is limited, or the ledger was not asked.
    """

    request_id: str
    pool: str
    tenant: str
    model: str
    operation: str
    endpoint: str
    deployment: str
    region: str
    status: int
    flags: str
    details: str
    attempts: int
    stream: bool
    duration_ms: int
    first_byte_ms: int | None
    bytes_in: int
    bytes_out: int
    usage: Usage | None
    quota: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that failed. `status` 0: no answer came; `retry_after_ms` None: none was said, or not readable."""

    pool: str
    model: str
    endpoint: str
    deployment: str
    region: str
    status: int
    flags: str
    retry_after_ms: int | None


def parse_lines(lines: Iterable[str]) -> tuple[list[Attempt], list[Answer]]:
    """Read lines, without their line breaks; what is not ours, or cut, is left out. Never raises."""
    attempts: list[Attempt] = []
    answers: list[Answer] = []
    for line in lines:
        entry = parse_line(line)
        if isinstance(entry, Answer):
            answers.append(entry)
        elif entry is not None:
            attempts.append(entry)
    return attempts, answers


def parse_line(line: str) -> Answer | Attempt | None:
    """Read one line, without its line break; None for one that is not ours, or cut. Never raises."""
    fields = line.split("\t")
    try:
        if fields[0] == "answer":
            return _answer(fields)
        if fields[0] == "attempt":
            return _attempt(fields)
    except (ValueError, IndexError):
        return None
    return None


def _answer(fields: list[str]) -> Answer | None:
    (_, route, tenant, path, endpoint, deployment, region, status, flags, details) = fields[:10]
    (attempts, duration, first_byte, received, sent, kind, request_id, quota) = fields[10:18]
    named = _route(route)
    if named is None:
        return None
    pool, model = named
    if details == "lua_response":
        model = endpoint = deployment = region = ""
    return Answer(
        request_id=_text(request_id),
        pool=pool,
        tenant="" if tenant == "anonymous" else _text(tenant),
        model=model,
        operation=operation(path),
        endpoint=_text(endpoint),
        deployment=_text(deployment),
        region=_text(region),
        status=int(status),
        flags=_text(flags),
        details=_text(details),
        attempts=_number(attempts) or 0,
        stream=kind.startswith("text/event-stream"),
        duration_ms=_number(duration) or 0,
        first_byte_ms=_number(first_byte),
        bytes_in=_number(received) or 0,
        bytes_out=_number(sent) or 0,
        usage=parse_usage("\t".join(fields[18:])),
        quota=_text(quota),
    )


def _attempt(fields: list[str]) -> Attempt | None:
    (_, route, endpoint, deployment, region, status, flags, wait_ms, wait_s) = map(_text, fields)
    named = _route(route)
    if named is None or not endpoint:
        return None
    return Attempt(
        pool=named[0],
        model=named[1],
        endpoint=endpoint,
        deployment=deployment,
        region=region,
        status=int(status),
        flags=flags,
        retry_after_ms=retry_after_ms(wait_ms, wait_s),
    )


def _text(field: str) -> str:
    return "" if field == "-" else field


def _number(field: str) -> int | None:
    return int(field) if field.isdecimal() else None


def _route(name: str) -> tuple[str, str] | None:
    """Return pool and model of a route's name (core/envoy/routes.py), None for a route of no pool."""
    parts = name.split("|")
    return (parts[0], parts[3]) if len(parts) >= 4 else None


def operation(path: str) -> str:
    """Return what a path asks for, without prefix and deployment; an unknown path is "other", so that it stays bounded.

    >>> operation("/openai/deployments/gpt-4o/chat/completions"), operation("/openai/v1/embeddings")
    ('chat/completions', 'embeddings')
    """
    rest = path.partition("/openai/")[2]
    if rest.startswith("deployments/"):
        rest = rest.split("/", 2)[-1]
    rest = rest.removeprefix("v1/")
    return rest if rest in OPERATIONS else "other"


OPERATIONS = INFERENCE | {"models"}
"""The operations that have a name of their own in logs and metrics."""


def retry_after_ms(milliseconds: str, seconds: str) -> int | None:
    """Return the wait that an answer asks for: `retry-after-ms`, else `retry-after` in seconds (RFC 9110, 10.2.3).

    A date, which the RFC also allows and Azure does not send, and anything else unreadable is None.
    """
    for text, unit in ((milliseconds, 1), (seconds, 1000)):
        try:
            value = float(text)
        except ValueError:
            continue
        if 0 < value < 1e9:
            return round(value * unit)
    return None


_MOST_TOKENS = 1 << 53
"""Above this, a count is nonsense, and a float, as Prometheus counts, no longer holds it."""

_DECODE = json.JSONDecoder().raw_decode
"""`json.loads` without its search for white space around the text, which takes as long as the rest."""


def parse_usage(text: str) -> Usage | None:
    """Read the JSON text of a `usage` object, of the chat or of the Responses form; None for anything else.

    Source: Azure OpenAI REST reference, `usage` of chat completions and `ResponseUsage`.
    """
    if not text.startswith("{"):
        return None
    try:
        raw, end = _DECODE(text)
    except (ValueError, RecursionError):
        return None
    if end != len(text):
        return None
    prompt = _count(raw, "prompt_tokens", "input_tokens")
    completion = _count(raw, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    before = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    after = raw.get("completion_tokens_details") or raw.get("output_tokens_details")
    return Usage(
        prompt=prompt or 0,
        completion=completion or 0,
        total=_count(raw, "total_tokens") or (prompt or 0) + (completion or 0),
        cached=_count(before, "cached_tokens") or 0,
        reasoning=_count(after, "reasoning_tokens") or 0,
    )


def _count(raw: object, *names: str) -> int | None:
    if isinstance(raw, dict):
        for name in names:
            value = raw.get(name)
            if type(value) is int and 0 <= value < _MOST_TOKENS:
                return value
    return None
