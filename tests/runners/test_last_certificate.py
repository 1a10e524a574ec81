"""The publisher keeps the last good serving certificate of a pool while its Secret has a worse one."""

from __future__ import annotations

import time

from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import RoutingTable
from aoai_operator.runners.publish import PoolInput
from support.certificates import Pair, pair
from support.pairs import unusable
from support.tables import endpoint, routing_table

HOST = "chat.example"
TABLE = routing_table(endpoint("east")).model_copy(update={"tls_secret": "chat-tls", "hostnames": (HOST,)})
NOW = time.time_ns() // 1_000_000
YEAR = 365 * 86_400_000


def entry(held: Pair | None, before: PoolInput | None, *, now: int = NOW, table: RoutingTable = TABLE) -> PoolInput:
    texts = (held.crt, held.key) if held else ()
    secrets = {ref: SecretValue(text) for ref, text in zip(table.tls_refs, texts, strict=False)}
    return PoolInput.of(table, secrets, before=before, now=now)


def served(found: PoolInput) -> tuple[str, ...]:
    return tuple(found.secrets[ref].reveal() for ref in TABLE.tls_refs if ref in found.secrets)


def test_a_worse_one_is_not_taken_and_a_good_one_is() -> None:
    good, expired, mended = pair(HOST), pair(HOST, days=(-30, -1)), pair(HOST)
    broken = unusable()["key of another"][0]
    first = entry(good, None)
    for worse in (None, broken, expired, pair("other.example")):
        held = entry(worse, first)
        assert served(held) == (good.crt, good.key)
        assert held.revision == first.revision
    assert served(entry(mended, first)) == (mended.crt, mended.key)


def test_of_two_that_are_as_bad_the_new_one_is_taken() -> None:
    first = entry(pair(HOST), None)
    renewed = pair("other.example")
    assert served(entry(renewed, first, now=NOW + YEAR)) == (renewed.crt, renewed.key)


def test_without_a_good_one_there_is_what_there_is() -> None:
    broken = unusable()["key of another"][0]
    assert served(entry(None, None)) == ()
    assert served(entry(broken, None)) == (broken.crt, broken.key)


def test_a_pool_that_gives_https_up_keeps_nothing() -> None:
    first = entry(pair(HOST), None)
    plain = PoolInput.of(TABLE.model_copy(update={"tls_secret": ""}), {}, before=first, now=NOW)
    assert plain.secrets == {}


def test_the_secrets_are_known_for_redaction_and_shown_nowhere() -> None:
    held = pair(HOST)
    found = entry(held, None)
    assert set(found.secrets) == {SecretRef("ai", "chat-tls", "tls.crt"), SecretRef("ai", "chat-tls", "tls.key")}
    assert held.key.splitlines()[1] not in repr(found)
