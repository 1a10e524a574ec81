"""What the access log's line of a request says to the ledger."""

from __future__ import annotations

import pytest

from aoai_operator.core.names import PoolKey
from aoai_operator.core.quota.limits import Unit
from aoai_operator.core.quota.settling import settlement_of
from aoai_operator.core.quota.terms import Used
from support.answers import ANSWER


def test_a_request_that_asked_is_found_by_its_id() -> None:
    found = settlement_of(ANSWER._replace(quota="77:0:0:0:400"))
    assert found is not None
    assert (found.tenant, found.request_id, found.grant, found.draw) == (PoolKey("ai", "team"), "r", 0, 0)
    assert (found.text_bytes, found.used, found.sent, found.capacity) == (400, Used(10, 5, 4), True, 0)


def test_one_that_drew_on_a_lease_tells_what_it_took() -> None:
    found = settlement_of(ANSWER._replace(quota="77:3:20:9:400"))
    assert found is not None
    assert (found.grant, found.draw) == (77, 3)
    assert found.estimate == {Unit.TOKENS: 20, Unit.REQUESTS: 1, Unit.COST: 9}


def test_what_its_deployment_gives_is_told_where_it_is_to_be_learned() -> None:
    found = settlement_of(ANSWER._replace(quota="77:3:20:9:400:150000"))
    assert found is not None
    assert (found.grant, found.capacity, found.endpoint, found.deployment) == (77, 150_000, "east", "gpt")


def test_one_that_was_refused_may_have_been_let_in_and_not_if_nobody_was_asked() -> None:
    refused = ANSWER._replace(status=429, attempts=0, usage=None)
    found = settlement_of(refused._replace(quota="no:tokensPerMinute:gpt"))
    assert found is not None
    assert not found.sent
    assert settlement_of(refused._replace(quota="unasked:tokensPerMinute:gpt")) is None


@pytest.mark.parametrize("quota", ["", "owed", "1:2:3", "a:b:c:d:e", "1:2:3:4:5:x"])
def test_what_says_nothing_of_a_grant_names_none(quota: str) -> None:
    found = settlement_of(ANSWER._replace(quota=quota))
    assert found is not None
    assert (found.grant, found.draw, found.owed) == (0, 0, quota == "owed")


def test_nobody_pays_for_an_anonymous_request() -> None:
    assert settlement_of(ANSWER._replace(tenant="")) is None
