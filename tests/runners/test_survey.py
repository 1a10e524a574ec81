"""One reading of Azure, of which any part may fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from aoai_operator.core.discovered import AzureSource, Found, FoundAccount, FoundDeployment, Retirement
from aoai_operator.core.table import Identity
from aoai_operator.ports import ReadingError
from aoai_operator.runners.survey import survey

SUBSCRIPTION, OTHER = "sub-a", "sub-b"
SOURCE = AzureSource(
    Identity(kind="workload", scope=""), "", (SUBSCRIPTION,), kinds=("OpenAI",), tags=(("Pool", "chat"),)
)


def account(name: str, *deployments: str, group: str = "rg", subscription: str = SUBSCRIPTION) -> FoundAccount:
    """Return one with the tag."""
    place = f"/subscriptions/{subscription}/resourceGroups/{group}/accounts/{name}"
    made = tuple(FoundDeployment(one, "gpt-4o") for one in deployments)
    return FoundAccount(
        place, name, subscription, group, "OpenAI", "eastus", tags=(("pool", "chat"),), deployments=made
    )


class Session:
    """Azure, of which parts fail."""

    def __init__(self, *accounts: FoundAccount) -> None:
        self.there = {one.id: one for one in accounts}
        self.unseen: set[str] = set()
        """Accounts that the identity may not see."""
        self.fails: dict[str, ReadingError] = {}
        self.asked: list[str] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.fails:
            raise self.fails[what]

    async def accounts(self, subscription: str, group: str) -> tuple[FoundAccount, ...]:
        self._ask(f"list {subscription}{group and '/'}{group}")
        mine = [a for a in self.there.values() if a.subscription == subscription and group in ("", a.group.lower())]
        return tuple(replace(a, deployments=()) for a in mine if a.name not in self.unseen)

    async def account(self, account: FoundAccount) -> FoundAccount | None:
        self._ask(f"get {account.name}")
        found = self.there.get(account.id)
        return found and replace(found, deployments=())

    async def deployments(self, account: FoundAccount) -> tuple[FoundDeployment, ...]:
        self._ask(f"deployments {account.name}")
        return self.there[account.id].deployments

    async def retirements(self, subscription: str, location: str) -> tuple[Retirement, ...]:
        self._ask(f"models {location} of {subscription}")
        return (Retirement("gpt-4o", "2024-08-06", len(self.asked)),)


def names(accounts: Iterable[FoundAccount] | None) -> dict[str, list[str]]:
    assert accounts is not None
    return {one.name: [d.name for d in one.deployments] for one in accounts}


async def test_it_finds_the_accounts_of_the_kind_and_with_the_tag() -> None:
    others = replace(account("other", "x"), kind="FormRecognizer"), replace(account("untagged", "x"), tags=())
    session = Session(account("a", "one", "two"), account("b"), *others)
    reading = await survey(session, SOURCE)
    assert names(reading.accounts) == {"a": ["one", "two"], "b": []}
    assert (reading.fault, reading.wait) == ("", None)
    assert "deployments other" not in session.asked


async def test_names_of_tags_have_no_case_and_their_values_do() -> None:
    session = Session(account("a"))
    loud = replace(SOURCE, tags=(("POOL", "chat"),))
    assert names((await survey(session, loud)).accounts) == {"a": []}
    other = replace(SOURCE, tags=(("pool", "Chat"),))
    assert names((await survey(session, other)).accounts) == {}


async def test_nothing_readable_is_not_an_empty_subscription() -> None:
    session = Session(account("a"))
    session.fails[f"list {SUBSCRIPTION}"] = ReadingError("it fails")
    assert (await survey(session, SOURCE)).accounts is None
    before = (account("a", "one"),)
    reading = await survey(session, SOURCE, Found(before))
    assert (reading.accounts, reading.fault) == (before, "it fails")


async def test_one_subscription_that_fails_keeps_its_accounts_and_the_other_is_new() -> None:
    both = replace(SOURCE, subscriptions=(SUBSCRIPTION, OTHER))
    session = Session(account("b", "new", subscription=OTHER))
    session.fails[f"list {SUBSCRIPTION}"] = ReadingError("it fails")
    before = (account("a", "one"), account("b", "old", subscription=OTHER))
    reading = await survey(session, both, Found(before))
    assert names(reading.accounts) == {"a": ["one"], "b": ["new"]}


async def test_deployments_that_cannot_be_read_are_those_of_before() -> None:
    session = Session(account("a", "new"), account("b", "new"))
    session.fails["deployments a"] = ReadingError("a fails")
    reading = await survey(session, SOURCE, Found((account("a", "old"),)))
    assert (names(reading.accounts), reading.fault) == ({"a": ["old"], "b": ["new"]}, "a fails")


async def test_an_account_leaves_when_azure_says_that_it_is_gone_or_another() -> None:
    """A list has only what the identity may see: an account that it lacks may be there."""
    untagged = replace(account("untagged", "x"), tags=())
    session = Session(account("unseen", "new"), account("barred"), untagged)
    session.unseen = {"unseen", "barred"}
    session.fails["get barred"] = ReadingError("barred: 403 AuthorizationFailed")
    before = tuple(account(name, "old") for name in ("gone", "unseen", "barred", "untagged"))
    reading = await survey(session, SOURCE, Found(before))
    assert names(reading.accounts) == {"barred": ["old"], "unseen": ["new"]}
    assert reading.fault == "barred: 403 AuthorizationFailed"


async def test_whoever_throttles_is_left_alone_at_once() -> None:
    accounts = [account(f"a{n:02}", "new") for n in range(40)]
    session = Session(*accounts)
    session.fails["deployments a00"] = ReadingError("too many", wait=17)
    before = tuple(account(one.name, "old") for one in accounts)
    reading = await survey(session, SOURCE, Found(before))
    assert reading.wait == 17
    asked = sum(one.startswith("deployments") for one in session.asked)
    assert asked < 10
    assert list(names(reading.accounts).values()).count(["old"]) == 40 - (asked - 1)


async def test_many_faults_are_summed_up() -> None:
    session = Session(*(account(f"a{n}") for n in range(5)))
    for n in range(5):
        session.fails[f"deployments a{n}"] = ReadingError(f"a{n} fails")
    assert (await survey(session, SOURCE)).fault == "a0 fails; a1 fails; a2 fails; and 2 more"


@pytest.mark.parametrize("groups", [("rg",), ("rg", "second")])
async def test_groups_are_asked_one_by_one(groups: tuple[str, ...]) -> None:
    session = Session(account("a", group="RG"), account("b", group="second"), account("c", group="third"))
    reading = await survey(session, replace(SOURCE, groups=groups))
    assert set(names(reading.accounts)) == {"a", "b"} if len(groups) == 2 else {"a"}
    assert [one for one in session.asked if one.startswith("list")] == [f"list {SUBSCRIPTION}/{g}" for g in groups]


async def test_what_retires_is_read_once_for_each_region_and_need_not_be_readable() -> None:
    west = replace(account("c", "x"), location="westus")
    session = Session(account("a", "x"), account("b", "x"), west, replace(account("d"), location="empty"))
    session.fails["models westus of sub-a"] = ReadingError("models of westus: 403 AuthorizationFailed")
    reading = await survey(session, SOURCE)
    assert (set(reading.retirements), reading.fault) == ({"eastus"}, "")
    assert [one for one in session.asked if one.startswith("models")] == [
        "models eastus of sub-a",
        "models westus of sub-a",
    ]

    before = Found(reading.accounts, retirements=reading.retirements)
    session.asked.clear()
    session.fails.clear()
    later = await survey(session, SOURCE, before)
    assert [one for one in session.asked if one.startswith("models")] == ["models westus of sub-a"]
    assert later.retirements["eastus"] == reading.retirements["eastus"]
    assert set(later.retirements) == {"eastus", "westus"}
    assert (await survey(session, SOURCE, before, catalogue=True)).retirements["eastus"] != later.retirements["eastus"]
    session.fails["models eastus of sub-a"] = ReadingError("too many", wait=9)
    barred = await survey(session, SOURCE, before, catalogue=True)
    assert (barred.fault, barred.wait, barred.retirements["eastus"]) == ("too many", 9, before.retirements["eastus"])
