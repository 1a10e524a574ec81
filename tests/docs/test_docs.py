"""The pages for people are complete: every reason in the runbook, every dependency explained, no dead link."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aoai_operator.cli import app
from aoai_operator.core.conditions import FAULTS, ConditionReason, ConditionType
from aoai_operator.core.envoy import listeners
from aoai_operator.core.envoy.luadata import source
from aoai_operator.core.observed import Reason, State
from aoai_operator.core.pools import _STATUSES
from aoai_operator.offline import check

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows_of(text: str, heading: str) -> str:
    """Return the section of a page."""
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_state_has_a_row(reason: Reason) -> None:
    assert f"\n| `{reason.value}` |" in rows_of(RUNBOOK, "Reasons of a state")


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_row(fault: ConditionReason) -> None:
    assert f"\n| `{fault.value}` |" in rows_of(RUNBOOK, "Faults between resources")


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_row(state: State) -> None:
    assert f"\n| `{state.value}` |" in rows_of(RUNBOOK, "States of an endpoint's deployment")


@pytest.mark.parametrize("kind", ConditionType)
def test_every_condition_is_in_the_runbook(kind: ConditionType) -> None:
    assert f"\n| `{kind.value}` |" in rows_of(RUNBOOK, "Conditions")


def test_every_condition_reason_is_in_the_runbook_and_no_other() -> None:
    cells = re.findall(r"^\|[^|]*\|[^|]*\|([^|]*)\|", rows_of(RUNBOOK, "Conditions"), re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}
    assert named - set(ConditionType) == {reason.value for reason in ConditionReason} - set(ConditionType)


def log_lines() -> set[str]:
    """Return what the operator can log as a warning or an error."""
    found = set()
    for path in (ROOT / "operator" / "aoai_operator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            of_a_log = "log" in ast.unparse(node.func.value) and node.func.attr in {"warning", "error", "exception"}
            # Reconciler._say(error, line) picks the level.
            said = node.args[0] if of_a_log else node.args[-1] if node.func.attr == "_say" else None
            if isinstance(said, ast.Constant):
                found.add(str(said.value))
    return found


def test_every_warning_and_error_has_a_row_and_no_other() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` \|", rows_of(RUNBOOK, "Log lines"), re.MULTILINE))
    assert log_lines() == rows


def test_every_alert_of_the_chart_has_a_row_and_no_other() -> None:
    alerts = yaml.safe_load((ROOT / "charts/aoai-operator/files/alerts.yaml").read_text(encoding="utf-8"))
    rows = set(re.findall(r"^\| `([^`]+)` \|", rows_of(RUNBOOK, "Alerts"), re.MULTILINE))
    assert {alert["alert"] for alert in alerts} == rows


def test_what_readyz_says_is_in_the_runbook() -> None:
    tree = ast.parse((ROOT / "operator/aoai_operator/cluster/app.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Checks"]
    said = {
        k.value
        for call in calls
        for w in call.keywords
        if isinstance(w.value, ast.Dict)
        for k in w.value.keys
        if isinstance(k, ast.Constant)
    }
    rows = set(re.findall(r"^\| `not yet: ([^`]+)` \|", rows_of(RUNBOOK, "The operator"), re.MULTILINE))
    assert said == rows


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_link_to_a_heading_is_dead() -> None:
    dead = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            if anchor not in anchors(page.parent / target if target else page):
                dead.append(f"{page.name}: {target}#{anchor}")
    assert dead == []


def own_codes() -> set[str]:
    """Return the error codes of the gateway's own answers: those of our Lua, and those of Envoy's configuration."""
    lua = source("quota.lua", "request.lua", "response.lua")
    spelled = re.findall(r"'\w+_error', '(\w+)'", lua) + re.findall(r'"code":"(\w+)"', lua)
    python = Path(listeners.__file__).read_text(encoding="utf-8")
    return {
        *spelled,
        *(reply[2] for reply in listeners._REPLIES),
        *re.findall(r'^ +"(\w+_\w+)",$', python, re.MULTILINE),
    }


def test_every_error_code_of_ours_has_a_row() -> None:
    codes = own_codes() - {"invalid_request_error", "permission_error", "server_error"}
    assert {"invalid_api_key", "no_healthy_region", "gateway_overloaded", "timeout"} <= codes
    section = rows_of(RUNBOOK, "What clients see")
    assert [code for code in sorted(codes) if f"\n| `{code}` |" not in section] == []


def test_every_retried_status_is_in_the_architecture() -> None:
    table = ARCHITECTURE.partition("### Which errors another region can answer")[2].partition("\n### ")[0]
    for reason, statuses in _STATUSES.items():
        for one in statuses:
            row = next(line for line in table.splitlines() if re.match(rf"\|[^|]*\b{one}\b", line))
            assert f"`{reason.value}` | yes" in row


def test_every_file_that_the_architecture_names_is_there() -> None:
    package = ROOT / "operator" / "aoai_operator"
    places = (package, package / "core" / "envoy", ROOT / "tests" / "cluster")
    named = sorted(set(re.findall(r"`([\w/]+\.(?:py|lua))`", ARCHITECTURE)))
    short = {"response.lua": "core/envoy/lua/response.lua", "upstream.lua": "core/envoy/lua/upstream.lua"}
    assert [name for name in named if not any((place / short.get(name, name)).exists() for place in places)] == []


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *(d for group in project["dependency-groups"].values() for d in group),
    ]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in wanted}
    explained = re.findall(
        r"^\| `([^`]+)` \|", (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(explained) == sorted(names)


def links() -> Iterator[tuple[Path, str]]:
    """Yield the links to files of this repository, with the page that has them."""
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target


def test_no_link_is_dead() -> None:
    assert [(str(page.relative_to(ROOT)), t) for page, t in links() if not (page.parent / t).exists()] == []


def test_every_command_is_in_the_readme() -> None:
    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback} - {"version"}
    names |= {g.name or "" for g in app.registered_groups}
    assert [name for name in sorted(names) if f"`aoai-operator {name}" not in README] == []


def readme_tree() -> set[Path]:
    """Return the paths of the layout in the README, by their indentation."""
    tree = re.search(r"```\n(operator/aoai_operator/ .*?)```", README, re.DOTALL)
    assert tree
    found: set[Path] = set()
    parents: list[Path] = []
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = (parents[depth - 1] if depth else ROOT) / line.split()[0]
        parents[depth:] = [path]
        found.add(path)
    return found


def test_what_the_readme_says_is_there_is_there() -> None:
    assert [path for path in sorted(readme_tree()) if not path.exists()] == []


def test_every_example_and_every_level_of_tests_is_in_the_readme() -> None:
    tree = readme_tree()
    examples = [path for path in (ROOT / "examples").iterdir() if path.is_dir()]
    assert [path.name for path in sorted(examples) if path not in tree] == []
    line = next(line for line in README.splitlines() if line.startswith("tests/"))
    levels = {path.parent.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").glob("*/test_*.py")}
    assert [level for level in sorted(levels) if not re.search(rf"\b{level}\b", line)] == []


def test_what_the_story_in_a_cluster_names_is_there() -> None:
    story = README.partition("### In a cluster")[2].partition("\n### ")[0]
    (folder,) = re.findall(r"kubectl apply --server-side -f (\S+)", story)
    documents = [d for f in (ROOT / folder).glob("*.yaml") for d in yaml.safe_load_all(f.read_text(encoding="utf-8"))]
    kinds = {"abp": "AOAIBackendPool", "tq": "TenantQuota"}
    named = {(kinds[kind], name) for kind, name in re.findall(r"\b(abp|tq)/([\w-]+)", story)}
    assert named == {(d["kind"], d["metadata"]["name"]) for d in documents if d["kind"] in kinds.values()}
    paths = re.findall(r"(?:charts|examples)/[\w/-]+", story)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_pool_of_the_readme_is_valid(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block
    secrets = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "ai"}, "stringData": entries}
        for name, entries in {
            "azure-keys": {"eastus": "a-key", "swedencentral": "b-key"},
            "team-search-key": {"api-key": "a-tenants-key"},
        }.items()
    ]
    (tmp_path / "pool.yaml").write_text(block[1])
    (tmp_path / "secrets.yaml").write_text(yaml.safe_dump_all(secrets))
    assert check([tmp_path]).text() == "1 pool, 1 tenant: all good"
