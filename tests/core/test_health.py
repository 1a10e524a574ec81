"""Health of an endpoint as probes and refused credentials tell it."""

from __future__ import annotations

import pytest

from aoai_operator.core import table
from aoai_operator.core.health import UNPROBED_FAULT_MS, Health, Sample, denied, expired, fault_end, probed, suspect
from aoai_operator.core.observed import Reason

POLICY = table.Health(probe="Models", interval_ms=10_000, timeout_ms=3_000, unhealthy_after=3, healthy_after=2)
GOOD = Sample(Reason.OK)
BUSY = Sample(Reason.RETRY_AFTER, retry_after_ms=500)
BAD = Sample(Reason.CONNECT, "refused")


def run(health: Health, *samples: Sample) -> Health:
    for now, sample in enumerate(samples):
        health = probed(health, sample, now=now, policy=POLICY)
    return health


@pytest.mark.parametrize("good", [GOOD, BUSY])
def test_one_good_probe_makes_it_known(good: Sample) -> None:
    assert run(Health(), good) == Health(known=True)


def test_a_fault_takes_three_bad_probes_in_a_row() -> None:
    assert run(Health(), BAD, BAD).fault is None
    assert run(Health(), BAD, BAD, GOOD, BAD, BAD).fault is None
    faulty = run(Health(), BAD, BAD, BAD)
    assert faulty.fault is Reason.CONNECT
    assert faulty.message == "refused"


def test_it_returns_only_after_two_good_probes_in_a_row() -> None:
    faulty = run(Health(), BAD, BAD, BAD)
    assert run(faulty, GOOD).fault is Reason.CONNECT
    assert run(faulty, GOOD, BAD, GOOD).fault is Reason.CONNECT
    assert run(faulty, GOOD, GOOD) == Health(known=True)


def test_the_reason_follows_the_last_bad_probe() -> None:
    assert run(Health(), BAD, BAD, BAD, Sample(Reason.TLS, "expired")).fault is Reason.TLS


def test_a_suspected_credential_is_a_fault_at_the_first_denied_probe_and_half_opens() -> None:
    suspected = suspect(run(Health(), GOOD))
    assert run(suspected, BAD).fault is None
    assert run(suspected, GOOD) == Health(known=True)
    faulty = run(suspected, Sample(Reason.AUTH, "401"))
    assert faulty.fault is Reason.AUTH
    assert run(faulty, GOOD).fault is Reason.AUTH
    assert run(faulty, GOOD, GOOD).fault is None


def test_without_probes_a_fault_ends_by_itself() -> None:
    faulty = denied(Health(), message="answered 403", now=1_000)
    assert fault_end(faulty, probing=True) is None
    assert fault_end(faulty, probing=False) == 1_000 + UNPROBED_FAULT_MS
    assert expired(faulty, now=UNPROBED_FAULT_MS, probing=False) == faulty
    assert expired(faulty, now=1_000 + UNPROBED_FAULT_MS, probing=True) == faulty
    assert expired(faulty, now=1_000 + UNPROBED_FAULT_MS, probing=False) == Health()
