"""How figures are said: progress as it goes, Markdown tables, one JSON file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_STARTED = time.monotonic()

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """Write the table with its columns aligned; all but the first to the right."""
        cells = [self.columns, *(tuple(_text(cell) for cell in row) for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(_pad(row[i], widths[i], right=i > 0) for i in range(len(row))) + " |" for row in cells
        ]
        rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
        return "\n".join([f"### {self.title}", "", lines[0], rule, *lines[1:]])


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure is held against."""

    what: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Tell whether the figure is within its bound."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def row(self) -> tuple[Cell, ...]:
        """Give the target as a table row."""
        return (
            self.what,
            self.measured,
            f"{'>=' if self.at_least else '<='} {self.bound:g}",
            "yes" if self.met else "NO",
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario found. `raw` holds what the tables were made from, for JSON only."""

    scenario: str
    tables: tuple[Table, ...] = ()
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """Tell the person who waits what goes on."""
    print(f"{time.monotonic() - _STARTED:6.0f} s  {text}", file=sys.stderr, flush=True)


def show(outcome: Outcome) -> None:
    """Print the tables, notes and targets of a scenario."""
    print(f"\n## {outcome.scenario}\n")
    for table in outcome.tables:
        print(table.markdown(), end="\n\n")
    for note in outcome.notes:
        print(f"- {note}")
    if outcome.targets:
        rows = tuple(target.row() for target in outcome.targets)
        print("\n" + Table("Targets", ("what", "measured", "target", "met"), rows).markdown())
    sys.stdout.flush()


def write(path: Path, outcomes: Sequence[Outcome], about: dict[str, Any]) -> None:
    """Write all outcomes as one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scenarios = {
        outcome.scenario: asdict(outcome)
        | {"targets": [asdict(target) | {"met": target.met} for target in outcome.targets]}
        for outcome in outcomes
    }
    path.write_text(json.dumps({**about, "scenarios": scenarios}, indent=1, default=str) + "\n")


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _pad(text: str, width: int, *, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
