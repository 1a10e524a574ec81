"""Tells people, or programs, what happens: results on standard output, as text or as one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import typer

from aoai_operator.core.served import ServedPool, how_to_call, ready_line
from aoai_operator.core.transitions import Transition


class Terminal:
    """Standard output of `aoai-operator local`."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json

    def ready(self, address: str, pools: Sequence[ServedPool], details: Mapping[str, object]) -> None:
        """Say that the gateway serves, and how to call it. `details` are for programs only."""
        if self._json:
            _line({"event": "ready", "address": address, "pools": [asdict(pool) for pool in pools], **details})
            return
        typer.secho(ready_line(address, pools), fg="green")
        if snippet := how_to_call(pools):
            typer.echo(snippet)

    def transitions(self, transitions: Iterable[Transition]) -> None:
        """Show what changed."""
        for transition in transitions:
            if self._json:
                _line({"event": "transition", **asdict(transition)})
            else:
                typer.secho(str(transition), fg=None if transition.good else "yellow")

    def broken(self, faults: Sequence[str]) -> None:
        """Say what is wrong with the manifests; the last good state keeps serving."""
        if self._json:
            _line({"event": "broken", "faults": list(faults)})
            return
        for fault in faults:
            typer.secho(fault, fg="red")
        typer.secho("until this is mended, what was good before keeps serving", fg="red")

    def mended(self) -> None:
        """Say that the manifests are whole again."""
        if self._json:
            _line({"event": "mended"})
        else:
            typer.secho("the manifests are whole again", fg="green")


def _line(value: Mapping[str, object]) -> None:
    typer.echo(json.dumps(value))
