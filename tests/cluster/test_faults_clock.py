"""Somebody sets the clock of the machine on which the leader runs, under load: nothing depends on what it shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aoai_operator.simulator import Down, Throttle
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import converged, leader, lease, left_alone, start_fleet, taken
from support.cluster.house import House
from support.load import load
from support.waiting import eventually

CLOCK = Path(__file__).parents[1] / "support" / "cluster" / "settable_clock"
HOUR = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """The seconds by which the operators' clock is wrong."""
    file = tmp_path / "clock"
    set_clock(file, 0)
    return file


@pytest.fixture
async def house(plane: ControlPlane, namespace: str, clock: Path) -> AsyncIterator[House]:
    """Two replicas, of which the first has the clock, and two Envoys."""
    async with House(plane, namespace) as made:
        await start_fleet(made, first={"PYTHONPATH": str(CLOCK), "AOAI_TEST_CLOCK": str(clock)})
        yield made


def set_clock(clock: Path, hours: int) -> None:
    """Set it, so many hours from the true time."""
    clock.write_text(str(hours * HOUR))


@pytest.mark.parametrize("hours", [5, -5])
async def test_the_leaders_clock_is_set(house: House, clock: Path, hours: int) -> None:
    """A region that is throttled when it happens comes back when Azure said; one that dies is left alone, and heals."""
    first = await leader(house)
    assert first.name == "operator-0"
    terms = (await lease(house))["spec"]["leaseTransitions"]
    async with load(house.client(max_retries=0)) as under:
        house.azure.fault("west", Throttle(retry_after_ms=5000))
        await eventually(lambda: left_alone(house, "west"), what="the region that throttles is left alone")
        set_clock(clock, hours)
        house.azure.heal("west")
        await eventually(lambda: taken(house, "west"), within=60, what="it is taken again")
        house.azure.fault("east", Down())
        await eventually(lambda: left_alone(house, "east"), what="a region that died is left alone")
        await under.goes_on()
        house.azure.heal("east")
        await eventually(lambda: taken(house, "east"), within=60, what="it is taken again")
        await converged(house)
        await under.goes_on()
    said = (await lease(house))["spec"]
    assert said["leaseTransitions"] == terms, "it leads as before"
    shown = datetime.fromisoformat(said["renewTime"]) - datetime.now(UTC)
    assert abs(shown - timedelta(hours=hours)) < timedelta(minutes=5), "its clock was set"
