"""What `/proc` knows: cores, CPU time, memory, children. Linux only, as the figures are."""

from __future__ import annotations

import os
import platform
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core does what, so that load and upstream never take time from what is measured."""

    subject: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Take the first two cores that this process may use; with a single one, both roles share it."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(subject=allowed[0], load=allowed[min(1, len(allowed) - 1)])


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Seconds that a core was busy, and that the hypervisor gave to others, since boot."""

    busy: float
    stolen: float


def core_time(core: int) -> CoreTime:
    """Read the times of one core."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            ticks = [int(field) for field in fields[:8]]
            hertz = os.sysconf("SC_CLK_TCK")
            return CoreTime(busy=(sum(ticks) - ticks[3] - ticks[4]) / hertz, stolen=ticks[7] / hertz)
    raise LookupError(f"/proc/stat has no cpu{core}")


def threads(pid: int) -> list[int]:
    """List the thread ids of a process."""
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process, and those they start later, on one core."""
    for thread in threads(pid):
        os.sched_setaffinity(thread, {core})


def rss_kib(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def cpu_time(pid: int) -> float:
    """Return the seconds of CPU time of a process, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Yield (pid, name) of the children of a process, of theirs, and so on."""
    for thread in threads(pid):
        for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
            yield int(child), Path(f"/proc/{child}/comm").read_text().strip()
            yield from descendants(int(child))


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def allow_many_files() -> None:
    """Lift the soft limit of open files to the hard one; children inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe() -> dict[str, str | int]:
    """Say what the figures were taken on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
