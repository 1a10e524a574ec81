"""Workers of proxies (our Lua, in LuaJIT) against the ledger: in no 60 s is more let in than the limit.

Asks are answered late or never, workers are lost and begin anew, and log entries come late, twice or not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from aoai_operator.core.accesslog import Usage
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.quota.admission import Admission
from aoai_operator.core.quota.asking import read, write
from aoai_operator.core.quota.settling import settlement_of
from aoai_operator.core.table import PerMinute, Quota, RoutingTable, Tenant
from support.answers import ANSWER
from support.lua import Lua
from support.tables import endpoint, routing_table

START = 1_795_000_000_000
MINUTE = 60_000
DEADLINE = 100


@dataclass
class Request:
    """One request: the coroutine that asks, what it asked, and what became of it."""

    number: int
    admission: Any
    worker: int
    line: str | None = None
    answer: bytes | None = None
    answered_at: int = 0
    let_in: int | None = None
    note: str = ""
    asks: bool = False
    tokens: int = 0


class Worker:
    """A worker: its Lua state, and its clock, which may be some seconds off."""

    def __init__(self, offset: int) -> None:
        self.lua = Lua()
        self.offset = offset
        self.clock = self.lua.runtime.table_from({b"now": 0})
        quota = {b"mark": b"a", b"deny": False, b"shadow": False, b"models": self.lua.runtime.table_from({})}
        self.quota = self.lua.runtime.table_from(quota)

    def limited(self, mark: bytes, tokens: int, *, deny: bool) -> None:
        fields = {b"mark": mark, b"tokens": tokens, b"deny": deny, b"shadow": False}
        self.quota = self.lua.runtime.table_from({**fields, b"models": self.lua.runtime.table_from({})})

    def begin(self, now: int, number: int, cap: int) -> Any:
        self.clock[b"now"] = now + self.offset
        body = json.dumps({"model": "gpt-4o", "max_tokens": cap}).encode()
        return self.lua.begin_admission(self.clock, b"ai/team", self.quota, str(number).encode(), body)

    def resume(self, now: int, admission: Any, answer: bytes | bool) -> tuple[bool, Any, Any]:
        self.clock[b"now"] = now + self.offset
        found: tuple[bool, Any, Any] = self.lua.resume_admission(admission, answer)
        return found


def table(limit: int) -> RoutingTable:
    quota = Quota(limits=(PerMinute(tokens=limit),))
    keys = (SecretRef("ai", "team-key", "api-key"),)
    tenant = Tenant(namespace="ai", name="team", models=(), api_keys=keys, quota=quota)
    made = routing_table(endpoint("east"), pool=PoolKey("ai", "chat"))
    models = tuple(m.model_copy(update={"name": "gpt-4o"}) for m in made.models)
    return made.model_copy(update={"tenants": (tenant,), "models": models})


class Traffic:
    """Two workers whose clients want half as much again as there is, and whatever can go wrong in between."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = START + self.random.randrange(1_000)
        self.limit = self.highest = self.random.choice([2_000, 20_000, 200_000])
        self.ledger = Admission(START)
        self.requests: list[Request] = []
        self.waiting: list[Request] = []
        self.workers = [Worker(self.random.randrange(-5_000, 5_000)) for _ in range(2)]
        self.changes = 0
        self.grant(self.limit)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.pause()
            action = self.random.choices(
                [self.request, self.log, self.leave, self.restart, self.change], [100, 30, 2, 1, 1]
            )[0]
            action()

    def pause(self) -> None:
        """Let time pass; sometimes nobody asks for so long that leases end, or the minute does."""
        kind = self.random.random()
        ms = self.random.expovariate(1 / 40)
        if kind < 0.01:
            ms = self.random.uniform(1_500, 15_000)
        elif kind < 0.015:
            ms = self.random.uniform(50_000, 61_000)
        until = self.now + int(ms)
        for request in sorted(self.waiting, key=lambda r: r.answered_at):
            if request.answered_at <= until:
                self.now = max(self.now, request.answered_at)
                self.waiting.remove(request)
                if request.line is not None:
                    self.resume(request, request.answer or False)
        self.now = max(self.now, until)

    def grant(self, limit: int) -> None:
        self.limit = limit
        self.changes += 1
        self.ledger.follow([table(limit)])
        for worker in self.workers:
            worker.limited(str(self.changes).encode(), limit, deny=True)

    def request(self) -> None:
        """Small ones draw on leases, large ones ask."""
        cap = int(self.limit / 10 ** self.random.uniform(1.2, 3.5))
        worker = self.random.randrange(2)
        number = len(self.requests)
        made = Request(number, self.workers[worker].begin(self.now, number, max(1, cap)), worker)
        self.requests.append(made)
        self.resume(made, True)

    def asked(self, request: Request) -> None:
        """The ledger answers at once, late, or too late; or the ask, or the answer, is lost."""
        request.asks = True
        kind = self.random.random()
        reaches = kind < 0.99
        answer = write(self.ledger.ask(read(request.line or ""), self.now)).encode() if reaches else None
        if kind < 0.7:
            self.resume(request, answer or False)
            return
        lost = kind > 0.98
        request.answer = None if lost else answer
        request.answered_at = self.now + (DEADLINE if lost else self.random.randrange(DEADLINE))
        self.waiting.append(request)

    def log(self) -> None:
        """An entry of the log comes, late, and maybe twice."""
        done = [r for r in self.requests[-200:] if r.let_in is not None]
        if done:
            request = self.random.choice(done)
            used = request.tokens * self.random.randrange(90, 101) // 100
            if self.ledger.settle(entry(request, used)):
                request.tokens = used

    def leave(self) -> None:
        """A client leaves while its request asks: the coroutine is never resumed."""
        if self.waiting:
            self.random.choice(self.waiting).line = None

    def restart(self) -> None:
        """A worker is lost with all that it knew."""
        place = self.random.randrange(2)
        for request in self.waiting:
            if request.worker == place:
                request.line = None
        self.workers[place] = Worker(self.random.randrange(-5_000, 5_000))
        self.workers[place].limited(str(self.changes).encode(), self.limit, deny=True)

    def change(self) -> None:
        """Grant half for a time."""
        self.grant(self.highest // self.random.choice([1, 1, 2]))

    def resume(self, request: Request, answer: bytes | bool) -> None:
        done, one, two = self.workers[request.worker].resume(self.now, request.admission, answer)
        request.line = None if done else one.decode()
        if not done:
            self.asked(request)
        elif one is False:
            assert two[b":status"] == b"429"
            # Of one that was refused unasked the ledger need not hear.
            assert two[b"note"].startswith(b"unasked:") == (not request.asks)
        else:
            request.let_in, request.note = self.now, one.decode()
            assert request.note != "-", "nothing is let in that the ledger did not charge"
            grant, draw, tokens, _, _ = map(int, request.note.split(":"))
            request.tokens = tokens if draw else self.ledger.ledger.reserved(grant)

    def fullest(self) -> int:
        """Return the most tokens in any 60 s."""
        let_in = sorted((r.let_in, r.tokens) for r in self.requests if r.let_in is not None)
        first, inside, most = 0, 0, 0
        for at, tokens in let_in:
            inside += tokens
            while let_in[first][0] <= at - MINUTE:
                inside -= let_in[first][1]
                first += 1
            most = max(most, inside)
        return most


@pytest.mark.parametrize("seed", range(30))
def test_in_no_minute_more_than_the_limit_is_let_in(seed: int) -> None:
    traffic = Traffic(seed)
    traffic.run(2_500)
    drawn = sum(1 for r in traffic.requests if r.note and r.note.split(":")[1] != "0")
    assert 0.85 * traffic.highest < traffic.fullest() <= traffic.highest, "the limit was tried"
    assert drawn > 50, "and leases were"


def entry(request: Request, tokens: int) -> Any:
    """Return what the access log tells of a request that used so many tokens."""
    answer = ANSWER._replace(
        request_id=str(request.number),
        model="gpt-4o",
        usage=Usage(prompt=0, completion=tokens, total=tokens),
        quota=request.note,
    )
    return settlement_of(answer)
