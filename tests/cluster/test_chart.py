"""The chart on the real API server: installed, upgraded, rolled back and uninstalled by the real helm.

kwok says of every pod that it is ready, so `--wait` waits for all but our own processes; other tests run these.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from support.chart import CHART, Helm
from support.cluster.client import Json
from support.cluster.commands import CommandFailedError
from support.cluster.control_plane import ControlPlane
from support.raw import raw_pool
from support.waiting import eventually

GOLDEN = Path(__file__).parents[1] / "golden" / "chart"
CRDS = Path(__file__).parents[2] / "crds"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
PROMETHEUS = {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}


@pytest.fixture
async def restricted(plane: ControlPlane) -> AsyncIterator[str]:
    """A namespace that admits only what the Pod Security Standard "restricted" allows."""
    async with plane.namespace("aoai", labels=RESTRICTED) as name:
        yield name


async def without_our_kinds(plane: ControlPlane) -> None:
    """Let the chart bring the definitions: they must not be there, nor anything that was made of them."""
    for name in ("aoaibackendpools.aoai.dev", "tenantquotas.aoai.dev"):
        await plane.kubectl("delete", "crd", name, "--ignore-not-found", "--timeout=30s")


async def install(plane: ControlPlane, namespace: str, *arguments: str) -> str:
    return await plane.helm(
        *("upgrade", "--install", "aoai-operator", str(CHART), "-n", namespace, "--wait", "--timeout", "90s"),
        *arguments,
    )


async def uninstall(plane: ControlPlane, namespace: str) -> None:
    await plane.helm("uninstall", "aoai-operator", "-n", namespace, "--wait", "--timeout", "60s")


async def releases(plane: ControlPlane, namespace: str) -> list[tuple[int, str]]:
    history = json.loads(await plane.helm("history", "aoai-operator", "-n", namespace, "-o", "json"))
    return [(entry["revision"], entry["status"]) for entry in history]


async def replicas(plane: ControlPlane, namespace: str, name: str) -> int:
    deployment = await plane.get("apps/v1/deployments", name, namespace=namespace)
    assert deployment is not None
    ready: int = deployment["status"].get("readyReplicas", 0)
    return ready


async def test_from_install_to_uninstall(plane: ControlPlane, restricted: str) -> None:
    await without_our_kinds(plane)
    notes = await install(plane, restricted)
    assert "kubectl get aoai --all-namespaces -o wide" in notes
    assert await replicas(plane, restricted, "aoai-operator") == 2
    assert await replicas(plane, restricted, "aoai-operator-gateway") == 2

    pool = raw_pool() | {"metadata": {"name": "kept"}}
    await plane.apply(pool, namespace=restricted)

    await install(plane, restricted, "--set", "gateway.replicas=3,operator.logLevel=debug")
    assert await replicas(plane, restricted, "aoai-operator-gateway") == 3
    await plane.helm("rollback", "aoai-operator", "1", "-n", restricted, "--wait", "--timeout", "90s")
    assert await replicas(plane, restricted, "aoai-operator-gateway") == 2
    assert await releases(plane, restricted) == [(1, "superseded"), (2, "superseded"), (3, "deployed")]

    await uninstall(plane, restricted)
    left = await plane.get("apps/v1/deployments", namespace=restricted)
    assert left is not None
    assert left["items"] == []
    assert await plane.get("aoai.dev/v1alpha1/aoaibackendpools", "kept", namespace=restricted)

    # What was kept is taken over again by a release of the same name.
    await install(plane, restricted)
    await uninstall(plane, restricted)
    await without_our_kinds(plane)


async def test_an_upgrade_that_changes_nothing_restarts_nothing(plane: ControlPlane, restricted: str) -> None:
    arguments = ("--set", "crds.enabled=false")
    await install(plane, restricted, *arguments)
    before = await plane.get("v1/pods", namespace=restricted)
    await install(plane, restricted, *arguments)
    after = await plane.get("v1/pods", namespace=restricted)
    assert before is not None
    assert after is not None
    names = [{pod["metadata"]["name"] for pod in pods["items"]} for pods in (before, after)]
    assert names[0] == names[1]
    assert len(names[0]) == 4
    await uninstall(plane, restricted)


async def test_helm_test_has_its_pod(plane: ControlPlane, restricted: str) -> None:
    await install(plane, restricted, "--set", "crds.enabled=false,gateway.enabled=false")
    text = await plane.helm("get", "hooks", "aoai-operator", "-n", restricted)
    (hook,) = [o for o in yaml.safe_load_all(text) if o]
    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "test"
    await plane.apply(hook, namespace=restricted)
    await uninstall(plane, restricted)


async def test_two_releases_live_side_by_side(plane: ControlPlane, restricted: str) -> None:
    await install(plane, restricted, "--set", "crds.enabled=false")
    async with plane.namespace("other", labels=RESTRICTED) as other:
        await install(plane, other, "--set", f"crds.enabled=false,watchNamespaces={{{other}}}")
        await uninstall(plane, other)
    await uninstall(plane, restricted)


async def define_prometheus(plane: ControlPlane) -> None:
    """Define the kinds of the Prometheus operator, of any content."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    for kind, plural in PROMETHEUS.items():
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        name = f"{plural}.monitoring.coreos.com"
        await plane.apply(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": name},
                "spec": {
                    "group": "monitoring.coreos.com",
                    "names": names,
                    "scope": "Namespaced",
                    "versions": [version],
                },
            }
        )
        await plane.kubectl("wait", f"crd/{name}", "--for=condition=Established", "--timeout=30s")


