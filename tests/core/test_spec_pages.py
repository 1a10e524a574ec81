"""The spec pages: every field of the CRDs is on its page, and the examples on them are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aoai_operator.core.api import AOAIBackendPool, TenantQuota
from aoai_operator.core.conditions import FAULTS, ConditionReason, ConditionType
from aoai_operator.core.configmaps import manifests
from aoai_operator.core.signing import key_of
from aoai_operator.core.table import RoutingTable
from aoai_operator.crds import crds
from aoai_operator.offline import check

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "spec"
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


SUMMARIES = {"Ready", "Reconciling", "Stalled"}
"""Conditions that give the reasons of others."""


def explained(page: str) -> set[tuple[str, str, str]]:
    """Return the conditions in a page's table: type, status, reason."""
    section = (SPEC / f"{page}.md").read_text().partition("### Conditions\n")[2].partition("\n### ")[0]
    found, kind = set(), ""
    for line in section.splitlines():
        if line.startswith("| ") and line.count("|") == 5:
            first, statuses, reasons, _ = (cell.strip() for cell in line.strip("|").split("|"))
            kind = first.strip("`") or kind
            found |= {(kind, s, r) for s in statuses.split(", ") for r in re.findall(r"`(\w+)`", reasons) or [""]}
    return found


@pytest.mark.parametrize("reason", ConditionReason)
def test_every_reason_of_a_condition_has_a_row(reason: ConditionReason) -> None:
    rows = [row for page in PAGES for row in explained(page) if row[2] == reason]
    assert rows
    assert {kind for kind, _, _ in rows} <= set(ConditionType)
    if reason in FAULTS:
        assert (FAULTS[reason], "False", reason) in rows


def test_every_reason_that_is_explained_is_one() -> None:
    """In the cells of reasons other conditions are named as well, whose reasons are meant."""
    named = {reason for page in PAGES for _, _, reason in explained(page)} - {""}
    assert named <= set(ConditionReason)


def is_explained(condition: tuple[str, str, str], rows: set[tuple[str, str, str]]) -> bool:
    kind, status, reason = condition
    of_another = kind in SUMMARIES and any(r == reason for _, _, r in rows) and (kind, status, "") in rows
    return condition in rows or of_another


def compiled_conditions(part: str) -> set[tuple[str, str, str]]:
    """Return the conditions in the golden worlds."""
    lines = [
        line
        for path in (ROOT / "tests" / "golden" / "compile").glob("*.out.yaml")
        for status in yaml.safe_load(path.read_text(encoding="utf-8"))[part].values()
        for line in status["conditions"]
    ]
    found = [re.match(r"(\w+)=(\w+) (\w+) since ", line) for line in lines]
    return {(one[1], one[2], one[3]) for one in found if one}


@pytest.mark.parametrize(("kind", "part"), [(AOAIBackendPool, "poolStatuses"), (TenantQuota, "quotaStatuses")])
def test_every_condition_of_the_golden_worlds_is_explained(kind: Any, part: str) -> None:
    rows = explained(kind.KIND.lower())
    conditions = compiled_conditions(part)
    assert ("Accepted", "True", "Accepted") in conditions
    assert [one for one in sorted(conditions) if not is_explained(one, rows)] == []


def shown(page: str) -> set[tuple[str, ...]]:
    """Return the conditions in a page's real output."""
    text = (SPEC / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^\$ (?:NS=\w+ )?conditions \w+ \S+\n(.*?)(?:^\$|```)", text, re.DOTALL | re.MULTILINE)
    return {tuple(line.split()[:3]) for block in blocks for line in block.splitlines()}


def test_conditions_that_are_shown_are_explained() -> None:
    for page in PAGES:
        rows = explained(page)
        assert [one for one in sorted(shown(page)) if not is_explained((one[0], one[1], one[2]), rows)] == []


@pytest.mark.parametrize("page", PAGES)
def test_what_kubectl_shows_has_the_columns_of_the_definition(page: str) -> None:
    (version,) = PAGES[page]["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    names = [c["name"].upper() for c in columns if not c.get("priority")]
    wide = [c["name"].upper() for c in columns]
    plural = PAGES[page]["spec"]["names"]["shortNames"][0]
    text = (SPEC / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^\$ kubectl [^\n]*get {plural}\b([^\n]*)\n(NAME[^\n]*)\n", text, re.MULTILINE)
    assert blocks
    for options, header in blocks:
        assert header.split()[1:] == (wide if "-o wide" in options else names)


def test_every_condition_is_shown() -> None:
    """But what nobody can bring about: a pool without any deployment (NoTable) is refused when it is applied."""
    explained_reasons = {reason for page in PAGES for _, _, reason in explained(page)}
    shown_reasons = {reason for page in PAGES for _, _, reason in shown(page)}
    assert explained_reasons - shown_reasons <= {"", "NoTable"}


def test_the_routing_table_of_the_page_is_one() -> None:
    text = (SPEC / "aoaibackendpool.md").read_text(encoding="utf-8").partition("### The routing table")[2]
    block = re.search(r"```console\n\$ [^\n]*\n(.*?)```", text, re.DOTALL)
    assert block
    shown = yaml.safe_load(block[1])
    table = RoutingTable.model_validate(shown["table"])
    (written,) = manifests(table, "uid", key_of(b"k"))
    assert shown.keys() == yaml.safe_load(written["data"]["routing-table.yaml"]).keys()
    assert shown["table"].keys() == RoutingTable.model_fields.keys()


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in node.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from _fields(field, f"{path}.{name}")
        yield from _fields(field.get("items", {}), f"{path}.{name}[]")
