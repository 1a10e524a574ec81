"""Golden pairs of `aoai-operator inject`: NAME.yaml goes in, and NAME.injected.yaml comes out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.adapters.envoy_process import find_envoy
from aoai_operator.adapters.manifests.roundtrip import NotYamlError, read, write
from aoai_operator.core.envoy.control_plane import sds_files
from aoai_operator.core.sidecar import CONTAINER, TEMPLATES, Sidecar, inject
from aoai_operator.injecting import InjectFailedError, inject_all
from support.sidecars import SIDECAR

HERE = Path(__file__).parent / "inject"
INPUTS = sorted(path for path in HERE.glob("*.yaml") if not path.name.endswith(".injected.yaml"))


@pytest.mark.parametrize("source", INPUTS, ids=lambda p: p.stem)
def test_outputs_are_as_recorded(source: Path, pytestconfig: pytest.Config) -> None:
    made = inject_all([(source.name, source.read_text(encoding="utf-8"))], SIDECAR)
    path = source.with_suffix(".injected.yaml")
    if pytestconfig.getoption("--update-golden"):
        path.write_text(made, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == made, f"{path.name} differs; run make golden and read the difference"
    assert inject_all([("again", made)], SIDECAR) == made


def test_every_output_has_an_input() -> None:
    assert {p.name.removesuffix(".injected.yaml") for p in HERE.glob("*.injected.yaml")} == {p.stem for p in INPUTS}


def test_another_port_and_pool_replace_what_was_injected() -> None:
    text = INPUTS[0].read_text(encoding="utf-8")
    other = Sidecar(
        gateway="other",
        operator_namespace="elsewhere",
        name="o",
        image="i",
        port=1,
        ready_port=2,
        control_plane_port=3,
    )
    assert inject_all([("", inject_all([("", text)], other))], SIDECAR) == inject_all([("", text)], SIDECAR)


_names = st.sampled_from(["a", "b", CONTAINER, "c"])
_scraps = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x", "Deployment", "List"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=2),
    max_leaves=6,
)
_containers = st.lists(st.fixed_dictionaries({"name": _names}, optional={"env": _scraps}), max_size=3)
_pods = st.fixed_dictionaries(
    {}, optional={"metadata": _scraps, "spec": st.fixed_dictionaries({"containers": _containers | _scraps})}
)


@given(kind=st.sampled_from(sorted(TEMPLATES)), pod=_pods | _scraps)
def test_whatever_comes_in_twice_is_as_once_and_only_the_named_error_comes_out(kind: str, pod: Any) -> None:
    version = {"Pod": "v1", "ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}
    data: Any = pod
    for step in reversed(TEMPLATES[kind]):
        data = {step: data}
    document = {**data, "apiVersion": version.get(kind, "apps/v1"), "kind": kind} if isinstance(data, dict) else data
    before = json.dumps(document)
    try:
        once = inject_all([("x", write([document]))], SIDECAR)
    except InjectFailedError:
        return
    finally:
        assert json.dumps(document) == before
    assert inject_all([("x", once)], SIDECAR) == once


_plain = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(_plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_what_is_no_workload_comes_out_as_it_went_in(value: Any) -> None:
    document = {"apiVersion": "v1", "kind": "ConfigMap", "data": value}
    assert inject(document, SIDECAR) == document
    assert list(read(write([document]))) == [document]
    assert yaml.safe_load(write([document])) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: api}",
            "(Deployment api): spec is missing, or no map",
        ),
        (
            "kind: CronJob\napiVersion: batch/v1\nmetadata: {name: n}\nspec: {jobTemplate: {}}",
            "document 1 (CronJob n): spec.jobTemplate.spec is missing, or no map",
        ),
        ("a: 1\n---\nkind: Pod\napiVersion: v1\nspec: {containers: []}", "document 2 (Pod): spec.containers has no"),
        (
            "kind: List\nitems: [{kind: Pod, apiVersion: v1, spec: {containers: {}}}]",
            "document 1 (List): items[0].spec.containers is no list of maps",
        ),
        (
            "kind: Pod\napiVersion: v1\nspec: {hostNetwork: true, containers: [{name: a}]}",
            "spec.hostNetwork is true: the sidecar would serve every process of the node",
        ),
        ("a: 1\n---\n- [", "after document 1: line 3: is not YAML"),
        ("a: 1\na: 2", "line 1: a field is given twice"),
        ("just words", "document 1: it is no Kubernetes object"),
    ],
)
def test_errors_name_the_document_and_the_field(text: str, message: str) -> None:
    with pytest.raises(InjectFailedError) as failed:
        inject_all([("x.yaml", text)], SIDECAR)
    assert str(failed.value).startswith("x.yaml: ")
    assert message in str(failed.value)


@given(st.text(max_size=40))
def test_no_text_makes_another_error(text: str) -> None:
    try:
        list(read(text))
    except NotYamlError:
        return


def test_envoy_takes_the_bootstrap(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    files = {"bootstrap.json": SIDECAR.bootstrap(), **sds_files(SIDECAR.access())}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content).replace("/etc/aoai", str(tmp_path)))
    command = [
        str(find_envoy(None)),
        "--mode",
        "validate",
        "-c",
        str(tmp_path / "bootstrap.json"),
        "--service-node",
        "pod",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