@pytest.mark.parametrize("values", sorted(GOLDEN.glob("*.values.yaml")), ids=lambda p: p.name.partition(".")[0])
async def test_the_api_server_accepts_every_render(
    plane: ControlPlane, restricted: str, tmp_path: Path, values: Path
) -> None:
    """As Argo CD does it: `helm template`, then apply. Strict: an unknown field is an error, a warning too."""
    await define_prometheus(plane)
    async with plane.namespace("watched") as watched:
        arguments = ["--values", str(values)]
        if values.name.startswith("namespaces."):
            arguments += ["--set", f"watchNamespaces={{{restricted},{watched}}}"]
        text = await Helm(tmp_path).template(*arguments, namespace=restricted)
        answer = await plane.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-"),
            stdin=text,
        )
    assert len(answer.splitlines()) == len([o for o in yaml.safe_load_all(text) if o])


@pytest.mark.parametrize("values", ["everything", "operator-pod"])
async def test_pods_are_restricted(plane: ControlPlane, restricted: str, tmp_path: Path, values: str) -> None:
    """The admission of pods, which sees those of a Deployment only when they are made, is asked for each template."""
    objects = await Helm(tmp_path).objects("--values", str(GOLDEN / f"{values}.values.yaml"))
    asked = 0
    for (kind, name), item in objects.items():
        if kind not in {"Deployment", "Pod"}:
            continue
        template = item["spec"]["template"]["spec"] if kind == "Deployment" else item["spec"]
        spec = {k: v for k, v in template.items() if k not in {"serviceAccountName", "priorityClassName"}}
        pod: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        await plane.kubectl("apply", "--dry-run=server", "-n", restricted, "-f", "-", stdin=json.dumps(pod))
        spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(CommandFailedError, match='violates PodSecurity "restricted'):
            await plane.kubectl("apply", "--dry-run=server", "-n", restricted, "-f", "-", stdin=json.dumps(pod))
        asked += 1
    assert asked >= 2


async def test_what_crds_apply_installs_helm_can_leave_alone(plane: ControlPlane, restricted: str) -> None:
    await plane.apply(CRDS)
    await install(plane, restricted, "--set", "crds.enabled=false,gateway.enabled=false")
    await uninstall(plane, restricted)
    assert await plane.get("apiextensions.k8s.io/v1/customresourcedefinitions", "tenantquotas.aoai.dev")


ALLOWED_EVERYWHERE = {
    ("get list watch", "aoaibackendpools.aoai.dev"),
    ("get list watch", "tenantquotas.aoai.dev"),
    ("patch", "aoaibackendpools.aoai.dev/status"),
    ("patch", "tenantquotas.aoai.dev/status"),
    ("get list watch create patch delete", "configmaps"),
    ("get", "secrets"),
    ("create", "events.events.k8s.io"),
}
NEVER = {
    ("create update patch delete", "aoaibackendpools.aoai.dev"),
    ("update patch delete", "tenantquotas.aoai.dev"),
    ("list watch delete", "secrets"),
    ("get list create", "pods"),
    ("get list watch", "namespaces"),
    ("get list", "customresourcedefinitions.apiextensions.k8s.io"),
    ("impersonate", "users"),
}


