"""One process of the control plane, which a test can stop, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from aoai_operator.adapters import tether
from support.waiting import eventually

_START = 60
_STOP = 60
_TAIL = 4000


class Part:
    """A process that comes up at the same port with the same data each time, and dies with the test process.

    No event loop holds it: one test may start it and another stop it. Start it on the main thread (see tether.py).

    Attributes:
        name: its program's.
        log_file: what it wrote, of all its starts.
        starts: how often it was started.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, directory: Path, ready: Callable[[], Awaitable[bool]]
    ) -> None:
        """Take its command line, where its log goes, and what tells that it serves."""
        self.name = name
        self.starts = 0
        self.log_file = directory / f"{name}.log"
        self._command = list(command)
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def died(self) -> bool:
        """Whether it ended, and not by `stop` or `kill`."""
        return self._process is not None and self._process.poll() is not None

    @property
    def state(self) -> str:
        """Whether it runs, and if it died, with which code (-N: by signal N)."""
        if self._process is None:
            return "was ended"
        return f"died with {self._process.returncode}" if self.died else "runs"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of its log."""
        return self.log_file.read_text(errors="replace")[-_TAIL:] if self.log_file.exists() else ""

    async def start(self) -> None:
        """Start it, and return when it serves."""
        assert not self.running, f"{self.name} runs already"
        if self._process is not None and self._process.stdin is not None:
            # It ended by itself.
            self._process.stdin.close()
        self._process = self._launch()
        self.starts += 1
        try:
            await eventually(self._serves, within=_START, what=f"{self.name} serves")
        except BaseException as error:
            await self.kill()
            error.add_note(f"the end of {self.name}'s log:\n{self.log}")
            raise

    async def stop(self) -> None:
        """Ask it to end (SIGTERM), and return when it has."""
        if self._process is not None:
            self._process.terminate()
            await self._ended()

    async def kill(self) -> None:
        """Kill it (SIGKILL): it has no time to say goodbye."""
        if self._process is not None:
            self._process.kill()
            await self._ended()

    def pause(self) -> None:
        """Stop its time (SIGSTOP), as a machine that is suspended does."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self) -> None:
        """Stop it and start it again."""
        await self.stop()
        await self.start()

    def _launch(self) -> subprocess.Popen[bytes]:
        tethered = [sys.executable, tether.__file__, str(os.getpid()), *self._command]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(tethered, stdin=subprocess.PIPE, stdout=log, stderr=log)

    async def _serves(self) -> bool:
        assert self.running, f"{self.name} ended"
        return await self._ready()

    async def _ended(self) -> None:
        await eventually(lambda: not self.running, within=_STOP, what=f"{self.name} ends")
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
