"""Serving certificates: what Envoy could not serve is not sent, and what clients will not take is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aoai_operator.core.certificates import ServingCertificate, Standing, examine, read_certificate
from aoai_operator.core.conditions import ConditionReason
from aoai_operator.core.credentials import Unreadable
from aoai_operator.core.names import SecretRef
from aoai_operator.core.secret import SecretValue, redacted
from aoai_operator.core.table import tls_refs
from support.certificates import Pair, pair
from support.pairs import NAME, unusable, usable
from support.worlds import reveals

REFS = tls_refs("ai", "chat-tls")
START = datetime(2026, 1, 1, tzinfo=UTC)


def stored(held: Pair) -> dict[SecretRef, SecretValue]:
    return {ref: SecretValue(text) for ref, text in zip(REFS, (held.crt, held.key), strict=True)}


def examined(held: Pair, *hostnames: str, at: datetime = START) -> tuple[Standing, str]:
    standing, wrong = examine(stored(held), REFS, hostnames=hostnames, now=int(at.timestamp() * 1000))
    return standing, f"{wrong.message}; {wrong.mend}" if wrong else ""


@pytest.mark.parametrize("case", usable())
def test_what_envoy_can_serve_is_read(case: str) -> None:
    assert isinstance(read_certificate(stored(usable()[case]), REFS), ServingCertificate)


@pytest.mark.parametrize("case", unusable())
def test_what_envoy_cannot_serve_is_told_without_the_key(case: str) -> None:
    held, words = unusable()[case]
    found = read_certificate(stored(held), REFS)
    assert isinstance(found, Unreadable)
    assert found.fault is ConditionReason.CERTIFICATE_INVALID
    assert words in found.message
    assert "ai/chat-tls[tls." in found.message
    assert not reveals(found, [line for line in held.key.splitlines() if len(line) > 20 and "-----" not in line])


def test_a_secret_or_an_entry_that_is_missing() -> None:
    gone = read_certificate({}, REFS)
    assert gone == Unreadable(
        ConditionReason.SECRET_NOT_FOUND,
        "there is no Secret ai/chat-tls, or it is empty",
        "create it, or name another in secretRef",
    )
    half = read_certificate({REFS[0]: SecretValue("x")}, REFS)
    assert isinstance(half, Unreadable)
    assert half.message == "the Secret ai/chat-tls has no entry tls.key"
    assert half.mend == "a Secret of the type kubernetes.io/tls has two entries, tls.crt and tls.key, both PEM"


def test_a_good_one_has_no_complaint() -> None:
    assert examined(pair(NAME, now=START), NAME) == (Standing.GOOD, "")


def test_it_counts_for_its_time_only() -> None:
    held = pair(NAME, now=START, days=(-1, 1))
    where = "the certificate in ai/chat-tls[tls.crt]"
    assert examined(held, NAME, at=START + timedelta(days=1)) == (Standing.GOOD, "")
    late = examined(held, NAME, at=START + timedelta(days=1, seconds=1))
    assert late == (Standing.DOUBTFUL, f"{where} expired at 2026-01-02T00:00:00Z; renew it")
    early = examined(held, NAME, at=START - timedelta(days=2))
    told = f"{where} is not valid before 2025-12-31T00:00:00Z; use one that is, or mend the clock"
    assert early == (Standing.DOUBTFUL, told)


@pytest.mark.parametrize(
    ("names", "hostname", "covered"),
    [
        (("a.example",), "a.example", True),
        (("A.Example",), "a.example", True),
        (("*.example",), "a.example", True),
        (("*.example",), "a.b.example", False),
        (("*.example",), "example", False),
        (("a.example",), "b.example", False),
        (("localhost",), "localhost", True),
        (("*.",), "localhost", False),
    ],
)
def test_names_are_matched_as_clients_do(names: tuple[str, ...], hostname: str, covered: bool) -> None:
    standing, wrong = examined(pair(*names, now=START), hostname)
    assert (standing is Standing.GOOD) is covered
    assert (f"does not cover {hostname}; its DNS names: {names[0].lower()};" in wrong) is not covered


def test_one_for_clients_is_told() -> None:
    standing, wrong = examined(usable()["for clients"], NAME, at=datetime.now(UTC))
    assert standing is Standing.DOUBTFUL
    assert "is for clients only; issue one with the extended key usage serverAuth" in wrong


def test_a_private_key_is_redacted_however_it_is_quoted() -> None:
    key = pair(NAME).key
    line = key.splitlines()[1]
    for quoted in (key, key.replace("\n", "\\n"), key.replace("\n", "\\\\n"), key[:130]):
        assert line in quoted
        assert redacted(f'inline_string: "{quoted}"', []).startswith('inline_string: "[redacted]')
        assert line not in redacted(f'inline_string: "{quoted}"', [])
