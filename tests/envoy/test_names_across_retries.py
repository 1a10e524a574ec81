"""A retry goes to a deployment of another name: each attempt's body has the length that its headers say."""

from __future__ import annotations

import pytest

from aoai_operator.simulator import Deployment, Region, Simulator, Status
from support.local import LocalGateway
from support.manifests import pool_manifest


@pytest.mark.parametrize("names", [("gpt-4o-swe", "gpt-4o"), ("gpt-4o", "gpt-4o-swe"), ("a", "gpt-4o-westus3")])
async def test_a_retry_is_whole_whatever_the_names(names: tuple[str, str]) -> None:
    regions = [
        Region(name=region, deployments=[Deployment(name=name, model="gpt-4o")])
        for region, name in zip(("first", "second"), names, strict=True)
    ]
    async with Simulator(regions) as simulator:
        # The first region is asked first, by its priority; the probe is off, so that it stays so.
        manifest = pool_manifest(
            simulator, endpoints={"second": {"priority": 1}}, spec={"health": {"probe": {"path": "Disabled"}}}
        )
        simulator.fault("first", Status(status=500))
        async with LocalGateway(manifest) as gateway, gateway.client(timeout=20) as client:
            for _ in range(5):
                await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
        assert simulator.regions["second"].served == 5
        assert {r.json()["model"] for r in simulator.regions["second"].log} == {names[1]}
        assert simulator.regions["first"].attempts
