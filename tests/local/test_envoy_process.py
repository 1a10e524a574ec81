"""The Envoy child: alive as long as it is wanted, and not a moment longer."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aoai_operator.adapters import tether
from aoai_operator.adapters.envoy_process import (
    EnvoyMissingError,
    EnvoyOptions,
    EnvoyProcess,
    find_envoy,
    parse_log_line,
)
from aoai_operator.core.envoy.bootstrap import UnixAddress, bootstrap
from support.waiting import eventually


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def options(directory: Path, **changes: object) -> EnvoyOptions:
    admin = directory / "admin.sock"
    static = bootstrap(
        node_id="n", gateway="g", control_plane=UnixAddress(str(directory / "xds.sock")), admin=UnixAddress(str(admin))
    )
    fields = {"binary": find_envoy(None), "bootstrap": static, **changes}
    return EnvoyOptions(directory=directory, admin_socket=admin, concurrency=1, drain_seconds=2, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def running(envoy: EnvoyProcess) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(envoy.run())
    try:
        yield task
    finally:
        await envoy.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    envoy = EnvoyProcess(options(tmp_path))
    async with running(envoy) as task:
        await eventually((tmp_path / "admin.sock").exists)
        pid = envoy.pid
        assert pid is not None
        await envoy.stop()
        await task
        assert not alive(pid)


async def test_a_machine_that_has_no_process_to_spare_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, refusals = asyncio.create_subprocess_exec, [BlockingIOError(11, "Resource temporarily unavailable")] * 2

    async def busy(*args: str, **kwargs: object) -> asyncio.subprocess.Process:
        if refusals:
            raise refusals.pop()
        return await spawn(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", busy)
    envoy = EnvoyProcess(options(tmp_path))
    async with running(envoy):
        await eventually((tmp_path / "admin.sock").exists)
    assert not refusals


async def test_killed_it_comes_back(tmp_path: Path) -> None:
    died: list[None] = []
    envoy = EnvoyProcess(options(tmp_path), on_restart=lambda: died.append(None))
    async with running(envoy):
        await eventually((tmp_path / "admin.sock").exists)
        first = envoy.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        second = await eventually(lambda: envoy.pid not in (None, first) and envoy.pid)
        assert died
        assert not alive(first)
        assert alive(int(second))


async def test_a_crash_loop_slows_down_and_can_be_stopped(tmp_path: Path) -> None:
    died: list[None] = []
    envoy = EnvoyProcess(options(tmp_path, bootstrap={"no_such_field": 1}), on_restart=lambda: died.append(None))
    async with running(envoy) as task:
        await eventually(lambda: len(died) >= 2)
        await envoy.stop()
        await task


_PARENT = """
import subprocess, sys, os
child = subprocess.Popen([sys.executable, {tether!r}, str(os.getpid()), "/bin/sleep", "600"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_parent_killed_with_9_leaves_no_child() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT.format(tether=tether.__file__), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert alive(child)
    await eventually(lambda: b"sleep" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0])
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the tether stays")
async def test_a_tether_whose_parent_is_gone_does_not_start_the_command() -> None:
    nobody = "999999999"
    late = await asyncio.create_subprocess_exec(sys.executable, tether.__file__, nobody, "/bin/true")
    assert await late.wait() == 1


def test_the_binary_that_was_asked_for_must_exist() -> None:
    with pytest.raises(EnvoyMissingError, match="/no/such/envoy"):
        find_envoy("/no/such/envoy")


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("warning|upstream|no healthy\n", (logging.WARNING, "upstream", "no healthy")),
        ("critical|main|cannot|bind\n", (logging.CRITICAL, "main", "cannot|bind")),
        (
            "warning|misc|it\\'s marked as work-in-progress\n",
            (logging.DEBUG, "misc", "it's marked as work-in-progress"),
        ),
        ("PARSE ERROR: Argument: --x\n", (logging.ERROR, "", "PARSE ERROR: Argument: --x")),
    ],
)
def test_log_lines_are_read(line: str, parsed: tuple[int, str, str]) -> None:
    assert parse_log_line(line) == parsed
