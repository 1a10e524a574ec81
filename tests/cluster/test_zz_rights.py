"""The operator's rights are those that it uses. This runs last, and reads the audit log of all that ran before."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.chart import Helm
from support.cluster.control_plane import ControlPlane

ACCOUNT = "aoai-aoai-operator"
UNUSED = {
    # A shard goes when a pool has fewer tenants than before by half: the store's own tests see that.
    ("delete", "", "configmaps"),
}
"""What is granted and need not be seen used in these tests, each with its reason."""


def test_no_call_of_an_operator_was_denied(plane: ControlPlane) -> None:
    calls = [c for c in plane.audit.since() if c.user.endswith(f":{ACCOUNT}")]
    assert {(c.verb, c.resource, c.path) for c in calls if c.code == 403} == set()


async def test_every_right_that_the_chart_grants_is_used(
    plane: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    if {item.path for item in request.session.items} < set(here.glob("test_*.py")):
        return  # only a part of the suite runs: the rest may use them
    granted = set()
    for (kind, name), item in (await Helm(tmp_path).objects("--set", "sidecars.allowed=true")).items():
        if kind in {"Role", "ClusterRole"} and not name.endswith(("-view", "-edit")):
            for rule in item["rules"]:
                granted |= {(v, g, r) for v in rule["verbs"] for g in rule["apiGroups"] for r in rule["resources"]}
    calls = [c for c in plane.audit.since() if c.user.endswith(f":{ACCOUNT}") and c.code < 300]
    used = {(c.verb, c.group, f"{c.resource}/{c.subresource}" if c.subresource else c.resource) for c in calls}
    # An apply of what is not there yet needs `create`, and is logged as the patch that it is.
    applied = {("create", c.group, c.resource) for c in calls if c.verb == "patch" and c.code == 201}
    assert granted - used - applied - UNUSED == set()
    assert used - granted == set()
