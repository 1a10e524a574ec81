"""Options of the whole test suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

# Explaining a failure traces every line of its runs: the time of the test was over before the failure was told.
settings.register_profile(
    "told",
    # No test times anything: a busy machine is no fault.
    settings(
        phases=[p for p in Phase if p is not Phase.explain], deadline=None, suppress_health_check=[HealthCheck.too_slow]
    ),
)
settings.load_profile("told")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden outputs, and delete those without an input"
    )
