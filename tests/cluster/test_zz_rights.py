"""The operator's rights are those that it uses. This runs last, and reads the audit log of all that ran before."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from aoai_operator.ports import JsonObject
from support.chart import Helm
from support.cluster.audit import Call
from support.cluster.control_plane import ControlPlane
from support.cluster.release import RELEASE

ACCOUNT = f"{RELEASE}-aoai-operator"
FORBIDDEN = 403


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What one verb of one rule allows. The resource may be a subresource; name is "" for objects of any name."""

    verb: str
    group: str
    resource: str
    name: str = ""


UNUSED: set[Right] = set()
"""What is granted and need not be seen used in these tests, each with its reason."""


def test_no_call_of_an_operator_was_denied(plane: ControlPlane) -> None:
    gone: set[str] = set()
    denied = set()
    for call in plane.audit.since():
        if (call.verb, call.resource, call.subresource) == ("delete", "namespaces", ""):
            gone.add(call.name)
        if not call.user.endswith(f":{ACCOUNT}"):
            continue
        # Not the path: a watch begins at another version each time.
        asked = (call.verb, call.group, call.resource, call.subresource, call.namespace, call.name)
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
    if only_a_part_runs(request):
        pytest.skip("only a part of the suite runs, and the rest may use them")
    # Names of objects follow from the release's, so this is rendered as all that ran were.
    objects = await Helm(tmp_path).objects("--set", "sidecars.allowed=true,rbac.generatedSecrets=true", release=RELEASE)
    granted = rights_of(objects.values())
    calls = [c for c in plane.audit.since() if c.user.endswith(f":{ACCOUNT}") and c.code < 300]
    # Paths that are no resources, such as /apis, are everybody's to ask for.
    used = {used_by(call, granted) for call in calls if call.resource}
    # An apply of what is not there yet needs `create`, and is logged as the patch that it is.
    used |= {Right("create", c.group, c.resource) for c in calls if c.verb == "patch" and c.code == 201}
    for wrong, rights in (
        ("granted, and used by no test", granted - used - UNUSED),
        ("used, and not granted by this chart", used - granted),
        ("used, and excused as unused", UNUSED & used),
    ):
        assert not rights, "\n".join([wrong, *map(str, sorted(rights))])


def only_a_part_runs(request: pytest.FixtureRequest) -> bool:
    """Tell whether tests of this folder were left out: files, by their absence, or single tests, by an option."""
    config = request.config
    missing = set(Path(__file__).parent.rglob("test_*.py")) - {item.path for item in request.session.items}
    chosen = any("::" in argument for argument in config.args)
    options = ("keyword", "markexpr", "deselect", "lf")
    return bool(missing) or chosen or any(config.getoption(option, None) for option in options)


def rights_of(objects: Iterable[JsonObject]) -> set[Right]:
    """Return what the operator's roles allow; those for people are not its."""
    roles = (o for o in objects if o["kind"] in {"Role", "ClusterRole"})
    own = (role for role in roles if not role["metadata"]["name"].endswith(("-view", "-edit")))
    return {
        Right(verb, group, resource, name)
        for role in own
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def used_by(call: Call, granted: Collection[Right]) -> Right:
    """Return the narrowest right that allows a call; one that is not granted if none does.

    Rights by name are in the release's own namespace, which is also the one of its ServiceAccount.
    """
    resource = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
    exact = Right(call.verb, call.group, resource, call.name)
    if exact in granted and call.user == f"system:serviceaccount:{call.namespace}:{ACCOUNT}":
        return exact
    of_any_name = replace(exact, name="")
    return of_any_name if of_any_name in granted else replace(exact, name=call.path)
