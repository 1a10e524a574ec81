"""What is logged of an exception: where it happened, and never what the variables held."""

from __future__ import annotations

import subprocess
import sys

import pytest

_RAISES = """
import structlog
from aoai_operator.adapters import logs
logs.configure(json={json}, level="info")
def inner(body):
    raise ValueError("it broke")
try:
    inner({{"inline_string": "canary" + "-4711"}})
except ValueError:
    structlog.get_logger("t").exception("translating failed")
"""


@pytest.mark.parametrize("json", [True, False])
def test_a_traceback_shows_no_variable(json: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RAISES.format(json=json)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "it broke" in done.stderr
    assert "canary-4711" not in done.stderr
