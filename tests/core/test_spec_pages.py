"""The spec pages: every field of the CRDs is on its page, and the examples on them are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aoai_operator.core.findings import Fault
from aoai_operator.crds import crds
from aoai_operator.offline import check

SPEC = Path(__file__).parents[2] / "docs" / "spec"
PAGES = {document["spec"]["names"]["singular"]: document for document in crds().values()}


@pytest.mark.parametrize("page", PAGES)
def test_every_field_is_on_its_page_with_its_meaning(page: str) -> None:
    text = (SPEC / f"{page}.md").read_text(encoding="utf-8")
    schema = PAGES[page]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields = {path: node for part in ("spec", "status") for path, node in _fields(schema["properties"][part], part)}
    rows = {found[1]: found[0] for found in re.finditer(r"^\| `((?:spec|status)\.[^`]+)` \|.*$", text, re.MULTILINE)}
    assert rows.keys() == fields.keys()
    for path, node in fields.items():
        assert node["description"] in rows[path], path


def test_examples_of_the_pages_are_valid(tmp_path: Path) -> None:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (SPEC / f"{page}.md").read_text(), re.DOTALL)):
            (tmp_path / f"{page}-{number}.yaml").write_text(block)
    assert check([tmp_path]).text() == "1 pool, 1 tenant: all good"


def test_every_reason_of_a_fault_is_explained() -> None:
    text = "".join((SPEC / f"{page}.md").read_text() for page in PAGES)
    assert [fault.value for fault in Fault if f"`{fault.value}`" not in text] == []


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _fields(field, f"{path}.{name}")
        yield from _fields(field.get("items", {}), f"{path}.{name}[]")
