"""`aoai-operator demo` as its users start it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from support.waiting import eventually

PROGRAM = Path(sys.executable).with_name("aoai-operator")


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """Start the demo, with its output to read."""
    return await asyncio.create_subprocess_exec(
        PROGRAM, "demo", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def run(*arguments: str) -> tuple[int | None, str, str]:
    """Run the demo to its end."""
    process = await start(*arguments)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


def descendants(pid: int) -> set[int]:
    """Return the living processes that a process started, directly or not."""
    found: set[int] = set()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return found
    for child in map(int, children):
        found |= {child} | descendants(child)
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_every_claim_holds() -> None:
    code, output, errors = await run("--seconds", "12")
    assert code == 0, output + errors
    assert errors == ""
    assert "\x1b" not in output, "no control characters when nobody looks at a terminal"
    for phase in ("warm-up", "rush", "throttled", "killed", "restored"):
        assert f"== {phase}: " in output
    assert output.count("✓") == 9
    assert output.rstrip().endswith("all 9 claims hold")


async def test_a_gateway_without_failover_fails_the_claims() -> None:
    code, output, errors = await run("--seconds", "12", "--attempts", "1", "--output", "json")
    assert code == 1, output + errors
    document = json.loads(output)
    held = {claim["text"]: claim["holds"] for claim in document["claims"]}
    assert document["ok"] is False
    assert held["No error reached a client"] is False
    assert held["Every region served"] is True
    assert [phase["name"] for phase in document["phases"]] == ["warm-up", "rush", "throttled", "killed", "restored"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
async def test_however_it_ends_it_leaves_nothing_behind(number: signal.Signals, code: int) -> None:
    process = await start()
    assert process.stdout is not None
    lines: list[str] = []
    async for line in process.stdout:
        lines.append(line.decode())
        if "warm-up" in lines[-1]:
            break
    started = descendants(process.pid)
    assert len(started) >= 2, "the gateway and its Envoy"
    os.kill(process.pid, number)
    assert (await process.communicate())[1] == b""
    assert process.returncode == code
    await eventually(lambda: not any(map(alive, started)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_keep_prints_what_to_paste_and_ends_with_ctrl_c() -> None:
    process = await start("--seconds", "12", "--keep")
    assert process.stdout is not None
    lines: list[str] = []
    async for line in process.stdout:
        lines.append(line.decode().strip())
        if "Stop with Ctrl-C" in lines[-1]:
            break
    fault = next(line for line in lines if line.startswith("aoai-operator simulate fault eastus down"))
    broken = await asyncio.create_subprocess_exec(
        PROGRAM, *fault.split()[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    shown, _ = await broken.communicate()
    assert broken.returncode == 0
    assert b"eastus" in shown
    assert b" down," in shown
    assert any("OpenAI(base_url=" in line for line in lines)
    started = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0
    await eventually(lambda: not any(map(alive, started)))
