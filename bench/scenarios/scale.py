"""Whether a change costs what changed, or the fleet: 10, 100 and 1,000 pools of ten endpoints and ten tenants each.

The core of the operator with two real Envoys, without Kubernetes. Every time is from the change of a resource, or of
a host's health, until both Envoys have accepted all of it, hold-off (0.1 s) and publishing interval included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from bench.processes import BenchError
from bench.report import Cell, Outcome, Table, Target, say
from bench.site import Site

SIZES = (10, 100, 1_000)
CHANGES = 10
"""How often each kind of change is made: at most as often as the smallest fleet has pools."""

START = ("pools", "tenants", "cold start s", "MB to each Envoy", "operator MB", "longest stall s, start", "changes")
CHANGE = ("change", "pools", "p50 ms", "p99 ms", "p50 to 10 pools", "bytes to each Envoy")


def run(site: Site) -> Outcome:  # noqa: ARG001 - nothing of it is pinned: operator and Envoys share the machine
    """Measure each size in a process of its own."""
    found = {size: _measured(size) for size in SIZES}
    largest = found[SIZES[-1]]
    slowest = max(_p99(largest, kind) for kind in largest["seconds"])
    return Outcome(
        "scale",
        tables=(
            Table("Start", START, tuple(_start(one) for one in found.values())),
            Table("Change to programmed on two Envoys", CHANGE, tuple(_changes(found))),
        ),
        targets=(
            Target("p99 of any change, 1,000 pools, s", slowest, 1, at_least=False),
            Target("operator's memory, 1,000 pools, MB", largest["rss_mib"], 500, at_least=False),
            Target("bytes of a change, 1,000 to 10 pools", _growth(found), 1.5, at_least=False),
        ),
        notes=(f"each change is made {CHANGES} times, of another pool each time: p99 is the longest",),
        raw={"scale": list(found.values())},
    )


def _measured(pools: int) -> dict[str, Any]:
    say(f"  {pools:,} pools, {CHANGES} changes of each kind")
    command = [sys.executable, "-m", "bench.fleet", str(pools), str(CHANGES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise BenchError(f"{pools} pools: {done.stderr[-1500:]}")
    # Log lines of the Envoys may stand before it.
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _start(one: dict[str, Any]) -> tuple[Cell, ...]:
    stalls = one["stall_start"], one["stall_changes"]
    return (one["pools"], one["pools"] * 10, one["cold_start"], one["cold_bytes"] / 1e6, one["rss_mib"], *stalls)


def _changes(found: dict[int, dict[str, Any]]) -> list[tuple[Cell, ...]]:
    smallest = found[SIZES[0]]
    return [
        (
            kind,
            size,
            1000 * median(one["seconds"][kind]),
            1000 * _p99(one, kind),
            median(one["seconds"][kind]) / median(smallest["seconds"][kind]),
            round(one["bytes_each"][kind]),
        )
        for kind in smallest["seconds"]
        for size, one in found.items()
    ]


def _p99(one: dict[str, Any], kind: str) -> float:
    return float(max(one["seconds"][kind]))


def _growth(found: dict[int, dict[str, Any]]) -> float:
    small, large = found[SIZES[0]]["bytes_each"], found[SIZES[-1]]["bytes_each"]
    return float(max(large[kind] / small[kind] for kind in small))
