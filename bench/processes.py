"""Child processes: started with their output in a file, ended for sure, awaited by condition."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class BenchError(Exception):
    """The bench cannot go on; the text says why and, where it can, what mends it."""


@contextmanager
def child(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the time of the block: SIGTERM at its end, SIGKILL if that is not heeded in 10 s."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_condition(holds: Callable[[], bool], *, what: str, seconds: float, log: Path | None = None) -> None:
    """Poll until the condition holds; raise with the tail of the log when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-1500:] if log and log.exists() else ""
            raise BenchError(f"{what}: not within {seconds:.0f} s\n{tail}".rstrip())
        time.sleep(0.05)


def await_gateway(process: subprocess.Popen[bytes], port: int, request: bytes, *, name: str, log: Path) -> None:
    """Poll a gateway that starts until it answers the request with 200; raise when it ends or takes 2 min."""
    status = 0

    def settled() -> bool:
        nonlocal status
        status = status_of(port, request)
        return status == 200 or process.poll() is not None

    try:
        await_condition(settled, what=name, seconds=120, log=log)
    except BenchError as error:
        raise BenchError(f"last status {status or 'none'}; {error}") from None
    if process.poll() is not None:
        raise BenchError(f"{name} ended with {process.returncode}:\n{log.read_text(errors='replace')[-1500:]}")


def status_of(port: int, request: bytes) -> int:
    """Return the status that answers a whole request text on a loopback port; 0 when none comes."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = dict(field.split(": ", 1) for field in fields)
        connection.request(method, path, body or None, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
