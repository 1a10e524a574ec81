"""The schedule: jobs by key, jittered, bounded, early on request, undisturbed by others' changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.runners.schedule import SOONEST_MS, Plan, Schedule
from support.waiting import eventually

INTERVAL = 10_000


@dataclass
class Bench:
    """A schedule with a clock and a chance that the test sets, and jobs that wait for the gate."""

    now: int = 0
    chance: float = 0.5
    concurrency: int = 32
    done: list[tuple[str, str]] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.schedule: Schedule[str, str] = Schedule(
            self.job, now=lambda: self.now, concurrency=self.concurrency, chance=lambda: self.chance
        )
        self.plans: dict[str, str] = {}

    async def job(self, key: str, what: str) -> None:
        self.begun[key] += 1
        await self.gate.wait()
        self.done.append((key, what))
        if what == "broken":
            raise RuntimeError("by intent")

    def follow(self, **plans: str) -> None:
        for key in self.plans.keys() - plans.keys():
            self.schedule.drop(key)
        for key, what in plans.items():
            self.schedule.put(key, Plan(INTERVAL, what))
        self.plans = plans

    def at(self, now: int) -> None:
        """Set the clock; putting the same plans again makes the schedule look at it."""
        self.now = now
        self.follow(**self.plans)

    async def settled(self) -> None:
        """Let everything run that can run without the clock."""
        for _ in range(20):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.schedule.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_key_is_done_at_once_and_then_every_interval() -> None:
    bench = Bench()
    bench.follow(a="x", b="y")
    async with bench.running():
        await eventually(lambda: sorted(bench.done) == [("a", "x"), ("b", "y")])
        bench.at(INTERVAL - 1)
        await bench.settled()
        assert len(bench.done) == 2
        bench.at(INTERVAL)
        await eventually(lambda: len(bench.done) == 4)


async def test_the_interval_is_jittered_by_a_tenth() -> None:
    bench = Bench(chance=0.0)
    bench.follow(a="x")
    async with bench.running():
        await eventually(lambda: bench.begun["a"] == 1)
        bench.at(INTERVAL * 9 // 10 - 1)
        await bench.settled()
        assert bench.begun["a"] == 1
        bench.at(INTERVAL * 9 // 10)
        await eventually(lambda: bench.begun["a"] == 2)


async def test_no_more_than_the_bound_run_at_once() -> None:
    bench = Bench(concurrency=2)
    bench.gate.clear()
    bench.follow(**{str(n): "x" for n in range(5)})
    async with bench.running():
        await eventually(lambda: bench.begun.total() == 2)
        await bench.settled()
        assert bench.begun.total() == 2
        bench.gate.set()
        await eventually(lambda: len(bench.done) == 5)


async def test_soon_is_early_but_not_within_a_second_of_the_last() -> None:
    bench = Bench()
    bench.follow(a="x", b="y")
    async with bench.running():
        await eventually(lambda: len(bench.done) == 2)
        bench.schedule.soon("a")
        bench.schedule.soon("unknown")
        await bench.settled()
        assert bench.begun["a"] == 1
        bench.at(1_000)
        await eventually(lambda: bench.begun["a"] == 2)
        bench.now = 5_000
        bench.schedule.soon("a")
        await eventually(lambda: bench.begun["a"] == 3)
        assert bench.begun["b"] == 1


async def test_soon_while_a_job_runs_makes_another_one_follow() -> None:
    bench = Bench()
    bench.gate.clear()
    bench.follow(a="x")
    async with bench.running():
        await eventually(lambda: bench.begun["a"] == 1)
        bench.now = 2_000
        bench.schedule.soon("a")
        await bench.settled()
        assert bench.begun["a"] == 1
        bench.gate.set()
        await eventually(lambda: bench.begun["a"] == 2)


async def test_a_changed_plan_starts_over_and_leaves_the_others_alone() -> None:
    bench = Bench()
    bench.follow(a="x", b="y")
    async with bench.running():
        await eventually(lambda: len(bench.done) == 2)
        bench.follow(a="new", b="y")
        await eventually(lambda: bench.done[2:] == [("a", "new")])
        bench.follow(b="y")
        bench.at(INTERVAL)
        await eventually(lambda: bench.done[3:] == [("b", "y")])


async def test_the_job_of_a_dropped_key_is_cancelled() -> None:
    bench = Bench()
    bench.gate.clear()
    bench.follow(a="old")
    async with bench.running():
        await eventually(lambda: bench.begun["a"] == 1)
        bench.follow(a="new")
        await eventually(lambda: bench.begun["a"] == 2)
        bench.gate.set()
        await eventually(lambda: bench.done == [("a", "new")])


async def test_what_is_due_first_is_done_first_whatever_came_early_or_was_put_in_later() -> None:
    bench = Bench(concurrency=1)
    bench.follow(a="x", b="x", c="x")
    async with bench.running():
        await eventually(lambda: [key for key, _ in bench.done] == ["a", "b", "c"])
        bench.at(2_000)
        bench.gate.clear()
        bench.schedule.soon("b")
        await eventually(lambda: bench.begun["b"] == 2)
        bench.now = 3_000
        bench.schedule.soon("c")
        bench.at(4_000)
        bench.schedule.soon("a")
        bench.follow(**bench.plans, d="x")
        bench.gate.set()
        await eventually(lambda: [key for key, _ in bench.done[3:]] == ["b", "c", "a", "d"])
        await bench.settled()
        assert bench.begun.total() == 7


async def test_a_key_that_was_dropped_and_put_again_is_done_once_each_time() -> None:
    bench = Bench()
    bench.follow(a="x")
    async with bench.running():
        await eventually(lambda: len(bench.done) == 1)
        bench.follow()
        bench.follow(a="x")
        await eventually(lambda: len(bench.done) == 2)
        bench.schedule.soon("a")
        bench.at(INTERVAL)
        await eventually(lambda: len(bench.done) == 3)
        await bench.settled()
        assert len(bench.done) == 3


keys = st.sampled_from("abc")
scripts = st.lists(
    st.tuples(st.integers(0, 6_000), st.sampled_from(["put x", "put y", "drop", "soon", "look"]), keys), max_size=25
)


@given(script=scripts)
def test_whatever_happens_each_job_is_done_when_it_is_due_and_the_first_due_first(
    script: list[tuple[int, str, str]],
) -> None:
    asyncio.run(_compared(script))


async def _compared(script: list[tuple[int, str, str]]) -> None:
    bench, due, started, plans = Bench(concurrency=1), dict[str, int](), dict[str, int](), dict[str, str]()
    async with bench.running():
        _told(bench, "look", "")
        await bench.settled()
        for passed, what, key in script:
            bench.now += passed
            if what.startswith("put") and plans.get(key) != what:
                due[key], plans[key] = bench.now, what
                started.pop(key, None)
            elif what == "drop":
                due.pop(key, None)
                plans.pop(key, None)
                started.pop(key, None)
            elif what == "soon" and key in started:
                due[key] = min(due[key], max(bench.now, started[key] + SOONEST_MS))
            expected = sorted((time, each) for each, time in due.items() if time <= bench.now)
            _told(bench, what, key)
            done = len(bench.done)
            await bench.settled()
            assert sorted((due[each], each) for each, _ in bench.done[done:]) == expected
            assert [due[each] for each, _ in bench.done[done:]] == [time for time, _ in expected]
            for _, each in expected:
                started[each], due[each] = bench.now, bench.now + INTERVAL


def _told(bench: Bench, what: str, key: str) -> None:
    if what.startswith("put"):
        bench.schedule.put(key, Plan(INTERVAL, what))
    elif what == "drop":
        bench.schedule.drop(key)
    elif what == "soon":
        bench.schedule.soon(key)
    # A key of its own, that is never due again, makes the schedule look at the clock.
    bench.schedule.put("look", Plan(1 << 40, "look"))


async def test_a_failing_job_is_done_again_and_harms_no_other() -> None:
    bench = Bench()
    bench.follow(a="broken", b="y")
    async with bench.running():
        await eventually(lambda: len(bench.done) == 2)
        bench.at(INTERVAL)
        await eventually(lambda: len(bench.done) == 4)


async def test_when_it_ends_no_job_is_left() -> None:
    bench = Bench()
    bench.gate.clear()
    bench.follow(a="x")
    async with bench.running():
        await eventually(lambda: bench.begun["a"] == 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
