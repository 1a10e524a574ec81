"""Each claim of the demo fails when its facts are not as it says, and no other one does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from aoai_operator.demo.claims import check
from aoai_operator.demo.counting import parse
from aoai_operator.demo.facts import ClientError, Counted, Facts, Phase, Storm, Strays, Tokens

SHARES = "In the rush each region served by its capacity"
OWN = "Each region got its own key and deployment name"
CAPACITY = {"big": 600, "middle": 300, "small": 100}


def phase(name: str, served: Mapping[str, int], **changes: Any) -> Phase:
    """Return a phase in which all went well."""
    none = dict.fromkeys(served, 0)
    values = {"seconds": 5.0, "answered": 100, "failed": 0, "refused": none, "admitted": none, "peak_in_flight": 2}
    return Phase(name=name, served=served, **{**values, "came_about": True, **changes})


CALM = {"big": 60, "middle": 30, "small": 10}
FACTS = Facts(
    capacity=CAPACITY,
    minute_seconds=10,
    phases={
        "warm-up": phase("warm-up", CALM),
        "rush": phase("rush", CALM),
        "throttled": phase("throttled", {"big": 80, "middle": 0, "small": 20}),
        "killed": phase("killed", {"big": 0, "middle": 70, "small": 30}),
        "restored": phase("restored", CALM),
    },
    by_way={"chat": 300, "stream": 200},
    errors=[],
    seen=Tokens(1000, 2000),
    billed=Tokens(1000, 2000),
    counted=Counted(500, Tokens(1000, 2000)),
    storm=Storm("middle", 3.0, {"chat": [0.0, 0.1, 3.2], "embeddings": [0.5]}),
    killed="big",
    throttled="middle",
    strays=Strays(attempts=520, credential=0, deployment=0, headers=0),
)


def with_phase(name: str, **changes: Any) -> Facts:
    """Return the facts with one phase changed."""
    return replace(FACTS, phases={**FACTS.phases, name: replace(FACTS.phases[name], **changes)})


def failing(facts: Facts) -> set[str]:
    """Return the first words of the claims that fail."""
    return {claim.text.split(":")[0].split(",")[0] for claim in check(facts) if not claim.holds}


def test_all_hold_when_all_went_well() -> None:
    assert failing(FACTS) == set()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(FACTS, errors=[ClientError("rush", "chat", "RateLimitError")]), {"No error reached a client"}),
        (replace(FACTS, by_way={"chat": 500, "stream": 0}), {"Every way of calling was answered"}),
        (
            with_phase("rush", served={"big": 0, "middle": 50, "small": 50}),
            {"In the rush each region served by its capacity"},
        ),
        (with_phase("throttled", came_about=False), {"middle throttled"}),
        (with_phase("killed", came_about=False), {"big killed"}),
        (with_phase("killed", failed=1), {"big killed"}),
        (with_phase("killed", served={"big": 0, "middle": 0, "small": 0}), {"big killed"}),
        (with_phase("restored", came_about=False), {"Restored"}),
        (replace(FACTS, storm=Storm("middle", 3.0, {})), {"middle throttled"}),
        (replace(FACTS, storm=Storm("middle", 3.0, {"chat": [0, 0.1, 0.2, 0.3, 2.9]})), {"middle throttled"}),
        (
            replace(FACTS, strays=replace(FACTS.strays, credential=1)),
            {"Each region got its own key and deployment name"},
        ),
        (replace(FACTS, strays=replace(FACTS.strays, headers=1)), {OWN}),
        (replace(FACTS, counted=None), {"The gateway counted the usage that the SDK saw"}),
        (replace(FACTS, counted=Counted(500, Tokens(999, 2000))), {"The gateway counted the usage that the SDK saw"}),
        (replace(FACTS, billed=Tokens(1001, 2000)), {"The gateway counted the usage that the SDK saw"}),
        (replace(FACTS, counted=Counted(499, FACTS.seen)), {"The gateway counted the usage that the SDK saw"}),
    ],
)
def test_each_fails_on_its_own_facts(facts: Facts, expected: set[str]) -> None:
    assert failing(facts) == expected


def test_a_region_that_never_served_is_told() -> None:
    phases = {name: replace(p, served={**p.served, "small": 0}) for name, p in FACTS.phases.items()}
    assert "Every region served" in failing(replace(FACTS, phases=phases))


def test_attempts_during_a_wait_are_wasted_and_the_next_wait_starts_after_it() -> None:
    assert Storm("r", 3.0, {"d": [0.0, 1.0, 2.9, 3.0, 6.5]}).wasted() == [2, 0, 0]


def test_metrics_of_other_tenants_are_left_out() -> None:
    text = """# TYPE aoai_requests_total counter
aoai_requests_total{tenant="ai/team",code="200"} 3
aoai_requests_total{tenant="ai/team",code="429"} 1
aoai_requests_total{tenant="ai/other",code="200"} 5
# TYPE aoai_tokens_total counter
aoai_tokens_total{tenant="ai/team",kind="prompt"} 10
aoai_tokens_total{tenant="ai/team",kind="completion"} 20
aoai_tokens_total{tenant="ai/team",kind="cached"} 4
aoai_tokens_total{tenant="ai/other",kind="prompt"} 7
"""
    assert parse(text, "ai/team") == Counted(4, Tokens(10, 20))
