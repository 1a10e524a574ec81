"""Two simulated regions for the tests of `aoai-operator local`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aoai_operator.simulator import Deployment, Region, Simulator


@pytest.fixture
async def regions() -> AsyncIterator[Simulator]:
    """Two regions with one model, each under a deployment name of its own."""
    async with Simulator(
        [
            Region(name="eastus", deployments=[Deployment(name="gpt-4o-east", model="gpt-4o")]),
            Region(name="swedencentral", deployments=[Deployment(name="gpt-4o-sweden", model="gpt-4o")]),
        ]
    ) as running:
        yield running
