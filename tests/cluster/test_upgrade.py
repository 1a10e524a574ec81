"""From the previous chart and its operator to these, under load: no client notices."""

from __future__ import annotations

import tarfile
from pathlib import Path

from aoai_operator.core.configmaps import SIGNATURE
from support.cluster.control_plane import ControlPlane
from support.cluster.fleet import converged, whole
from support.cluster.house import House
from support.cluster.release import CHART
from support.load import Load, load
from support.waiting import eventually

PREVIOUS = Path(__file__).parent / "previous" / "63dcb43.tar.xz"
"""See the README.md beside it."""


async def test_the_release_is_upgraded_from_the_previous_one(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with tarfile.open(PREVIOUS) as archive:
        archive.extractall(tmp_path, filter="data")
    previous = {"PYTHONPATH": str(tmp_path / "operator")}
    house = House(plane, namespace)
    house.release.chart = tmp_path / "charts/aoai-operator"
    async with house:
        for number in range(2):
            await house.release.start_operator(f"previous-{number}", **previous)
            await house.release.start_gateway(f"gateway-{number}")
        await house.apply_pool()
        await whole(house)
        assert not await signed(house), "what runs is not the previous version"

        async with load(house.client(max_retries=0)) as under:
            house.release.chart = CHART
            await house.release.helm("upgrade")
            await roll(house, under, "previous", "present")
            await eventually(lambda: signed(house), within=60, what="the table is signed")
            await converged(house)


async def roll(house: House, under: Load, old: str, new: str) -> None:
    """Replace each replica, as a Deployment does: the old one ends when the new one is ready."""
    for number in range(2):
        pod = await house.release.start_operator(f"{new}-{number}")
        await eventually(pod.ready, within=90, what=f"{pod.name} is ready")
        await house.release.operators.pop(f"{old}-{number}").part.stop()
        await under.goes_on()


async def signed(house: House) -> bool:
    found = await house.plane.get("v1/configmaps", "chat-routing", namespace=house.namespace)
    assert found is not None
    return SIGNATURE in found["metadata"].get("annotations", {})
