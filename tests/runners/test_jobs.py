"""Jobs: the most urgent first, one of a name at a time, and a failure is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable

from structlog.testing import capture_logs

from aoai_operator.runners.jobs import Job, Jobs
from support.kube import running
from support.waiting import eventually


class Work:
    """What there is to do, in its order, and what was done."""

    def __init__(self, *names: str, at_once: int = 1) -> None:
        self.names = list(names)
        self.done: list[str] = []
        self.fail: set[str] = set()
        self.odd = False
        self.under_way = 0
        self.most = 0
        self.waiting: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.jobs = Jobs(
            self.look, at_once=at_once, pause=0.001, retry=0.01, longest_retry=0.02, waiting=self.waiting.append
        )

    def look(self) -> Iterable[tuple[Hashable, Job]]:
        if self.odd:
            raise ValueError("what is this?")
        for name in tuple(self.names):
            yield name, self.job(name)

    def job(self, name: str) -> Job:
        async def do() -> bool:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await self.gate.wait()
            self.under_way -= 1
            self.done.append(name)
            if name in self.fail:
                return False
            self.names.remove(name)
            return True

        return do


async def test_all_is_done_in_its_order() -> None:
    work = Work("a", "b", "c")
    async with running(work.jobs.run()):
        work.jobs.wake()
        await eventually(lambda: work.done == ["a", "b", "c"])
    assert work.most == 1
    assert work.waiting == [3, 2, 1, 0]


async def test_few_run_at_once() -> None:
    work = Work(*map(str, range(9)), at_once=3)
    work.gate.clear()
    async with running(work.jobs.run()):
        work.jobs.wake()
        await eventually(lambda: work.under_way == 3)
        work.gate.set()
        await eventually(lambda: not work.names)
    assert work.most == 3


async def test_what_becomes_urgent_goes_before_what_waits() -> None:
    work = Work("a", "b", "c")
    work.gate.clear()
    async with running(work.jobs.run()):
        work.jobs.wake()
        await eventually(lambda: work.under_way == 1)
        work.names.insert(0, "urgent")
        work.jobs.wake()
        work.gate.set()
        await eventually(lambda: len(work.done) == 4)
    assert work.done == ["a", "urgent", "b", "c"]


async def test_a_job_that_is_asked_for_again_while_it_runs_is_looked_at_once_more() -> None:
    work = Work("a", at_once=2)
    work.gate.clear()
    async with running(work.jobs.run()):
        work.jobs.wake()
        await eventually(lambda: work.under_way == 1)
        work.names.append("a")
        looked = len(work.waiting)
        work.jobs.wake()
        await eventually(lambda: len(work.waiting) > looked)
        assert work.under_way == 1
        work.gate.set()
        await eventually(lambda: work.done == ["a", "a"])


async def test_what_fails_is_tried_again_and_holds_up_nothing() -> None:
    work = Work("bad", "good")
    work.fail = {"bad"}
    async with running(work.jobs.run()):
        work.jobs.wake()
        await eventually(lambda: work.done.count("bad") >= 3)
        assert work.done.count("good") == 1
        assert work.waiting[-1] == 1
        work.fail.clear()
        await eventually(lambda: not work.names)
        assert work.waiting[-1] == 0


async def test_a_look_that_fails_ends_nothing_and_is_told_once() -> None:
    work = Work("a")
    work.odd = True
    with capture_logs() as logs:
        async with running(work.jobs.run()):
            work.jobs.wake()
            await eventually(lambda: len(work.waiting) >= 3)
            work.odd = False
            await eventually(lambda: work.done == ["a"])
    assert len(logs) == 1
