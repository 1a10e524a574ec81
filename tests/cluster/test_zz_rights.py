"""The operator's rights are those that it uses. This runs last, and reads the audit log of all that ran before."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.chart import Helm
from support.cluster.control_plane import ControlPlane

ACCOUNT = "aoai-aoai-operator"
FORBIDDEN = 403
UNUSED: set[tuple[str, str, str]] = set()
"""What is granted and need not be seen used in these tests, each with its reason."""


def test_no_call_of_an_operator_was_denied(plane: ControlPlane) -> None:
    gone: set[str] = set()
    denied = set()
    for call in plane.audit.since():
        if (call.verb, call.resource, call.subresource) == ("delete", "namespaces", ""):
            gone.add(call.name)
        if not call.user.endswith(f":{ACCOUNT}"):
            continue
        asked = (call.verb, call.resource, call.path)
        # Nothing is made in a namespace that is going away, and the rights in it go with it.
        if call.code == FORBIDDEN and call.namespace not in gone:
            denied.add(asked)
        elif call.code != FORBIDDEN:
            # An API server that has just started knows of no rights for some moments, and refuses what is granted.
            denied.discard(asked)
    assert denied == set()


async def test_every_right_that_the_chart_grants_is_used(
    plane: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    if request.config.option.keyword or set(here.glob("test_*.py")) - {item.path for item in request.session.items}:
        pytest.skip("only a part of the suite runs, and the rest may use them")
    granted = set()
    for (kind, name), item in (await Helm(tmp_path).objects("--set", "sidecars.allowed=true")).items():
        if kind in {"Role", "ClusterRole"} and not name.endswith(("-view", "-edit")):
            for rule in item["rules"]:
                granted |= {(v, g, r) for v in rule["verbs"] for g in rule["apiGroups"] for r in rule["resources"]}
    calls = [c for c in plane.audit.since() if c.user.endswith(f":{ACCOUNT}") and c.code < 300]
    # Paths that are no resources, such as /apis, are everybody's to ask for.
    named = [(c, f"{c.resource}/{c.subresource}" if c.subresource else c.resource) for c in calls if c.resource]
    used = {(c.verb, c.group, resource) for c, resource in named}
    # An apply of what is not there yet needs `create`, and is logged as the patch that it is.
    applied = {("create", c.group, c.resource) for c in calls if c.verb == "patch" and c.code == 201}
    assert granted - used - applied - UNUSED == set()
    assert used - granted == set()
