"""Certificates over simulated years: at each moment everybody trusts everybody, also with the bundle of a day ago."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from aoai_operator.core.pki import (
    OPERATOR_ID,
    PkiError,
    Subject,
    bundle,
    gateway_id,
    gateway_of,
    make_authority,
    make_leaf,
    read_certificates,
    read_pair,
)
from aoai_operator.core.rotation import (
    Action,
    Authorities,
    Holdings,
    Schedule,
    Step,
    authorities_data,
    leaf_data,
    plan,
    read_authorities,
    read_leaf,
    settled,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
SCHEDULE = Schedule()
WANTED = {
    "server": Subject("server", dns=("x.ns.svc",), addresses=("10.0.0.1", "::1"), uris=(OPERATOR_ID,)),
    "gateway-default": Subject("default", uris=(gateway_id("default"),)),
}


def after(holdings: Holdings, now: datetime) -> tuple[Holdings, list[Step]]:
    found, done = settled(holdings, WANTED, now, SCHEDULE)
    return found, [action.step for action in done]


def authorities(holdings: Holdings) -> Authorities:
    assert holdings.authorities is not None
    return holdings.authorities


def is_trusted(leaf_holder: Holdings, verifier: Holdings, now: datetime) -> bool:
    """Tell whether each leaf of one is good to whoever has the bundle of the other."""
    bundled = [one for one in authorities(verifier).trusted if one.not_before <= now < one.not_after]
    return all(
        leaf.certificate.not_before <= now < leaf.certificate.not_after
        and any(leaf.certificate.signed_by(one) for one in bundled)
        for leaf in leaf_holder.leaves.values()
    )


def test_from_nothing_all_is_made_at_once_and_then_nothing_more() -> None:
    holdings, done = after(Holdings(), START)
    assert done == [Step.FOUND, Step.ISSUE, Step.ISSUE]
    assert after(holdings, START) == (holdings, [])
    assert after(holdings, START + 2 * DAY - HOUR) == (holdings, [])


def test_leaves_have_the_names_that_were_asked_for() -> None:
    holdings, _ = after(Holdings(), START)
    server, gateway = (holdings.leaves[name].certificate for name in WANTED)
    assert server.names == {"x.ns.svc", "10.0.0.1", "::1", "spiffe://aoai.dev/operator"}
    assert gateway.names == {"spiffe://aoai.dev/gateway/default"}
    assert not server.is_ca


def test_a_leaf_is_renewed_with_a_third_of_its_life_left() -> None:
    holdings, _ = after(Holdings(), START)
    renewed, done = after(holdings, START + 2 * DAY)
    assert done == [Step.ISSUE, Step.ISSUE]
    assert all(renewed.leaves[name] != holdings.leaves[name] for name in WANTED)


def test_a_leaf_of_other_names_or_another_authority_is_made_anew() -> None:
    holdings, _ = after(Holdings(), START)
    moved = {**WANTED, "server": replace(WANTED["server"], addresses=("10.0.0.2",))}
    assert plan(holdings, moved, START, SCHEDULE) == (Action(Step.ISSUE, "server"),)
    foreign, _ = after(Holdings(), START)
    mixed = replace(holdings, leaves={**holdings.leaves, "gateway-default": foreign.leaves["gateway-default"]})
    assert plan(mixed, WANTED, START, SCHEDULE) == (Action(Step.ISSUE, "gateway-default"),)


@pytest.mark.parametrize("stride", [timedelta(hours=7), timedelta(hours=23)])
def test_over_three_years_nobody_is_cut_off_even_with_the_bundle_of_a_day_ago(stride: timedelta) -> None:
    now, end = START, START + 3 * 365 * DAY
    holdings, _ = after(Holdings(), now)
    signed, most = {authorities(holdings).signing.certificate.pem}, 0
    history = [(now, holdings)]
    while now < end:
        now += stride
        holdings, _ = after(holdings, now)
        history = [(when, one) for when, one in history if when > now - DAY] + [(now, holdings)]
        for _, earlier in history:
            assert is_trusted(holdings, earlier, now), now
            assert is_trusted(earlier, holdings, now), now
        signed.add(authorities(holdings).signing.certificate.pem)
        most = max(most, len(authorities(holdings).trusted))
    assert len(signed) == 5
    assert most == 2


def test_the_next_authority_is_trusted_for_a_day_before_it_signs() -> None:
    holdings, _ = after(Holdings(), START)
    due = START + 365 * DAY * 2 / 3
    holdings, done = after(replace(holdings, leaves=holdings.leaves), due)
    assert done[0] is Step.INTRODUCE
    introduced = authorities(holdings)
    assert introduced.upcoming is not None
    assert introduced.trusted == (introduced.signing.certificate, introduced.upcoming.certificate)
    holdings, done = after(holdings, due + DAY - HOUR)
    assert Step.PROMOTE not in done
    holdings, done = after(holdings, due + DAY)
    assert done == [Step.PROMOTE, Step.ISSUE, Step.ISSUE]
    assert authorities(holdings).signing == introduced.upcoming
    assert authorities(holdings).trusted == introduced.trusted


def test_an_operator_that_was_away_for_long_still_introduces_first() -> None:
    holdings, _ = after(Holdings(), START)
    late = START + 365 * DAY - 10 * HOUR
    holdings, done = after(holdings, late)
    assert done == [Step.INTRODUCE, Step.ISSUE, Step.ISSUE]
    assert after(holdings, late + 4 * HOUR)[1] == []
    assert after(holdings, late + 5 * HOUR)[1][0] is Step.PROMOTE


def test_an_operator_that_was_away_for_too_long_begins_anew() -> None:
    holdings, _ = after(Holdings(), START)
    holdings, done = after(holdings, START + 365 * DAY)
    assert done == [Step.FOUND, Step.ISSUE, Step.ISSUE]
    assert len(authorities(holdings).trusted) == 1


def test_an_authority_that_was_introduced_replaces_one_that_ended() -> None:
    holdings, _ = after(Holdings(), START)
    holdings, _ = after(holdings, START + 365 * DAY * 2 / 3)
    holdings, done = after(holdings, START + 366 * DAY)
    assert done == [Step.PROMOTE, Step.FORGET, Step.ISSUE, Step.ISSUE]


def test_a_leaf_never_outlives_its_authority() -> None:
    authority = make_authority(now=START, lifetime=DAY)
    leaf = make_leaf(WANTED["server"], authority, now=START, lifetime=3 * DAY)
    assert leaf.certificate.not_after == authority.certificate.not_after


def test_secrets_are_read_as_they_are_written() -> None:
    holdings, _ = after(Holdings(), START)
    holdings, _ = after(holdings, START + 365 * DAY * 2 / 3)
    held = authorities(holdings)
    assert read_authorities(authorities_data(held)) == held
    for leaf in holdings.leaves.values():
        assert read_leaf(leaf_data(leaf, held.trusted)) == (leaf, held.trusted)


def test_what_is_broken_or_foreign_is_an_error_that_quotes_nothing() -> None:
    holdings, _ = after(Holdings(), START)
    held = authorities(holdings)
    good, leaf = dict(authorities_data(held)), holdings.leaves["server"]
    other = make_authority(now=START, lifetime=DAY)
    broken = [
        {},
        {**good, "tls.key": b"s3cret"},
        {**good, "tls.key": good["tls.crt"]},
        {**good, "tls.crt": b"\xff"},
        {**good, "tls.crt": other.certificate.pem},
        {**good, "ca.crt": b""},
        {**good, "ca.crt": other.certificate.pem},
        {**good, "ca.crt": good["ca.crt"] + leaf.certificate.pem},
        {**good, "tls.crt": leaf.certificate.pem, "tls.key": leaf.key},
        {**good, "next.key": b"s3cret"},
    ]
    for data in broken:
        with pytest.raises(PkiError) as caught:
            read_authorities(data)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(PkiError):
        read_leaf({})


def test_no_key_shows() -> None:
    holdings, _ = after(Holdings(), START)
    assert "BEGIN" not in repr(holdings)


def test_keys_of_another_kind_are_refused() -> None:

    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaf = after(Holdings(), START)[0].leaves["server"]
    with pytest.raises(PkiError, match="elliptic"):
        read_pair(leaf.certificate.pem, key)


def test_a_bundle_is_read_in_its_order() -> None:
    ones = tuple(make_authority(now=START, lifetime=DAY).certificate for _ in range(3))
    assert read_certificates(bundle(ones)) == ones


@pytest.mark.parametrize(
    ("uri", "gateway"),
    [
        ("spiffe://aoai.dev/gateway/default", "default"),
        ("spiffe://aoai.dev/gateway/", None),
        ("spiffe://aoai.dev/gateway/a/b", None),
        ("spiffe://aoai.dev/operator", None),
        ("default", None),
    ],
)
def test_gateways_of_uris(uri: str, gateway: str | None) -> None:
    assert gateway_of(uri) == gateway
