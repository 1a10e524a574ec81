"""Golden pairs: NAME.in.yaml is a world, and the files beside it say what the operator makes of it.

`make golden` rewrites the outputs and deletes those that have no input; read the difference before you commit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from aoai_operator.core.compiler import compile_world
from aoai_operator.core.envoy.settings import GatewaySettings
from aoai_operator.core.envoy.translate import translate
from support.worlds import compiled_data, read_world, snapshot_data

HERE = Path(__file__).parent
SETTINGS = GatewaySettings(gateway="default", listen_host="0.0.0.0", listen_port=8080, tls_port=8443)
INPUTS = sorted(HERE.glob("*/*.in.yaml"))


def outputs(source: Path) -> Mapping[Path, Any]:
    """Return what belongs beside an input, by file."""
    world = read_world(yaml.safe_load(source.read_text(encoding="utf-8")))
    compiled = compile_world(world)
    name = source.name.removesuffix(".in.yaml")
    if source.parent.name == "compile":
        return {source.with_name(f"{name}.out.yaml"): compiled_data(compiled)}
    snapshot = translate(list(compiled.tables.values()), world.secrets, world.overrides, SETTINGS)
    return {source.with_name(f"{name}.{k}.yaml"): v for k, v in snapshot_data(snapshot, world.secrets).items()}


def text(value: Any) -> str:
    """Return plain data as YAML, keys sorted, with nothing left to the writer's mood."""
    return yaml.dump(value, Dumper=_Plain, sort_keys=True, allow_unicode=True, width=10_000, default_flow_style=None)


class _Plain(yaml.SafeDumper):
    """Writes small lists and maps in one line, sentences on a line each, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        sentences = any(isinstance(item, str) and " " in item for item in sequence)
        return super().represent_sequence(tag, sequence, False if sentences else flow_style)


@pytest.mark.parametrize("source", INPUTS, ids=lambda p: f"{p.parent.name}/{p.name.removesuffix('.in.yaml')}")
def test_outputs_are_as_recorded(source: Path, pytestconfig: pytest.Config) -> None:
    for path, value in outputs(source).items():
        made = text(value)
        if pytestconfig.getoption("--update-golden"):
            path.write_text(made, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing; run make golden"
        assert path.read_text(encoding="utf-8") == made, f"{path.name} differs; run make golden and read the difference"


def test_every_output_has_an_input(pytestconfig: pytest.Config) -> None:
    expected = {path for source in INPUTS for path in (source, *outputs(source))}
    stale = sorted({path for kind in ("compile", "envoy") for path in (HERE / kind).glob("*.yaml")} - expected)
    if pytestconfig.getoption("--update-golden"):
        for path in stale:
            path.unlink()
        stale = []
    assert stale == []


@pytest.mark.parametrize("source", INPUTS, ids=lambda p: f"{p.parent.name}/{p.name.removesuffix('.in.yaml')}")
def test_every_input_says_what_it_shows(source: Path) -> None:
    assert source.read_text(encoding="utf-8").startswith("# ")
