"""The limits of a deployment, with time passed in."""

from __future__ import annotations

import pytest

from aoai_operator.simulator.limits import ProvisionedLimit, Refusal, StandardLimit, Work
from aoai_operator.simulator.model import Deployment


def standard(**settings: int | bool) -> StandardLimit:
    deployment = Deployment(name="d", model="m", **settings)  # type: ignore[arg-type]
    return StandardLimit(deployment, minute_seconds=60.0, origin=1000.0)


def test_tokens_are_counted_until_the_minute_ends() -> None:
    limit = standard(tokens_per_minute=100)
    assert limit.admit(Work(40, 20), 1000.0) is None
    assert limit.admit(Work(40, 0), 1030.0) is None
    assert limit.headers(1030.0, refused=False)["x-ratelimit-remaining-tokens"] == "0"
    assert limit.admit(Work(1, 0), 1045.0) == Refusal("token", 15.0)
    assert limit.admit(Work(100, 0), 1060.0) is None


def test_a_refused_request_counts_when_so_set() -> None:
    strict, lenient = standard(tokens_per_minute=100), standard(tokens_per_minute=100, rejected_requests_count=False)
    for limit in (strict, lenient):
        assert limit.admit(Work(60, 0), 1000.0) is None
        assert limit.admit(Work(60, 0), 1001.0) is not None
    assert strict.admit(Work(30, 0), 1002.0) is not None
    assert lenient.admit(Work(30, 0), 1002.0) is None


@pytest.mark.parametrize(("window", "burst"), [(1, 10), (10, 100)])
def test_requests_are_spread_over_windows(window: int, burst: int) -> None:
    limit = standard(requests_per_minute=600, rpm_window_seconds=window)
    assert all(limit.admit(Work(1, 1), 1000.0) is None for _ in range(burst))
    assert limit.admit(Work(1, 1), 1000.5) == Refusal("call", window - 0.5)
    assert limit.admit(Work(1, 1), 1000.0 + window) is None


def test_headers_name_only_limits_that_exist_and_remaining_only_when_admitted() -> None:
    assert standard().headers(1000.0, refused=False) == {}
    limit = standard(requests_per_minute=60, tokens_per_minute=150_000)
    limit.admit(Work(16, 0), 1000.0)
    assert limit.headers(1050.5, refused=False) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "10",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "10",
    }
    assert not any("remaining" in name for name in limit.headers(1050.5, refused=True))


def provisioned() -> ProvisionedLimit:
    deployment = Deployment(name="d", model="m", type="ProvisionedManaged", tokens_per_minute=6000)
    return ProvisionedLimit(deployment, minute_seconds=60.0, origin=0.0)


def test_utilization_refuses_at_full_and_drains() -> None:
    limit = provisioned()
    assert limit.admit(Work(2000, 500), 0.0) is None
    assert limit.utilization == pytest.approx(1.0)
    refusal = limit.admit(Work(1, 1), 0.0)
    assert refusal is not None
    assert refusal.limit == "utilization"
    assert limit.admit(Work(1, 1), refusal.wait) is None


def test_completion_corrects_the_estimate() -> None:
    limit = provisioned()
    limit.admit(Work(1000, 1000), 0.0)
    limit.settle(Work(1000, 1000), Work(1000, 10), 0.0)
    assert limit.utilization == pytest.approx((1000 + 10 * 8) / 6000)
