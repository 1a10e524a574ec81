"""Many clients at once, as SDKs behave: unequal prompts, streams and not, and after a refusal a wait as it says."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from bench import payloads

_WORDS, _OUTPUTS = (20, 100, 400), (5, 40, 200)
_LONGEST_WAIT = 2.0
"""Seconds. An SDK would wait for as long as it is told; so more press on the limit."""
_TOTAL = re.compile(rb'"total_tokens":\s*(\d+)')
MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Member:
    """A group of clients of one tenant.

    Attributes:
        key: the tenant's.
        clients: how many there are.
    """

    key: str
    clients: int


@dataclass(slots=True)
class Seen:
    """What one group saw: when each request that was let in was sent, and the tokens that Azure counted for it."""

    let_in: list[tuple[float, int]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def worst_minute(self) -> int:
        """Return the most tokens in any 60 s."""
        worst = inside = first = 0
        let_in = sorted(self.let_in)
        for sent, tokens in let_in:
            inside += tokens
            while let_in[first][0] <= sent - MINUTE:
                inside -= let_in[first][1]
                first += 1
            worst = max(worst, inside)
        return worst

    def a_minute(self, begin: float, end: float) -> float:
        """Return the tokens a minute between two moments."""
        return sum(tokens for sent, tokens in self.let_in if begin <= sent < end) * MINUTE / (end - begin)


def press(port: int, path: str, members: Sequence[Member], seconds: float) -> tuple[list[Seen], float]:
    """Have all clients ask for so long; return what each group saw, and when it began."""
    return asyncio.run(_press(f"http://127.0.0.1:{port}{path}", members, seconds))


async def _press(url: str, members: Sequence[Member], seconds: float) -> tuple[list[Seen], float]:
    begun = time.monotonic()
    seen = [Seen() for _ in members]
    # Each client has its connection, as each has in life.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        crowd = _Crowd(client, url, begun + seconds)
        numbered = [(m, s, i) for m, s in zip(members, seen, strict=True) for i in range(m.clients)]
        await asyncio.gather(*(crowd.one(*each) for each in numbered))
    return seen, begun


@dataclass(frozen=True, slots=True)
class _Crowd:
    """What all clients share."""

    client: httpx.AsyncClient
    url: str
    end: float

    async def one(self, member: Member, seen: Seen, number: int) -> None:
        """Be one client."""
        chance = random.Random(number)
        # They do not all begin in the same millisecond.
        await asyncio.sleep(chance.random())
        while time.monotonic() < self.end:
            await self._ask(member.key, seen, chance)

    async def _ask(self, key: str, seen: Seen, chance: random.Random) -> None:
        output, capped = chance.choice(_OUTPUTS), chance.random() < 0.7
        stream = chance.random() < 0.5
        body = {
            "model": payloads.MODEL,
            "max_tokens": output if capped else 2 * max(_OUTPUTS),
            "messages": [{"role": "user", "content": "word " * chance.choice(_WORDS) + f"[[tokens={output}]]"}],
            **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        }
        sent = time.monotonic()

        async def on_its_way(event: str, _about: object) -> None:
            nonlocal sent
            # Of hundreds that wake at once most wait in this process before they are sent.
            if event == "http11.send_request_headers.started":
                sent = time.monotonic()

        headers, watched = {"authorization": f"Bearer {key}"}, {"trace": on_its_way}
        try:
            answer = await self.client.post(self.url, headers=headers, json=body, extensions=watched)
        except httpx.HTTPError:
            seen.statuses[0] += 1
            return
        seen.statuses[answer.status_code] += 1
        found = _TOTAL.findall(answer.content)
        if answer.status_code == httpx.codes.OK and found:
            seen.let_in.append((sent, int(found[-1])))
        else:
            told = float(answer.headers.get("retry-after-ms") or 1000 * float(answer.headers.get("retry-after") or 0.5))
            await asyncio.sleep(min(_LONGEST_WAIT, told / 1000) * (0.5 + chance.random() / 2))
