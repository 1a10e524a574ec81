"""The reconciler: one pass at a time, quiet first, and a last good state that survives what cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from aoai_operator.core.compiler import Compiled
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import Overrides
from aoai_operator.core.world import World
from aoai_operator.runners.reconcile import Reconciler
from support.resources import pool, world
from support.waiting import eventually

A = PoolKey("ns", "a")


@dataclass
class House:
    """A reconciler between scripted resources and lists."""

    resources: World | OSError = field(default_factory=World)
    loads: int = 0
    delivered: list[tuple[World, Compiled]] = field(default_factory=list)
    odd: int = 0
    """How many times taking what is delivered fails."""

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(
            load=self.load,
            observe=lambda _now: Overrides(),
            programming=dict,
            deliver=self.deliver,
            now=lambda: 1_000,
            hold_off=0.01,
            hold_off_max=0.05,
            retry_after=0.02,
        )

    def deliver(self, taken: World, compiled: Compiled) -> None:
        if self.odd:
            self.odd -= 1
            raise ValueError("what is this?")
        self.delivered.append((taken, compiled))

    async def load(self) -> World:
        self.loads += 1
        if isinstance(self.resources, OSError):
            raise self.resources
        return self.resources


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    task = asyncio.create_task(made.reconciler.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_change_is_compiled_and_delivered(house: House) -> None:
    house.resources = world(pool("a"))
    house.reconciler.resources_changed()
    await eventually(lambda: house.delivered)
    assert set(house.delivered[0][1].tables) == {A}


async def test_many_wakes_make_one_pass(house: House) -> None:
    for _ in range(20):
        house.reconciler.resources_changed()
    await eventually(lambda: house.delivered)
    assert house.loads == 1


async def test_an_observation_reads_nothing_again(house: House) -> None:
    house.reconciler.resources_changed()
    await eventually(lambda: house.delivered)
    house.reconciler.observations_changed()
    await eventually(lambda: len(house.delivered) == 2)
    assert house.loads == 1


async def test_what_cannot_be_read_changes_nothing(house: House) -> None:
    house.resources = world(pool("a"))
    house.reconciler.resources_changed()
    await eventually(lambda: house.delivered)
    house.resources = OSError("the disk is gone")
    house.reconciler.resources_changed()
    await eventually(lambda: house.loads >= 2)
    house.reconciler.observations_changed()
    await eventually(lambda: len(house.delivered) >= 2)
    assert set(house.delivered[-1][1].tables) == {A}


async def test_an_edit_that_could_not_be_read_is_tried_again_without_another_wake(house: House) -> None:
    house.resources = OSError("the disk is gone")
    house.reconciler.resources_changed()
    await eventually(lambda: house.loads >= 2)
    assert not house.delivered
    house.resources = world(pool("a"))
    await eventually(lambda: house.delivered)
    assert set(house.delivered[0][1].tables) == {A}


async def test_what_cannot_be_taken_is_said_once_and_tried_again(house: House) -> None:
    house.resources = world(pool("a"))
    house.odd = 3
    with capture_logs() as logs:
        house.reconciler.resources_changed()
        await eventually(lambda: house.delivered)
    assert set(house.delivered[0][1].tables) == {A}
    assert len([log for log in logs if log.get("exc_info")]) == 1


async def test_transitions_keep_their_times(house: House) -> None:
    house.resources = world(pool("a"))
    house.reconciler.resources_changed()
    await eventually(lambda: house.delivered)
    house.reconciler.observations_changed()
    await eventually(lambda: len(house.delivered) == 2)
    first, second = house.delivered
    assert second[0].pool_statuses == first[1].pool_statuses
    assert second[0].last_good == first[1].tables
