"""What the Secret that the operator makes for a tenant holds, and when that changes."""

from __future__ import annotations

from typing import Any

import pytest

from aoai_operator.core.api import AOAIBackendPool, TenantQuota, parse
from aoai_operator.core.generated import AZURE_KEY, KEY, PREVIOUS, Address, Made, changes_at, generated_refs, made_anew
from aoai_operator.core.secret import SecretValue
from support.raw import raw_pool, raw_tenant

HOUR = 3_600_000
FIRST, SECOND = SecretValue("first"), SecretValue("second")
AT = "http://gateway.aoai.svc/ai/chat"


def quota(**credentials: Any) -> TenantQuota:
    raw = raw_tenant()
    raw["spec"]["credentials"] = {"generateSecret": "made", **credentials}
    found = parse(raw)
    assert isinstance(found, TenantQuota)
    return found


def pool(**gateway: Any) -> AOAIBackendPool:
    raw = raw_pool()
    raw["metadata"] = {"name": "chat", "namespace": "ai"}
    raw["spec"]["gateway"] = gateway
    found = parse(raw)
    assert isinstance(found, AOAIBackendPool)
    return found


ROTATED = quota(rotateEvery="10h", overlap="1h")


def shown(made: Made) -> dict[str, str]:
    return {name: value.reveal() for name, value in made.entries.items()}


def test_it_holds_what_the_sdks_read() -> None:
    made = made_anew(quota(), None, AT, fresh=FIRST, now=5)
    assert shown(made) == {
        "AZURE_OPENAI_ENDPOINT": AT,
        "AZURE_OPENAI_API_KEY": "first",
        "OPENAI_BASE_URL": f"{AT}/openai/v1",
        "OPENAI_API_KEY": "first",
    }
    assert changes_at(quota(), made) is None
    assert made_anew(quota(), made, AT, fresh=SECOND, now=10**15) == made


def test_the_key_is_replaced_and_the_one_before_is_good_for_a_while() -> None:
    first = made_anew(ROTATED, None, AT, fresh=FIRST, now=0)
    assert changes_at(ROTATED, first) == 10 * HOUR
    assert made_anew(ROTATED, first, AT, fresh=SECOND, now=10 * HOUR - 1) == first
    both = made_anew(ROTATED, first, AT, fresh=SECOND, now=10 * HOUR)
    keys = {name: shown(both).get(name) for name in (KEY, AZURE_KEY, PREVIOUS)}
    assert keys == {KEY: "second", AZURE_KEY: "second", PREVIOUS: "first"}
    assert changes_at(ROTATED, both) == 11 * HOUR
    assert made_anew(ROTATED, both, AT, fresh=FIRST, now=11 * HOUR - 1) == both
    after = made_anew(ROTATED, both, AT, fresh=FIRST, now=11 * HOUR)
    assert PREVIOUS not in after.entries
    assert shown(after)[KEY] == "second"
    assert changes_at(ROTATED, after) == 20 * HOUR


def test_one_that_is_rotated_no_more_keeps_its_key() -> None:
    both = Made({KEY: SECOND, PREVIOUS: FIRST}, 0)
    assert shown(made_anew(quota(), both, AT, fresh=FIRST, now=1)).keys() == {
        "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"
    }  # fmt: skip


@pytest.mark.parametrize("entries", [{}, {KEY: SecretValue("")}, {PREVIOUS: FIRST}])
def test_one_without_a_key_gets_one(entries: dict[str, SecretValue]) -> None:
    made = made_anew(ROTATED, Made(entries, 0), AT, fresh=SECOND, now=7)
    assert shown(made)[KEY] == shown(made)[AZURE_KEY] == "second"
    assert PREVIOUS not in made.entries
    assert made.rotated_at == 7


def test_a_clock_that_goes_back_rotates_nothing() -> None:
    made = Made(made_anew(ROTATED, None, AT, fresh=FIRST, now=100 * HOUR).entries, 100 * HOUR)
    assert made_anew(ROTATED, made, AT, fresh=SECOND, now=0) == made


@pytest.mark.parametrize(
    ("gateway", "url", "expected"),
    [
        ({}, "http://gateway.aoai.svc", "http://gateway.aoai.svc/ai/chat"),
        ({}, "http://gateway.aoai.svc:8080", "http://gateway.aoai.svc:8080/ai/chat"),
        ({}, "", ""),
        ({"hostnames": ["chat.example"]}, "http://gateway.aoai.svc:8080", "http://chat.example:8080"),
        ({"hostnames": ["chat.example"]}, "", "http://chat.example"),
        ({"hostnames": ["chat.example"], "tls": {"secretRef": {"name": "x"}}}, "", "https://chat.example"),
    ],
)
def test_a_pool_answers_at_its_name_or_below_the_gateways(gateway: dict[str, Any], url: str, expected: str) -> None:
    assert Address(url).of(pool(**gateway)) == expected


def test_another_port_for_https_is_told() -> None:
    named = pool(hostnames=["chat.example"], tls={"secretRef": {"name": "x"}})
    assert Address("", 8443).of(named) == "https://chat.example:8443"


def test_only_one_that_rotates_has_a_key_before() -> None:
    assert [ref.key for ref in generated_refs(quota())] == [KEY]
    assert [ref.key for ref in generated_refs(ROTATED)] == [KEY, PREVIOUS]


def test_no_key_is_ever_shown() -> None:
    assert "first" not in repr(made_anew(quota(), None, AT, fresh=FIRST, now=0))
