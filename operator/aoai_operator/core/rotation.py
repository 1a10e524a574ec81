"""When certificates are made, so that nobody is ever cut off: a pure plan over what is held, and its carrying out.

An authority's life:

    introduced: everybody is told to trust it, it signs nothing yet
    promoted:   it signs; every leaf is made anew; its predecessor's key is gone, its certificate is still trusted
    succeeded:  with a third of its life left, the next one is introduced
    forgotten:  it expired

So at each moment whoever has the bundle of a day ago trusts whatever is shown today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from aoai_operator.core.pki import (
    BACKDATE,
    Certificate,
    KeyPair,
    PkiError,
    Subject,
    bundle,
    make_authority,
    make_leaf,
    read_certificates,
    read_pair,
)

CERTIFICATE, KEY, TRUST = "tls.crt", "tls.key", "ca.crt"
"""The entries of a Secret of the type kubernetes.io/tls, and where trusted authorities stand beside them."""
_NEXT_CERTIFICATE, _NEXT_KEY = "next.crt", "next.key"

SecretData = Mapping[str, bytes]
"""What a Secret holds, decoded."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long certificates live.

    Attributes:
        authority: an authority's life.
        leaf: a leaf's.
        introduction: how long an authority is trusted before it signs: longer than any proxy needs to see a changed
            Secret or ConfigMap (the kubelet takes a minute or two), and than any outage of a node that should end
            without a restart of its proxies.
    """

    authority: timedelta = timedelta(days=365)
    leaf: timedelta = timedelta(hours=72)
    introduction: timedelta = timedelta(hours=24)


class Step(StrEnum):
    """One thing to do."""

    FOUND = "made a certificate authority"
    INTRODUCE = "introduced the next certificate authority"
    PROMOTE = "the next certificate authority signs from now on"
    FORGET = "forgot expired certificate authorities"
    ISSUE = "issued a certificate"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, and for ISSUE the name of the leaf."""

    step: Step
    leaf: str = ""


