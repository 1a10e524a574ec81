"""What is said of deployments that were found, as time goes by."""

from __future__ import annotations

from dataclasses import replace

from aoai_operator.core.compiler import Compiled, Compiler
from aoai_operator.core.discovered import NOT_READ, Found
from aoai_operator.core.events import pool_events
from aoai_operator.core.members import DAY
from aoai_operator.core.world import World
from aoai_operator.metrics import Metrics
from support.tables import CHAT
from support.worlds import NOW, read_world

END = NOW + 100 * DAY


def world() -> World:
    """Return a pool of one deployment that retires in 100 days."""
    azure = {"subscriptionIds": ["0a000000-0000-0000-0000-00000000000a"]}
    account = {"name": "east", "deployments": [{"name": "gpt-4o", "model": "gpt-4o", "version": "2024-08-06"}]}
    ends = {"model": "gpt-4o", "version": "2024-08-06", "at": END, "replacement": "gpt-5 2025-08-07"}
    spec = {"models": [{"name": "gpt-4o"}], "discovery": {"azure": azure}}
    return read_world(
        {
            "pools": [{"metadata": {"name": "chat"}, "spec": spec}],
            "discovered": {"ai/chat": {"accounts": [account], "retirements": {"eastus": [ends]}}},
        }
    )


def told(compiled: Compiled) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in compiled.pool_statuses[CHAT].conditions}


def following(last: Compiled, now: World) -> World:
    """Return a world in which the statuses of the last pass stand."""
    return replace(now, last_good=last.tables, pool_statuses=last.pool_statuses)


def test_each_step_towards_a_retirement_is_an_event_and_nothing_between_is_one() -> None:
    compiler, here = Compiler(), world()
    last = compiler(here)
    assert told(last)["Current"] == ("True", "Current")
    events = []
    for day in range(1, 103):
        here = following(last, replace(here, now=NOW + day * DAY))
        compiled = compiler(here)
        found = pool_events(last.pool_statuses[CHAT], compiled.pool_statuses[CHAT])
        events += [(100 - day, event.type, event.reason) for event in found]
        last = compiled
    assert events == [
        (90, "Warning", "RetiresIn90Days"),
        (30, "Warning", "RetiresIn30Days"),
        (7, "Warning", "RetiresIn7Days"),
        (0, "Warning", "Retired"),
    ]


def test_who_has_not_read_azure_yet_says_of_it_what_was_said_before() -> None:
    here = replace(world(), now=END - 20 * DAY)
    last = Compiler()(here)
    again = Compiler()(following(last, replace(here, discovered={})))
    assert told(again)["Discovered"] == ("Unknown", "NotRead")
    assert told(again)["Current"] == told(last)["Current"] == ("False", "RetiresIn30Days")
    assert list(pool_events(last.pool_statuses[CHAT], again.pool_statuses[CHAT])) == []


def test_the_metric_has_the_first_end_and_goes_with_what_it_is_about() -> None:
    meters, here = Metrics(), world()
    (source,) = here.discovered
    found = here.discovered[source]
    (account,) = found.accounts or ()
    later = replace(account, id=f"{account.id}-2", name="west", location="westus", addresses=("west:443",))
    retirement = replace(found.retirements["eastus"][0], at=END + DAY)
    both = Found((account, later), retirements={**found.retirements, "westus": (retirement,)})
    for discovered in (both, replace(both, accounts=(later, account))):
        meters.found(Compiler()(replace(here, discovered={source: discovered})).expansions)
        labels = {"pool": "ai/chat", "model": "gpt-4o", "version": "2024-08-06"}
        assert meters.registry.get_sample_value("aoai_model_retires_seconds", labels) == END / 1000
    meters.found(Compiler()(replace(here, discovered={source: NOT_READ})).expansions)
    assert meters.registry.get_sample_value("aoai_model_retires_seconds", labels) is None
