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
