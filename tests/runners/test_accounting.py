"""The access log's way into throttles, early probes and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.names import EndpointKey
from aoai_operator.core.observed import Reason, State
from aoai_operator.runners.accounting import Accounting
from aoai_operator.runners.observing import Observer
from support.answers import ANSWER
from support.tables import endpoint, endpoint_key, host_key, routing_table


def failed(
    status: int, *, retry_after_ms: int | None = None, flags: str = "", endpoint: str = "east", pool: str = "ai/chat"
) -> Attempt:
    return Attempt(
        pool=pool,
        model="gpt",
        endpoint=endpoint,
        deployment="gpt",
        region="",
        status=status,
        flags=flags,
        retry_after_ms=retry_after_ms,
    )


@dataclass
class Bench:
    now: int = 1_000
    changes: int = 0
    probes: list[EndpointKey] = field(default_factory=list)
    counted: list[object] = field(default_factory=list)
    changes_when_counted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.observer = Observer(changed=self._changed, now=lambda: self.now)
        self.observer.follow([routing_table(endpoint("east"), endpoint("west"))])
        self.changes = 0
        self.accounting = Accounting(observer=self.observer, probe_soon=self.probes.append, meters=self)

    def _changed(self) -> None:
        self.changes += 1

    def attempt(self, attempt: Attempt) -> None:
        self.counted.append(attempt)
        self.changes_when_counted.append(self.changes)

    def answer(self, answer: Answer) -> None:
        self.counted.append(answer)


def test_a_refusal_is_told_before_anything_is_counted() -> None:
    bench = Bench()
    refused = failed(429, retry_after_ms=2_000)
    bench.accounting.attempts([refused])
    state = bench.observer.overrides(1_000).host(host_key("east"))
    assert (state.state, state.until) == (State.THROTTLED, 3_000)
    assert bench.counted == [refused]
    assert bench.changes_when_counted == [1]
    assert bench.probes == []


def test_a_batch_wakes_once_and_each_suspect_is_probed_once() -> None:
    bench = Bench()
    bench.accounting.attempts([failed(401), failed(401), failed(0, flags="UF", endpoint="west"), failed(404)])
    assert bench.changes == 1
    assert bench.probes == [endpoint_key("east"), endpoint_key("west")]
    assert bench.observer.overrides(1_000).host(host_key("east")).reason is Reason.AUTH
    assert bench.observer.overrides(1_000).host(host_key("west")).usable


def test_entries_of_unknown_hosts_are_counted_and_change_nothing() -> None:
    bench = Bench()
    bench.accounting.attempts([failed(429, endpoint="gone"), failed(429, pool="")])
    bench.accounting.answers([ANSWER._replace(endpoint=""), ANSWER._replace(status=429)])
    assert (bench.changes, len(bench.counted), bench.probes) == (0, 4, [])


def test_a_good_answer_makes_its_host_known_once() -> None:
    bench = Bench()
    bench.accounting.answers([ANSWER, ANSWER])
    assert bench.observer.overrides(1_000).host(host_key("east")).state is State.HEALTHY
    assert bench.changes == 1


def test_time_alone_brings_a_host_back_and_is_told() -> None:
    bench = Bench()
    bench.accounting.attempts([failed(429, retry_after_ms=2_000)])
    assert bench.observer.next_change(1_000) == 3_000
    assert bench.observer.overrides(3_000).host(host_key("east")).usable
    assert bench.changes == 2
