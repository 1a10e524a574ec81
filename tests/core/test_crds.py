"""The generated CRDs: not stale, structural, described and bounded everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aoai_operator.crds import crds, rendered, write_crds

ROOT = Path(__file__).parents[2]
DOCUMENTS = crds()


def test_files_are_what_the_models_say(tmp_path: Path) -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "crds").glob("*.yaml")}
    assert committed == rendered(), "stale: run `make crds`"
    written = {path.name: path.read_text(encoding="utf-8") for path in write_crds(tmp_path)}
    assert written == rendered()
    assert {name: yaml.safe_load(text) for name, text in written.items()} == DOCUMENTS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_schema_is_structural_described_and_bounded(name: str) -> None:
    for path, node in _nodes(_schema(name), ""):
        assert not node.keys() & {"$ref", "anyOf", "oneOf", "allOf", "not", "title"}, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
            values = node["additionalProperties"]
            assert "type" in values, path
            assert "maxLength" in values, path
            continue
        assert "type" in node or node.get("x-kubernetes-int-or-string") is True, path
        assert node.get("default", 0) is not None, path
        if node.get("type") == "array":
            assert "maxItems" in node and "x-kubernetes-list-type" in node, path  # noqa: PT018
        if node.get("type") == "string" and path.startswith((".spec", ".status")):
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "object" and "default" in node:
            filled = {f for f, field in node["properties"].items() if "default" in field} | set(node["default"])
            assert set(node.get("required", ())) <= filled, path
        for key in node.get("x-kubernetes-list-map-keys", ()):
            item = node["items"]
            assert key in item["required"] or "default" in item["properties"][key], path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_property_has_a_description(name: str) -> None:
    for path, node in _nodes(_schema(name), ""):
        for field, schema in node.get("properties", {}).items():
            assert path + field == "metadata" or schema.get("description", "").endswith("."), f"{path}.{field}"


COUNTED = re.compile(
    r"tokens per minute|requests per minute|bytes|[Rr]equests under way|probes in a row|[Mm]ost endpoints|Envoys"
    r"|Share of the requests|Rank: |metadata\.generation|[Tt]okens|Most requests|units of the currency"
    r"|Accounts that|Endpoints made|Deployments of those"
)
"""What a number counts. One that is none of these is new: say its unit in its description, and here."""
SPAN = re.compile(r"\d+(ms|s|m|h)( \(at once\))? to \d+(ms|s|m|h)")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_number_and_every_duration_tells_its_unit(name: str) -> None:
    seen = 0
    for path, node in _nodes(_schema(name), ""):
        if node.get("type") in ("integer", "number") or node.get("x-kubernetes-int-or-string"):
            seen += 1
            assert COUNTED.search(node["description"]), path
        if "duration(self)" in str(node.get("x-kubernetes-validations")):
            seen += 1
            assert SPAN.search(node["description"]), path
    assert seen


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_columns_and_size(name: str) -> None:
    spec = DOCUMENTS[name]["spec"]
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    assert spec["names"]["categories"] == ["aoai"]
    assert version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"] == {"observedGeneration": -1}
    assert version["additionalPrinterColumns"][0]["name"] == "Ready"
    assert len(rendered()[name]) < 200_000


def _schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = DOCUMENTS[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, field in node.get("properties", {}).items():
        yield from _nodes(field, f"{path}.{name}")
    if "items" in node:
        yield from _nodes(node["items"], f"{path}[]")
