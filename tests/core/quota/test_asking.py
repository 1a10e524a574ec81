"""The lines between proxies and the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.asking import Known, No, Question, Rate, Yes, read, write
from aoai_operator.core.quota.calendar import Period
from aoai_operator.core.quota.deciding import Refused
from aoai_operator.core.quota.estimate import Guess, Request
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.terms import Rates, Terms

KNOWN = Known(
    Guess(0.25, 765, 4_000, 300, 128_000),
    Terms(Rates(1, 0.5, 4), Rates(2.5, 1.25, 10)),
    tokens=Rate(60_000, 59_000, 12),
)


def test_an_ask_is_read() -> None:
    line = "ai/team\tai/chat\tgpt-4o\t6f1d\t2048:-1:1:0\t600:2:0\t50:1:0\t7=10:1:0,9=0:0:0"
    assert read(line) == Question(
        tenant=PoolKey("ai", "team"),
        pool=PoolKey("ai", "chat"),
        model="gpt-4o",
        request_id="6f1d",
        request=Request(2_048),
        want={Unit.TOKENS: 600, Unit.REQUESTS: 2},
        owed={Unit.TOKENS: 50, Unit.REQUESTS: 1},
        rests=((7, {Unit.TOKENS: 10, Unit.REQUESTS: 1}), (9, {})),
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t2048:-1:1:0\t\t",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t-1:-1:1:0\t\t\t",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t1:-2:1:0\t\t\t",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t1:0:1:0\t1:1\t\t",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t1:0:1:0\t1:-1:0\t\t",
        "ai/team\tai/chat\tgpt-4o\t6f1d\t1:0:1:0\t\t\tx=1:1:1",
    ],
)
def test_what_is_no_ask_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read(line)


@given(st.text(alphabet="ab/\t:=,-0123456789", max_size=80))
def test_no_line_breaks_the_reader_in_another_way(line: str) -> None:
    try:
        read(line)
    except ValueError:
        return


def test_answers_are_written() -> None:
    told = "0.25:765:4000:300:128000 1:4:2.5:10 60000:59000:12 -"
    assert write(None) == "free"
    assert write(Yes(7, {}, 0, KNOWN)) == f"ok 7 - 0 {told}"
    assert write(Yes(8, {Unit.TOKENS: 600}, 10_000, KNOWN)) == f"ok 8 600:-:- 10000 {told}"
    refused = Refused("tokensPerMinute", "gpt-4o", 1_500)
    assert write(No(refused, 1_000, ((0, 5), (1_500, 80)), KNOWN)) == (
        f"no 1500 tokensPerMinute gpt-4o - 1000 0:5,1500:80 {told}"
    )
    never = Refused("budgets", "", None, Period.DAY)
    assert write(No(never, 0, (), KNOWN)) == f"no -1 budgets - Day 0 - {told}"
