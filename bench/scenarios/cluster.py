"""What a change costs on a real API server: 10, 100 and 1,000 pools of ten endpoints and ten tenants each.

The chart's operator as a process, two Envoys of its gateway, etcd and the API server, all on this machine. Every time
is from the change of a resource until the status of its pool says that both Envoys have it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.processes import BenchError
from bench.report import Cell, Outcome, Table, Target, say
from bench.site import Site

SIZES = (10, 100, 1_000)
CHANGES = 10
"""How often each kind of change is made: at most as often as the smallest fleet has pools."""
_WITHIN = 1_800
_TESTS = Path(__file__).parents[2] / "tests"

START = (
    "pools",
    "tenants",
    "first start s",
    "all statuses s",
    "restart s",
    "operator MB",
    "API calls a change",
    "CPU ms a change",
)
CHANGE = ("change", "pools", "p50 ms", "p99 ms", "p50 to 10 pools", "bytes to each Envoy")


def run(site: Site) -> Outcome:
    """Measure each size in a process, and on a cluster, of its own."""
    found = {size: _measured(size) for size in SIZES if size <= site.largest}
    largest = found[max(found)]
    slowest = max(max(times) for times in largest["seconds"].values())
    return Outcome(
        "cluster",
        tables=(
            Table("Start", START, tuple(_start(one) for one in found.values())),
            Table("Change to programmed, as the status says", CHANGE, tuple(_changes(found))),
        ),
        targets=(
            Target(f"p99 of any change, {max(found):,} pools, s", slowest, 1, at_least=False),
            Target(f"operator's memory, {max(found):,} pools, MB", largest["rss_mib"], 500, at_least=False),
            Target(
                "API calls of a change, largest to smallest", _calls(largest) / _calls(found[min(found)]), 1.5, False
            ),
        ),
        notes=(f"each change is made {CHANGES} times, of another pool each time: p99 is the longest",),
        raw={"cluster": list(found.values())},
    )


def _measured(pools: int) -> dict[str, Any]:
    say(f"  {pools:,} pools, {CHANGES} changes of each kind")
    command = [sys.executable, "-m", "bench.cluster_fleet", str(pools), str(CHANGES)]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=False, env=environment)
    if done.returncode:
        raise BenchError(f"{pools} pools: {done.stderr[-1500:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _start(one: dict[str, Any]) -> tuple[Cell, ...]:
    times = one["first_start"], one["first_statuses"], one["restart"]
    return one["pools"], one["pools"] * 10, *times, one["rss_mib"], _calls(one), 1000 * one["cpu_each"]


def _calls(one: dict[str, Any]) -> float:
    return float(sum(one["calls"].values()))


def _changes(found: dict[int, dict[str, Any]]) -> list[tuple[Cell, ...]]:
    smallest = found[min(found)]["seconds"]
    return [
        (
            kind,
            size,
            1000 * median(one["seconds"][kind]),
            1000 * max(one["seconds"][kind]),
            median(one["seconds"][kind]) / median(smallest[kind]),
            round(one["bytes_each"][kind]),
        )
        for kind in smallest
        for size, one in found.items()
    ]
