"""examples/argocd and examples/flux: Argo CD's health script in a real Lua, and that what they name is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.compiler import compile_world
from support.argocd import ARGOCD, health
from support.chart import CHART
from support.worlds import read_world

ROOT = Path(__file__).parents[2]
FLUX = ROOT / "examples" / "flux"
WORLDS = sorted((ROOT / "tests" / "golden" / "compile").glob("*.in.yaml"))
Json = dict[str, Any]

POOL: Json = {"metadata": {"generation": 2}, "spec": {}}


def with_conditions(*conditions: tuple[str, str, str], observed: int = 2) -> Json:
    found = [
        {"type": kind, "status": status, "reason": reason, "message": "why"} for kind, status, reason in conditions
    ]
    return {**POOL, "status": {"observedGeneration": observed, "conditions": found}}


@pytest.mark.parametrize(
    ("resource", "status"),
    [
        (POOL, "Progressing"),
        ({**POOL, "status": {"observedGeneration": -1}}, "Progressing"),
        (with_conditions(("Ready", "True", "Ready"), observed=1), "Progressing"),
        (with_conditions(("Accepted", "True", "Accepted")), "Progressing"),
        (with_conditions(("Ready", "Unknown", "NoProxies")), "Progressing"),
        (with_conditions(("Ready", "False", "Pending")), "Progressing"),
        (with_conditions(("Ready", "True", "Ready")), "Healthy"),
        (with_conditions(("Ready", "True", "Ready"), ("Healthy", "False", "Degraded")), "Healthy"),
        (with_conditions(("Ready", "False", "NoHealthyEndpoint")), "Degraded"),
        (with_conditions(("Ready", "True", "Ready"), ("Stalled", "True", "Refused")), "Degraded"),
        ({**with_conditions(("Ready", "True", "Ready")), "spec": {"suspend": True}}, "Suspended"),
        ({**with_conditions(("Ready", "False", "Suspended"), observed=1), "spec": {"suspend": True}}, "Suspended"),
    ],
)
def test_health_of_a_status(resource: Json, status: str) -> None:
    assert health(resource)[0] == status


def compiled_resources() -> Iterator[tuple[str, Json]]:
    """Yield the resources of the golden worlds, with the statuses that the operator gives them."""
    for path in WORLDS:
        world = read_world(yaml.safe_load(path.read_text(encoding="utf-8")))
        compiled = compile_world(world)
        for pool in world.pools:
            yield _resource(f"{path.name} {pool.key}", pool, compiled.pool_statuses[pool.key])
        for quota in world.quotas:
            yield _resource(f"{path.name} {quota.key}", quota, compiled.quota_statuses[quota.key])


def _resource(name: str, found: AOAIBackendPool | TenantQuota, status: BaseModel) -> tuple[str, Json]:
    def dumped(model: BaseModel) -> Json:
        return model.model_dump(mode="json", by_alias=True, exclude_none=True)

    metadata = {"generation": found.metadata.generation}
    return name, {"metadata": metadata, "spec": dumped(found.spec), "status": dumped(status)}


def test_health_of_what_the_operator_says() -> None:
    seen = set()
    for name, resource in compiled_resources():
        status, message = health(resource)
        ready = next(c for c in resource["status"]["conditions"] if c["type"] == "Ready")
        expected = {"True": {"Healthy"}, "Unknown": {"Progressing"}, "False": {"Degraded", "Progressing"}}
        if resource["spec"].get("suspend"):
            assert status == "Suspended", name
        else:
            assert status in expected[ready["status"]], name
            assert message == ready.get("message", ""), name
            assert (status == "Progressing") == (ready["reason"] in {"NoProxies", "Pending"}), name
        seen.add(status)
    assert seen == {"Healthy", "Degraded", "Progressing", "Suspended"}


def test_the_config_map_has_the_script_for_both_kinds() -> None:
    script = (ARGOCD / "health.lua").read_text(encoding="utf-8")
    config = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text(encoding="utf-8"))
    kinds = ("AOAIBackendPool", "TenantQuota")
    assert config["data"] == {f"resource.customizations.health.aoai.dev_{kind}": script for kind in kinds}


def test_the_chart_that_they_name_is_this_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    argo = yaml.safe_load((ARGOCD / "operator.yaml").read_text(encoding="utf-8"))["spec"]["source"]
    source, release = yaml.safe_load_all((FLUX / "operator.yaml").read_text(encoding="utf-8"))
    assert (argo["chart"], argo["targetRevision"]) == (chart["name"], chart["version"])
    assert source["spec"]["ref"]["tag"] == chart["version"]
    assert release["spec"]["chartRef"]["name"] == source["metadata"]["name"]
    for given in (argo["helm"]["valuesObject"], release["spec"]["values"]):
        assert given["crds"].keys() <= values["crds"].keys()


def test_what_flux_waits_for_is_an_example() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "ptu-first").glob("*.yaml")]
    there = {(o["kind"], o["metadata"]["name"]) for text in texts for o in yaml.safe_load_all(text)}
    *_, pools = yaml.safe_load_all((FLUX / "pools.yaml").read_text(encoding="utf-8"))
    assert {(check["kind"], check["name"]) for check in pools["spec"]["healthChecks"]} <= there