async def may(plane: ControlPlane, who: str, verb: str, what: str, *where: str) -> bool:
    resource, _, subresource = what.partition("/")
    given = [f"--subresource={subresource}"] if subresource else []
    try:
        await plane.kubectl("auth", "can-i", verb, resource, *given, "--as", who, *where, "--quiet")
    except CommandFailedError:
        return False
    return True


async def those_allowed(
    plane: ControlPlane, who: str, rights: set[tuple[str, str]], *where: str
) -> set[tuple[str, str]]:
    """Return the rights that `who` has, all verbs of each."""
    return {
        (verbs, what) for verbs, what in rights if all([await may(plane, who, v, what, *where) for v in verbs.split()])
    }


async def any_allowed(plane: ControlPlane, who: str, rights: set[tuple[str, str]], *where: str) -> set[str]:
    """Return what `who` may do of these, single verbs."""
    return {f"{v} {what}" for verbs, what in rights for v in verbs.split() if await may(plane, who, v, what, *where)}


async def test_rights_in_the_whole_cluster(plane: ControlPlane, restricted: str, namespace: str) -> None:
    await plane.apply(CRDS)
    await install(plane, restricted, "--set", "crds.enabled=false")
    operator = f"system:serviceaccount:{restricted}:aoai-operator"
    elsewhere = ("-n", namespace)
    assert await those_allowed(plane, operator, ALLOWED_EVERYWHERE, *elsewhere) == ALLOWED_EVERYWHERE
    assert await any_allowed(plane, operator, NEVER, *elsewhere) == set()
    assert not await may(plane, operator, "create", "secrets", *elsewhere)
    assert not await may(plane, operator, "create", "leases.coordination.k8s.io", *elsewhere)
    assert not await may(plane, operator, "create", "tokenreviews.authentication.k8s.io")
    own = ("-n", restricted)
    for verb, what in (
        ("create", "secrets"),
        ("patch", "secrets/aoai-operator-ca"),
        ("get", "secrets/aoai-operator-tables"),
        ("patch", "secrets/aoai-operator-tables"),
        ("create", "leases.coordination.k8s.io"),
        ("update", "leases.coordination.k8s.io/aoai-operator"),
    ):
        resource, _, name = what.partition("/")
        answer = await plane.kubectl(
            *("auth", "can-i", verb, f"{resource}/{name}" if name else resource, "--as", operator), *own
        )
        assert answer.strip() == "yes", what
    assert not await may(plane, operator, "patch", "secrets", *own)
    gateway = f"system:serviceaccount:{restricted}:aoai-operator-gateway"
    assert await any_allowed(plane, gateway, ALLOWED_EVERYWHERE | NEVER, *own) == set()
    await uninstall(plane, restricted)


async def test_rights_in_some_namespaces(plane: ControlPlane, restricted: str, namespace: str) -> None:
    await plane.apply(CRDS)
    await install(
        plane, restricted, "--set", f"crds.enabled=false,sidecars.allowed=true,watchNamespaces={{{namespace}}}"
    )
    operator = f"system:serviceaccount:{restricted}:aoai-operator"
    assert await those_allowed(plane, operator, ALLOWED_EVERYWHERE, "-n", namespace) == ALLOWED_EVERYWHERE
    assert await any_allowed(plane, operator, NEVER, "-n", namespace) == set()
    assert await any_allowed(plane, operator, ALLOWED_EVERYWHERE | NEVER, "-n", "default") == set()
    assert await may(plane, operator, "create", "tokenreviews.authentication.k8s.io")
    await uninstall(plane, restricted)


async def test_the_clusters_own_roles_include_our_kinds(plane: ControlPlane, restricted: str, namespace: str) -> None:
    await plane.apply(CRDS)
    await install(plane, restricted, "--set", "crds.enabled=false,gateway.enabled=false")
    reads = {("get list watch", "aoaibackendpools.aoai.dev"), ("get list watch", "tenantquotas.aoai.dev")}
    writes = {("create update patch delete", "aoaibackendpools.aoai.dev"), ("create delete", "tenantquotas.aoai.dev")}
    wanted = {"view": reads, "edit": reads | writes, "admin": reads | writes}
    for role, rights in wanted.items():
        await plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er", "-n", namespace)

        async def aggregated(user: str = f"{role}er", rights: set[tuple[str, str]] = rights) -> bool:
            return await those_allowed(plane, user, rights, "-n", namespace) == rights

        await eventually(aggregated, what=f"{role} has the rights")
    assert await any_allowed(plane, "viewer", writes, "-n", namespace) == set()
    await uninstall(plane, restricted)
