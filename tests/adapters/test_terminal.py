"""What people see on standard output of `aoai-operator local`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from aoai_operator.adapters.terminal import Terminal
from aoai_operator.core.compiler import compile_world
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.observed import Overrides
from support.resources import pool, world

FINDINGS = (
    LocatedFault("a.yaml", 3, "AOAIBackendPool ns/a", "spec.endpoints[0]", "there is no Secret ns/x", "create it"),
    LocatedFault("a.yaml", 9, "AOAIBackendPool ns/a", "spec.endpoints[1]", "there is no Secret ns/y", "create it"),
)
BROKEN = compile_world(replace(world(pool("a")), secrets={}))


def test_nothing_is_said_before_it_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=False)
    terminal.faults(["a.yaml:1: is not YAML"])
    terminal.statuses(BROKEN, FINDINGS, Overrides())
    assert capsys.readouterr().out == ""


def test_each_finding_has_a_line_with_its_place_and_its_condition_does_not_repeat_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = Terminal(as_json=False)
    terminal.ready("http://127.0.0.1:1", [], {})
    capsys.readouterr()
    terminal.statuses(BROKEN, FINDINGS[:1], Overrides())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == FINDINGS[0].sentence()
    assert not any("SecretNotFound" in line for line in lines)
    terminal.statuses(BROKEN, FINDINGS, Overrides())
    assert capsys.readouterr().out.splitlines() == [FINDINGS[1].sentence()]


def test_findings_are_told_to_programs_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.ready("http://127.0.0.1:1", [], {})
    capsys.readouterr()
    terminal.statuses(BROKEN, FINDINGS[:1], Overrides())
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = next(e for e in events if e["event"] == "finding")
    assert (found["file"], found["line"], found["field"]) == ("a.yaml", 3, "spec.endpoints[0]")
