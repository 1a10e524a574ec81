"""What `aoai-operator inject` makes, on a real API server."""

from __future__ import annotations

import yaml

from aoai_operator.core.sidecar import CONTAINER
from aoai_operator.injecting import inject_all
from support.cluster.client import Json
from support.cluster.control_plane import ControlPlane
from support.sidecars import SIDECAR

POD: Json = {
    "metadata": {"labels": {"app": "api"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "api",
                "image": "example.com/api:1",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}
ONCE: Json = {"spec": {**POD["spec"], "restartPolicy": "Never"}}
SELECTOR: Json = {"matchLabels": {"app": "api"}}


def workload(version: str, kind: str, **spec: object) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "api"}, "spec": spec}


WORKLOADS = [
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "api"}, "spec": POD["spec"]},
    workload("apps/v1", "Deployment", selector=SELECTOR, template=POD),
    workload("apps/v1", "StatefulSet", selector=SELECTOR, template=POD, serviceName="api"),
    workload("apps/v1", "DaemonSet", selector=SELECTOR, template=POD),
    workload("apps/v1", "ReplicaSet", selector=SELECTOR, template=POD),
    workload("v1", "ReplicationController", selector={"app": "api"}, template=POD),
    workload("batch/v1", "Job", template=ONCE),
    workload("batch/v1", "CronJob", schedule="0 3 * * *", jobTemplate={"spec": {"template": ONCE}}),
]


async def test_every_kind_is_accepted_where_pods_are_restricted(plane: ControlPlane, namespace: str) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    await plane.kubectl("label", "namespace", namespace, label)
    injected = inject_all([("x", yaml.safe_dump_all(WORKLOADS))], SIDECAR)
    told = await plane.apply(injected, namespace=namespace)
    assert told.count("serverside-applied") == len(WORKLOADS)
    assert "Warning" not in told
    await plane.kubectl("rollout", "status", "deployment/api", "-n", namespace, "--timeout=60s")
    pods = await plane.get("v1/pods", namespace=namespace)
    assert pods is not None
    for pod in pods["items"]:
        assert [c["name"] for c in pod["spec"]["initContainers"]] == [CONTAINER]
        assert pod["spec"]["initContainers"][0]["restartPolicy"] == "Always"


async def test_what_the_api_server_returns_is_injected_to_the_same(plane: ControlPlane, namespace: str) -> None:
    await plane.apply(inject_all([("x", yaml.safe_dump(WORKLOADS[1]))], SIDECAR), namespace=namespace)
    text = await plane.kubectl("get", "deployment", "api", "-n", namespace, "-o", "yaml", "--show-managed-fields")
    [before], [after] = list(yaml.safe_load_all(text)), list(yaml.safe_load_all(inject_all([("x", text)], SIDECAR)))
    for name in ("containers", "volumes"):
        mine, theirs = after["spec"]["template"]["spec"][name], before["spec"]["template"]["spec"][name]
        assert [one["name"] for one in mine] == [one["name"] for one in theirs]
    assert after["spec"]["template"]["spec"]["containers"] == before["spec"]["template"]["spec"]["containers"]
    await plane.apply(inject_all([("x", yaml.safe_dump(WORKLOADS[1]))], SIDECAR), namespace=namespace)
    again = await plane.get("apps/v1/deployments", "api", namespace=namespace)
    assert again is not None
    assert again["metadata"]["generation"] == before["metadata"]["generation"]
