"""Arguments, exit codes, and the order of things."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import machine
from bench.native import build
from bench.processes import BenchError
from bench.report import Outcome, say, show, write
from bench.scenarios import (
    cluster,
    discovery,
    exactness,
    failover,
    floor,
    harvest,
    latency,
    ledger,
    litellm,
    neighbours,
    proxy,
    quotas,
    scale,
    streams,
)
from bench.site import Site

SCENARIOS: dict[str, Callable[[Site], Outcome]] = {
    "proxy": proxy.run,
    "streams": streams.run,
    "latency": latency.run,
    "harvest": harvest.run,
    "failover": failover.run,
    "quotas": quotas.run,
    "floor": floor.run,
    "exactness": exactness.run,
    "neighbours": neighbours.run,
    "ledger": ledger.run,
    "scale": scale.run,
    "cluster": cluster.run,
    "discovery": discovery.run,
    "litellm": litellm.run,
}
OUT = Path(__file__).parent / "out"

_EPILOG = """\
scenarios:
  proxy     requests/s of the whole chain against bare Envoy: 2, 29 and 180 KB prompts
  streams   events/s against bare Envoy; memory of 1,000 open streams
  latency   added p50, p99 and time to first byte at a tenth of saturation
  harvest   tokens served before a client sees a 429, three unequal regions
  failover  errors that clients see while one of three regions breaks
  quotas    what quotas cost: drawing on leases, and asking for every request
  floor     what quotas cannot do without: single calls of Lua, and the best ratio that they leave
  exactness 500 clients on a limit, ours and LiteLLM's; tenants that share a pool while one floods
  neighbours a tenant's p99 while another is refused 2,000 times a second
  ledger    a decision of the ledger in memory and in Redis, with 10, 1,000 and 10,000 tenants
  scale     a change of one of 10, 100 and 1,000 pools to two Envoys: time, bytes, memory
  cluster   the same on a real API server: start, time, API calls; with 1,000 pools it takes long (--largest 100)
  discovery a reading of 200 accounts in Azure: requests, CPU time, memory
  litellm   LiteLLM beside it in all of these (installed on first use)

examples:
  python -m bench                                  everything, about half an hour
  python -m bench proxy streams --rounds 3         two scenarios, quickly
  python -m bench latency --seconds 10 --json /tmp/latency.json
  make bench ARGS="harvest failover"

needs: Linux, a C compiler (apt-get install gcc libc6-dev), two idle cores.
exit codes: 0 measured (targets may be missed: see the tables), 1 a scenario failed, 2 something is not installed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios that the arguments name."""
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that every child is ended
    if not Path("/proc/self/schedstat").exists():
        say("the bench reads CPU time from /proc/PID/schedstat: it needs Linux")
        return 2
    machine.allow_many_files()
    try:
        programs = build(OUT / "native")
    except BenchError as error:
        say(str(error))
        return 2
    cores = machine.Cores.of_this_machine()
    if cores.subject == cores.load:
        say("only one core: generator and upstream take time from what is measured; ratios are too close to 1")
    outcomes: list[Outcome] = []
    failed = False
    for name in arguments.scenarios or SCENARIOS:
        say(f"{name} ...")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            site = Site(
                cores,
                programs,
                Path(scratch),
                arguments.operator,
                arguments.seconds,
                arguments.rounds,
                arguments.largest,
            )
            try:
                outcome = SCENARIOS[name](site)
            except BenchError as error:
                say(f"{name} failed: {error}")
                failed = True
                continue
        say(f"{name} took {time.monotonic() - began:.0f} s")
        show(outcome)
        outcomes.append(outcome)
        write(arguments.json, outcomes, _about(arguments))
    if outcomes:
        say(f"written: {arguments.json}")
    return int(failed)


def _about(arguments: argparse.Namespace) -> dict[str, object]:
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    return {"taken": taken, "seconds": arguments.seconds, "rounds": arguments.rounds, "machine": machine.describe()}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="How fast the chain is, as ratios against bare Envoy in the same run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"default all: {' '.join(SCENARIOS)}")
    parser.add_argument("--seconds", type=_positive, default=3.0, help="length of a window (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="windows a figure; it is their median (default 7)")
    parser.add_argument("--largest", type=int, default=1_000, help="most pools of cluster (default 1000)")
    parser.add_argument("--json", type=Path, default=OUT / "bench.json", help="where to write (default bench/out/)")
    parser.add_argument(
        "--operator",
        default=str(Path(sys.executable).with_name("aoai-operator")),
        help="the aoai-operator to measure (default: the one beside this Python)",
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are: {' '.join(SCENARIOS)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value
