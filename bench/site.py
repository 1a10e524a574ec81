"""Where a scenario runs: cores, built programs, a scratch folder, and the regions behind what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import payloads
from bench.machine import Cores, free_port, pin
from bench.native import Programs
from bench.processes import BenchError, await_condition, child


@dataclass(frozen=True, slots=True)
class Site:
    """What every scenario is handed."""

    cores: Cores
    programs: Programs
    scratch: Path
    operator: str
    seconds: float
    rounds: int
    largest: int
    """Most pools of a fleet on a real API server."""


@dataclass(frozen=True, slots=True)
class Region:
    """An Azure OpenAI resource on a loopback port; `deployment` is its own name for the model."""

    name: str
    port: int
    tokens_per_minute: int
    deployment: str = payloads.MODEL


UNEQUAL = (("eastus", 120_000), ("swedencentral", 60_000), ("japaneast", 20_000))
"""Names and tokens a minute of the three regions of every scenario."""


@contextmanager
def upstream(
    site: Site, *, stream: bool = False, every_us: int = 0, batch: int = 1, renamed: bool = False
) -> Iterator[tuple[Region, ...]]:
    """Run the C upstream as three regions: JSON answers, or streams: one write, or a
    `batch` of events every `every_us` microseconds.
    """
    regions = tuple(
        Region(name, free_port(), tpm, f"{payloads.MODEL}-{name}" if renamed else payloads.MODEL)
        for name, tpm in UNEQUAL
    )
    content = site.scratch / ("events" if stream else "answer.json")
    content.write_text(payloads.events() if stream else payloads.answer())
    command = [str(site.programs.upstream), *_upstream_options(regions)]
    command += (
        [f"--events={content}", f"--every-us={every_us}", f"--batch={batch}"] if stream else [f"--json={content}"]
    )
    log = site.scratch / "upstream.log"
    log.unlink(missing_ok=True)
    with child(command, log=log) as process:
        await_condition(lambda: "ready" in log.read_text(), what="the upstream", seconds=10, log=log)
        pin(process.pid, site.cores.load)
        yield regions
        if process.poll() is not None:
            raise BenchError(f"the upstream ended by itself: {log.read_text()}")


def _upstream_options(regions: Sequence[Region]) -> Iterator[str]:
    for region in regions:
        yield f"--region={region.port}:{region.tokens_per_minute}:{region.tokens_per_minute * 4 // 5}"
