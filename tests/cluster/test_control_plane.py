"""The control plane that the other tests of this folder stand on is a real one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from support.cluster import toolchain
from support.cluster.client import Json
from support.cluster.commands import CommandFailedError
from support.cluster.control_plane import ControlPlane
from support.waiting import eventually

CRDS = Path(__file__).parents[2] / "crds"


def deployment(name: str = "web", *, replicas: int = 2) -> Json:
    container = {"name": "main", "image": "example.com/web:1", "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


async def test_a_deployment_becomes_ready(plane: ControlPlane, namespace: str) -> None:
    await plane.apply(deployment(), namespace=namespace)
    await plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    pods = await plane.get("v1/pods", namespace=namespace)
    assert pods is not None
    assert {pod["spec"]["nodeName"][:5] for pod in pods["items"]} == {"node-"}
    assert {pod["status"]["phase"] for pod in pods["items"]} == {"Running"}


async def test_what_is_owned_goes_with_its_owner(plane: ControlPlane, namespace: str) -> None:
    await plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}, namespace=namespace)
    owner = await plane.get("v1/configmaps", "owner", namespace=namespace)
    assert owner is not None
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "owned", "ownerReferences": [reference]},
    }
    await plane.apply(owned, namespace=namespace)
    await plane.kubectl("delete", "configmap", "owner", "-n", namespace)
    await plane.wait_gone("v1/configmaps", "owned", namespace=namespace)


async def test_the_audit_log_tells_who_did_what(plane: ControlPlane, namespace: str) -> None:
    mark = plane.audit.mark()
    await plane.kubectl("create", "configmap", "seen", "-n", namespace)
    (call,) = await eventually(lambda: [c for c in plane.audit.since(mark, user="admin") if c.verb == "create"])
    assert (call.group, call.resource, call.namespace, call.name) == ("", "configmaps", namespace, "seen")
    assert call.code == 201
    assert call.agent.startswith("kubectl/")


async def test_a_watch_is_logged_as_it_opens(plane: ControlPlane, namespace: str) -> None:
    mark = plane.audit.mark()
    await plane.apply(deployment(), namespace=namespace)
    await plane.kubectl("wait", "deployment/web", "-n", namespace, "--for=condition=Available", "--timeout=60s")
    watches = [call for call in plane.audit.since(mark, user="admin") if call.verb == "watch"]
    assert {(call.group, call.resource) for call in watches} == {("apps", "deployments")}


async def test_a_service_account_may_do_nothing_that_was_not_granted(plane: ControlPlane, namespace: str) -> None:
    account = await plane.service_account(namespace, "default")
    assert (
        await plane.kubectl(
            "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=account.kubeconfig
        )
        == account.user
    )
    mark = plane.audit.mark()
    with pytest.raises(CommandFailedError, match='cannot list resource "secrets"'):
        await plane.kubectl("get", "secrets", kubeconfig=account.kubeconfig)
    (call,) = await eventually(lambda: [c for c in plane.audit.since(mark, user=account.user) if c.resource])
    assert (call.verb, call.resource, call.code) == ("list", "secrets", 403)


async def test_what_was_granted_is_allowed(plane: ControlPlane, namespace: str) -> None:
    account = await plane.service_account(namespace, "default")
    await plane.kubectl(
        *("create", "rolebinding", "viewer", "-n", namespace, "--clusterrole=view"),
        f"--serviceaccount={namespace}:default",
    )

    async def allowed() -> bool:
        answer = await plane.request("GET", f"/api/v1/namespaces/{namespace}/configmaps", token=account.token)
        return answer.status_code == 200

    await eventually(allowed, what="the authorizer has seen the binding")


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("which", ["apiserver", "etcd"])
async def test_objects_outlive_a_restart(plane: ControlPlane, namespace: str, which: str, how: str) -> None:
    await plane.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=a=b")
    part = getattr(plane, which)
    await getattr(part, how)()
    assert not part.running
    await part.start()
    kept = await plane.wait_for(bool, "v1/configmaps", "kept", namespace=namespace)
    assert kept["data"] == {"a": "b"}


async def test_the_controllers_go_on_after_the_api_server_was_away(plane: ControlPlane, namespace: str) -> None:
    await plane.apiserver.kill()
    await plane.apiserver.start()
    await plane.apply(deployment(), namespace=namespace)
    await plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=120s")


async def test_the_versions_are_those_that_are_pinned(plane: ControlPlane) -> None:
    versions = json.loads(await plane.kubectl("version", "-o", "json"))
    assert versions["clientVersion"]["gitVersion"] == versions["serverVersion"]["gitVersion"]
    assert os.environ.get("KUBEBUILDER_ASSETS") or versions["serverVersion"]["gitVersion"] == toolchain.KUBERNETES
    assert await plane.helm("version", "--template", "{{.Version}}") == toolchain.HELM
    assert toolchain.KWOK in await plane.run("kwok", "--version")


@pytest.mark.skipif("KUBEBUILDER_ASSETS" in os.environ, reason="it is set already, and the whole suite shows it")
async def test_ready_made_programs_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = toolchain.tools()
    (tmp_path / "etcd").symlink_to(built["etcd"])
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert toolchain.tools() == {**built, "etcd": tmp_path / "etcd"}


async def test_helm_waits_for_a_deployment(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    chart = tmp_path / "web"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: web\nversion: 1.0.0\n")
    (chart / "templates" / "deployment.yaml").write_text(json.dumps(deployment()))
    await plane.helm("install", "web", str(chart), "-n", namespace, "--wait", "--timeout", "60s")
    (release,) = json.loads(await plane.helm("list", "-n", namespace, "-o", "json"))
    assert (release["name"], release["status"]) == ("web", "deployed")
    made = await plane.get("apps/v1/deployments", "web", namespace=namespace)
    assert made is not None
    assert made["status"]["readyReplicas"] == 2
    await plane.helm("uninstall", "web", "-n", namespace, "--wait")
    assert await plane.get("apps/v1/deployments", "web", namespace=namespace) is None


async def test_kstatus_is_computed(plane: ControlPlane, namespace: str) -> None:
    await plane.apply(deployment(), namespace=namespace)
    await plane.kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
    objects = await plane.kubectl("get", "deployment,configmap", "-n", namespace, "-o", "yaml")
    answers = json.loads(await plane.run("kstatus", stdin=objects))
    assert {(answer["kind"], answer["status"]) for answer in answers} == {
        ("Deployment", "Current"),
        ("ConfigMap", "Current"),
    }
    (fresh,) = json.loads(await plane.run("kstatus", stdin=json.dumps(deployment())))
    assert (fresh["name"], fresh["status"]) == ("web", "InProgress")


async def test_kinds_own_parser_judges_its_configuration(plane: ControlPlane) -> None:
    good = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}, {role: worker}]\n"
    await plane.run("kind-config", stdin=good)
    with pytest.raises(CommandFailedError, match="field rol not found"):
        await plane.run("kind-config", stdin=good.replace("role: worker", "rol: worker"))
    with pytest.raises(CommandFailedError, match=re.escape("must have at least one control-plane node")):
        await plane.run("kind-config", stdin=good.replace("control-plane", "worker"))


async def test_the_projects_kinds_are_accepted(plane: ControlPlane) -> None:
    await plane.apply(CRDS)
    for name in ("aoaibackendpools", "tenantquotas"):
        await plane.kubectl("wait", f"crd/{name}.aoai.dev", "--for=condition=Established", "--timeout=30s")
        crd = await plane.get("apiextensions.k8s.io/v1/customresourcedefinitions", f"{name}.aoai.dev")
        assert crd is not None
        assert [c["message"] for c in crd["status"]["conditions"] if c["type"] == "NonStructuralSchema"] == []
