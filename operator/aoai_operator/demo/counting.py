"""What the gateway counted, and the states that it knows, as its metrics endpoint tells them."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

from aoai_operator.demo.facts import Counted, Tokens

_PATIENCE = 10.0
_POLL = 0.1


async def states(url: str) -> dict[tuple[str, str], str] | None:
    """Return the state of each (endpoint, deployment); None: the metrics cannot be read."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        try:
            text = (await client.get(url)).raise_for_status().text
        except httpx.HTTPError:
            return None
    return parse_states(text)


async def counted(url: str, tenant: str, *, at_least: int) -> Counted | None:
    """Return what was counted of a tenant, once that is `at_least` so many answers; after a while whatever it is.

    The access log reaches the operator some milliseconds after the answer reached the client: hence the patience.
    None: the metrics cannot be read.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        while True:
            try:
                found = parse((await client.get(url)).raise_for_status().text, tenant)
            except httpx.HTTPError:
                found = None
            if loop.time() >= deadline or (found is not None and found.requests >= at_least):
                return found
            await asyncio.sleep(_POLL)


def parse(text: str, tenant: str) -> Counted:
    """Read Prometheus' text form."""
    requests, tokens = 0.0, {"prompt": 0.0, "completion": 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("tenant") != tenant:
                continue
            if sample.name == "aoai_requests_total":
                requests += sample.value
            elif sample.name == "aoai_tokens_total" and sample.labels["kind"] in tokens:
                tokens[sample.labels["kind"]] += sample.value
    return Counted(round(requests), Tokens(round(tokens["prompt"]), round(tokens["completion"])))


def parse_states(text: str) -> dict[tuple[str, str], str]:
    """Read the states out of Prometheus' text form."""
    return {
        (sample.labels["endpoint"], sample.labels["deployment"]): sample.labels["state"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "aoai_endpoint_state" and sample.value == 1
    }
