"""How exactly quotas hold: 500 clients on one tenant's limit, ours and LiteLLM's, and tenants that share a pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bench import payloads
from bench.chain import our_chain
from bench.crowd import Member, press
from bench.litellm import lite_llm
from bench.report import Cell, Outcome, Table, Target, say
from bench.simulated import simulated
from bench.site import Region, Site
from bench.subject import Subject, SubjectFactory

LIMIT, CLIENTS, SECONDS = 60_000, 500, 155.0
_PERIOD, _PERIODS, _BEGIN = 61.0, 2, 30.0
"""Seconds for which a second's tokens count: who presses uses all at once, and then again after so long. Begun in the
quiet between two such bursts, whole periods have as many of them as they should."""
_GUARANTEES = {"gold": 100_000, "silver": 60_000, "bronze": 40_000}
"""Half, three tenths and two tenths of what the three regions have; bronze floods."""
_WORST, _STRICT, _USED, _KEPT = 1.01, 1.0, 0.95, 0.98
COLUMNS = ("", "worst 60 s", "used", "let in", "refused", "other")


@dataclass(frozen=True, slots=True)
class Exactness:
    """Shares of the limit: in the worst 60 s, and over the whole time."""

    name: str
    worst: float
    used: float
    let_in: int
    refused: int
    other: int

    def row(self) -> tuple[Cell, ...]:
        """Give the figures in the order of `COLUMNS`."""
        return (self.name, f"{self.worst:.2%}", f"{self.used:.2%}", self.let_in, self.refused, self.other)


def run(site: Site) -> Outcome:
    """Measure a limit in both modes, the same of LiteLLM, and guarantees of 50, 30 and 20 % against a flood."""
    expected = limited(site, "ours, Expected", partial(our_chain, quota=_quota("Expected")))
    strict = limited(site, "ours, Strict", partial(our_chain, quota=_quota("Strict")))
    other = limited(site, "LiteLLM", partial(lite_llm, tenant_tpm=LIMIT))
    kept = shared(site)
    least = min(kept.values())
    return Outcome(
        "exactness",
        tables=(
            Table(
                f"{CLIENTS} clients on {LIMIT} tokens a minute",
                COLUMNS,
                tuple(r.row() for r in (expected, strict, other)),
            ),
            Table(
                "Guarantees while bronze floods",
                ("tenant", "guaranteed", "of that"),
                tuple((name, _GUARANTEES[name], f"{share:.2%}") for name, share in kept.items()),
            ),
        ),
        targets=(
            Target("worst 60 s, Expected", expected.worst, _WORST, at_least=False),
            Target("used of the limit, Expected", expected.used, _USED),
            Target("worst 60 s, Strict", strict.worst, _STRICT, at_least=False),
            Target("least that a tenant got of its guarantee", least, _KEPT),
        ),
        notes=(
            f"{SECONDS:g} s each; half of the requests are streams",
            f"used: of the limit by the minute, over {_PERIODS} periods of {_PERIOD:g} s; 98.4 % is all that can be",
            "tokens as the region counts them, at the moment at which the client sent the request",
            "LiteLLM: one worker, the limit on the key (tpm_limit), in memory",
        ),
    )


def _quota(mode: str) -> dict[str, object]:
    # While nobody can be asked, Allow lets in what is owed: no promise of a limit is kept then.
    return {"limits": {"tokensPerMinute": LIMIT}, "reservation": mode, "onLedgerFailure": "Deny"}


def limited(site: Site, name: str, factory: SubjectFactory) -> Exactness:
    """Have all clients press on the limit of one tenant."""
    with simulated(site, limited=False) as simulation, factory(site, simulation.regions) as subject:
        say(f"exactness: {name}, {CLIENTS} clients for {SECONDS:g} s")
        (seen,), begun = press(subject.port, subject.v1_path, [Member(payloads.CLIENT_KEY, CLIENTS)], SECONDS)
    refused = seen.statuses[429]
    found = Exactness(
        name=name,
        worst=seen.worst_minute() / LIMIT,
        used=seen.a_minute(begun + _BEGIN, begun + _BEGIN + _PERIODS * _PERIOD) / LIMIT,
        let_in=len(seen.let_in),
        refused=refused,
        other=seen.statuses.total() - refused - len(seen.let_in),
    )
    say(f"  worst 60 s {found.worst:.2%}, used {found.used:.2%}")
    return found


def shared(site: Site) -> dict[str, float]:
    """Have two tenants use about what they were promised, and a third flood; return what each got of its guarantee."""
    tenants = {name: {"guaranteed": {"tokensPerMinute": tokens}} for name, tokens in _GUARANTEES.items()}

    @contextmanager
    def chain(site: Site, regions: Sequence[Region]) -> Iterator[Subject]:
        # Who asks whether it is ready shares the pool too, and was promised nothing of it.
        with our_chain(site, regions, tenants=tenants, quota={"enforcement": "Shadow"}) as subject:
            yield subject

    # The two ask for some more than is theirs, which is as much as they can be given.
    members = [Member("gold-key", 100), Member("silver-key", 60), Member("bronze-key", 300)]
    with simulated(site, limited=False) as simulation, chain(site, simulation.regions) as subject:
        say(f"exactness: tenants that share a pool, for {SECONDS:g} s")
        seen, begun = press(subject.port, subject.v1_path, members, SECONDS)
    got = [each.a_minute(begun + _BEGIN, begun + _BEGIN + _PERIODS * _PERIOD) for each in seen]
    return {name: tokens / _GUARANTEES[name] for name, tokens in zip(_GUARANTEES, got, strict=True)}
