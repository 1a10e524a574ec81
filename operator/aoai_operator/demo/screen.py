"""What is shown: a live table for people at a terminal, plain lines for pipes, one JSON document for programs."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aoai_operator.demo.claims import Claim
from aoai_operator.demo.facts import Phase

_EVENTS_SHOWN = 6
_COLOURS = {"Healthy": "green", "Throttled": "yellow", "Unhealthy": "red", "Draining": "blue"}


@dataclass(frozen=True, slots=True)
class Row:
    """A region as it is now. `tokens`: what its quota was charged; `refused`: its 429s."""

    region: str
    tokens_per_minute: int
    deployment: str
    state: str
    served: int
    share: float
    tokens: int
    refused: int


@dataclass(frozen=True, slots=True)
class Moment:
    """All that is shown at one moment."""

    seconds: float
    rows: Sequence[Row]
    answered: int
    failed: int
    in_flight: int


class View(Protocol):
    """Shows how the demo goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def phase(self, name: str, title: str) -> None:
        """A phase begins."""
        ...

    def event(self, text: str) -> None:
        """Something happened."""
        ...

    def tick(self, moment: Moment) -> None:
        """Time went by."""
        ...

    def ended(self, phase: Phase) -> None:
        """A phase ended."""
        ...

    def result(self, claims: Sequence[Claim], phases: Mapping[str, Phase]) -> None:
        """All is over; these are the claims."""
        ...


class PlainView:
    """Lines without any control character, each with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def phase(self, name: str, title: str) -> None:
        """Print it."""
        self._line(f"== {name}: {title}")

    def event(self, text: str) -> None:
        """Print it."""
        self._line(f"   {text}")

    def tick(self, moment: Moment) -> None:
        """Print nothing: lines do not go away."""

    def ended(self, phase: Phase) -> None:
        """Print who served what."""
        self._line(f"   {phase_line(phase)}")

    def result(self, claims: Sequence[Claim], phases: Mapping[str, Phase]) -> None:
        """Print the claims."""
        del phases
        print_claims(self._console, claims)

    def _line(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"{seconds:5.1f} s {text}", soft_wrap=True, highlight=False, markup=False)


class LiveView:
    """A table that is drawn again and again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._title = Text("starting")
        self._events: deque[str] = deque(maxlen=_EVENTS_SHOWN)
        self._moment: Moment | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, name: str, title: str) -> None:
        """Show it above the table."""
        self._title = Text.assemble((name, "bold"), ": ", title)
        self._draw()

    def event(self, text: str) -> None:
        """Show it below the table, until others come."""
        self._events.append(text)
        self._draw()

    def tick(self, moment: Moment) -> None:
        """Draw the table."""
        self._moment = moment
        self._draw()

    def ended(self, phase: Phase) -> None:
        """Leave a line above the table."""
        line = Text.assemble((f"{phase.name:<10}", "bold"), phase_line(phase))
        self._live.console.print(line, soft_wrap=True)

    def result(self, claims: Sequence[Claim], phases: Mapping[str, Phase]) -> None:
        """Print the claims below the table."""
        del phases
        self._live.stop()
        print_claims(self._console, claims)

    def _draw(self) -> None:
        parts: list[RenderableType] = [self._title]
        if self._moment:
            parts.append(_table(self._moment))
        parts += [Text(f"  {event}", style="dim") for event in self._events]
        self._live.update(Group(*parts), refresh=True)


class JsonView:
    """Silent until the end; then one JSON document."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def phase(self, name: str, title: str) -> None:
        """Say nothing."""

    def event(self, text: str) -> None:
        """Say nothing."""

    def tick(self, moment: Moment) -> None:
        """Say nothing."""

    def ended(self, phase: Phase) -> None:
        """Say nothing."""

    def result(self, claims: Sequence[Claim], phases: Mapping[str, Phase]) -> None:
        """Print the document."""
        document = {
            "ok": all(claim.holds for claim in claims),
            "claims": [asdict(claim) for claim in claims],
            "phases": [asdict(phase) for phase in phases.values()],
        }
        self._console.file.write(json.dumps(document, indent=2) + "\n")


def phase_line(phase: Phase) -> str:
    """Return one line on who served what in a phase."""
    total = sum(phase.served.values())
    regions = []
    for name, served in phase.served.items():
        share = f" ({served / total:.0%})" if total else ""
        refused = f", {phase.refused[name]} x 429" if phase.refused[name] else ""
        regions.append(f"{name} {served}{share}{refused}")
    return f"{phase.seconds:.0f} s: {phase.answered} answers, {phase.failed} errors; {'; '.join(regions)}"


def print_claims(console: Console, claims: Sequence[Claim]) -> None:
    """Print the claims with a mark each, and what it comes to."""
    yes, no = ("ok", "NO") if console.options.ascii_only else ("✓", "✗")
    console.print()
    for claim in claims:
        mark = (yes, "bold green") if claim.holds else (no, "bold red")
        console.print(Text.assemble(mark, " ", (claim.text, "bold")), soft_wrap=True)
        console.print(Text(f"  {claim.numbers}", style="" if claim.holds else "red"), soft_wrap=True)
    failed = sum(not claim.holds for claim in claims)
    last = f"{failed} of {len(claims)} claims failed" if failed else f"all {len(claims)} claims hold"
    console.print(Text(f"\n{last}", style="bold red" if failed else "bold green"))


def _table(moment: Moment) -> Table:
    total = sum(row.tokens_per_minute for row in moment.rows)
    table = Table(expand=False, caption_justify="left")
    for heading in ("region", "deployment", "state"):
        table.add_column(heading)
    for heading in ("quota/min", "its share", "served", "share", "tokens charged", "429s"):
        table.add_column(heading, justify="right")
    for row in moment.rows:
        table.add_row(
            row.region,
            row.deployment,
            Text(row.state, style=_COLOURS.get(row.state, "dim")),
            f"{row.tokens_per_minute:,}",
            f"{row.tokens_per_minute / total:.0%}",
            f"{row.served:,}",
            f"{row.share:.0%}",
            f"{row.tokens:,}",
            f"{row.refused:,}",
        )
    clients = f"clients: {moment.answered:,} answers, {moment.failed} errors, {moment.in_flight} under way"
    table.caption = f"{clients}   {moment.seconds:.0f} s"
    return table