@dataclass(frozen=True, slots=True)
class Authorities:
    """The authority that signs, the one that will, and all that are trusted, these two among them."""

    signing: KeyPair
    upcoming: KeyPair | None
    trusted: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that there is; leaves by name."""

    authorities: Authorities | None = None
    leaves: Mapping[str, KeyPair] = field(default_factory=dict)


def plan(holdings: Holdings, wanted: Mapping[str, Subject], now: datetime, schedule: Schedule) -> tuple[Action, ...]:
    """Return what is to be done now, in order; empty when all is as it should be.

    Leaves are looked at only when the authorities are settled.
    """
    held = holdings.authorities
    if held is None:
        return (Action(Step.FOUND),)
    if now >= held.signing.certificate.not_after:
        alive = held.upcoming is not None and now < held.upcoming.certificate.not_after
        return (Action(Step.PROMOTE if alive else Step.FOUND),)
    if held.upcoming is not None and now >= _promotion(held.signing, held.upcoming, schedule):
        return (Action(Step.PROMOTE),)
    if held.upcoming is None and _is_due(held.signing, now):
        return (Action(Step.INTRODUCE),)
    if any(now >= one.not_after for one in held.trusted):
        return (Action(Step.FORGET),)
    due = (
        name
        for name, subject in wanted.items()
        if (leaf := holdings.leaves.get(name)) is None
        or leaf.certificate.names != subject.names
        or not leaf.certificate.signed_by(held.signing.certificate)
        or _is_due(leaf, now)
    )
    return tuple(Action(Step.ISSUE, name) for name in due)


def carry_out(
    holdings: Holdings, action: Action, wanted: Mapping[str, Subject], now: datetime, schedule: Schedule
) -> Holdings:
    """Return what there is after one action of the plan."""
    held = holdings.authorities
    if action.step is Step.FOUND or held is None:
        made = make_authority(now=now, lifetime=schedule.authority)
        return Holdings(Authorities(made, None, (made.certificate,)))
    match action.step:
        case Step.INTRODUCE:
            made = make_authority(now=now, lifetime=schedule.authority)
            held = Authorities(held.signing, made, (*held.trusted, made.certificate))
        case Step.PROMOTE if held.upcoming is not None:
            held = Authorities(held.upcoming, None, held.trusted)
        case Step.FORGET:
            held = replace(held, trusted=tuple(one for one in held.trusted if now < one.not_after))
        case Step.ISSUE:
            leaf = make_leaf(wanted[action.leaf], held.signing, now=now, lifetime=schedule.leaf)
            return replace(holdings, leaves={**holdings.leaves, action.leaf: leaf})
    return replace(holdings, authorities=held)


def settled(
    holdings: Holdings, wanted: Mapping[str, Subject], now: datetime, schedule: Schedule
) -> tuple[Holdings, tuple[Action, ...]]:
    """Carry out the plan until there is nothing left to do; return what there is then, and what was done."""
    done: tuple[Action, ...] = ()
    while actions := plan(holdings, wanted, now, schedule):
        for action in actions:
            holdings = carry_out(holdings, action, wanted, now, schedule)
        done += actions
    return holdings, done


def read_authorities(data: SecretData) -> Authorities:
    """Read the authorities' Secret.

    Raises:
        PkiError: it is not as `authorities_data` writes it.
    """
    signing = _read_authority(data, CERTIFICATE, KEY)
    upcoming = _read_authority(data, _NEXT_CERTIFICATE, _NEXT_KEY) if _NEXT_KEY in data else None
    trusted = read_certificates(data.get(TRUST, b""))
    if not all(one.is_ca for one in trusted):
        raise PkiError(f"{TRUST} has a certificate that is no authority's")
    needed = (signing.certificate, *([upcoming.certificate] if upcoming else []))
    if any(one not in trusted for one in needed):
        raise PkiError(f"{TRUST} lacks an authority that signs")
    return Authorities(signing, upcoming, trusted)


def authorities_data(authorities: Authorities) -> SecretData:
    """Return what the authorities' Secret holds."""
    signing, upcoming = authorities.signing, authorities.upcoming
    data = {CERTIFICATE: signing.certificate.pem, KEY: signing.key, TRUST: bundle(authorities.trusted)}
    if upcoming is not None:
        data |= {_NEXT_CERTIFICATE: upcoming.certificate.pem, _NEXT_KEY: upcoming.key}
    return data


def read_leaf(data: SecretData) -> tuple[KeyPair, tuple[Certificate, ...]]:
    """Read a leaf's Secret: the leaf, and the authorities that are trusted.

    Raises:
        PkiError: it is not as `leaf_data` writes it.
    """
    return read_pair(data.get(CERTIFICATE, b""), data.get(KEY, b"")), read_certificates(data.get(TRUST, b""))


def leaf_data(leaf: KeyPair, trusted: tuple[Certificate, ...]) -> SecretData:
    """Return what a leaf's Secret holds."""
    return {CERTIFICATE: leaf.certificate.pem, KEY: leaf.key, TRUST: bundle(trusted)}


def _read_authority(data: SecretData, certificate: str, key: str) -> KeyPair:
    pair = read_pair(data.get(certificate, b""), data.get(key, b""))
    if not pair.certificate.is_ca:
        raise PkiError(f"{certificate} is no certificate authority")
    return pair


def _is_due(pair: KeyPair, now: datetime) -> bool:
    begin, end = pair.certificate.not_before + BACKDATE, pair.certificate.not_after
    return now >= end - (end - begin) / 3


def _promotion(signing: KeyPair, upcoming: KeyPair, schedule: Schedule) -> datetime:
    """Return when an authority begins to sign: sooner than planned if its predecessor is about to end."""
    begin = upcoming.certificate.not_before + BACKDATE
    return begin + min(schedule.introduction, max(signing.certificate.not_after - begin, timedelta(0)) / 2)
