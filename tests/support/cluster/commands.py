"""Runs kubectl, helm and the other programs of the toolchain, with nothing of the user's own configuration."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path


class CommandFailedError(Exception):
    """A program ended with another code than 0; `output` is what it wrote to standard error, or else to output."""

    def __init__(self, command: str, code: int, output: str) -> None:
        super().__init__(f"{command} ended with {code}:\n{output}")
        self.code = code
        self.output = output


def environment(home: Path, kubeconfig: Path) -> dict[str, str]:
    """Return an environment in which the programs find one cluster, and keep their caches in `home`."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KUBECONFIG": str(kubeconfig),
        "KUBECACHEDIR": str(home / "kube-cache"),
        "HELM_CACHE_HOME": str(home / "helm" / "cache"),
        "HELM_CONFIG_HOME": str(home / "helm" / "config"),
        "HELM_DATA_HOME": str(home / "helm" / "data"),
    }


async def run(program: Path, *arguments: str, environment: Mapping[str, str], stdin: str | None = None) -> str:
    """Run a program and return what it wrote to standard output.

    Raises:
        CommandFailedError: it ended with another code than 0.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(None if stdin is None else stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        command = " ".join([program.name, *arguments])
        raise CommandFailedError(command, process.returncode, (err or out).decode().strip())
    return out.decode()
