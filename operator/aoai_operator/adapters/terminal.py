"""Tells people, or programs, what happens: results on standard output, as text or as one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import typer

from aoai_operator.core.compiler import Compiled
from aoai_operator.core.conditions import ConditionType
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.observed import Overrides
from aoai_operator.core.served import ServedPool, how_to_call, ready_line
from aoai_operator.core.transitions import pool_transitions, tenant_transitions

_NOTHING = Compiled({}, {}, {}, ())
_OF_FINDINGS = frozenset({ConditionType.ACCEPTED, ConditionType.RESOLVED_REFS})
"""Conditions that, when False, sum up what the findings say one by one and with their places."""


class Terminal:
    """Standard output of `aoai-operator local`: one line when ready, then only what changes."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._is_ready = False
        self._statuses = _NOTHING
        self._findings: tuple[LocatedFault, ...] = ()
        self._faults: tuple[str, ...] = ()

    def ready(self, address: str, pools: Sequence[ServedPool], details: Mapping[str, object]) -> None:
        """Say that the gateway serves, and how to call it. `details` are for programs only."""
        self._is_ready = True
        if self._json:
            _line({"event": "ready", "address": address, "pools": [asdict(pool) for pool in pools], **details})
            return
        typer.secho(ready_line(address, pools), fg="green")
        if snippet := how_to_call(pools):
            typer.echo(snippet)

    def statuses(self, compiled: Compiled, findings: Sequence[LocatedFault], observed: Overrides) -> None:
        """Show what changed since the last call, nothing before it was ready. At first: only what is not well.

        `findings` are those of `compiled`, by file and line; each is shown when it is new.
        """
        if not self._is_ready:
            return
        known, self._findings = self._findings, tuple(findings)
        for finding in findings:
            if finding not in known:
                self._finding(finding)
        before, self._statuses = self._statuses, compiled
        found = pool_transitions(before.pool_statuses, compiled.pool_statuses, observed)
        found += tenant_transitions(before.quota_statuses, compiled.quota_statuses)
        for transition in found:
            if self._json:
                _line({"event": "transition", **asdict(transition)})
            elif transition.good or transition.what not in _OF_FINDINGS:
                typer.secho(str(transition), fg=None if transition.good else "yellow")

    def _finding(self, finding: LocatedFault) -> None:
        if self._json:
            _line({"event": "finding", **asdict(finding)})
        else:
            typer.secho(finding.sentence(), fg="yellow")

    def faults(self, faults: Sequence[str]) -> None:
        """Say what is wrong with the manifests, and when they are whole again. Nothing twice, nor before `ready`."""
        if not self._is_ready:
            return
        before, self._faults = self._faults, tuple(faults)
        if before == self._faults:
            return
        if self._json:
            _line({"event": "broken", "faults": list(faults)} if faults else {"event": "mended"})
        elif faults:
            for fault in faults:
                typer.secho(fault, fg="red")
            typer.secho("until this is mended, what was good before keeps serving", fg="red")
        else:
            typer.secho("the manifests are whole again", fg="green")


def _line(value: Mapping[str, object]) -> None:
    typer.echo(json.dumps(value))
