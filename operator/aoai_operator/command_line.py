"""What the commands share: exit codes, how an error is told, and how a duration is read."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import NoReturn

import typer

from aoai_operator.core.api import parse_duration

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")

WRONG_MANIFESTS = 1
"""The manifests are wrong, or hold nothing to serve."""
CLAIM_FAILED = 1
"""The demo ran, and a claim of its summary does not hold."""
USAGE = 2
"""It cannot be done as asked: an unknown option, a file that is not there, a port in use, no Envoy."""
FAILED = 3
"""It failed while it ran."""
INTERRUPTED = 130
"""Ctrl-C before it was done: 128 and the signal's number, as shells have it."""


def fail(message: str, code: int) -> NoReturn:
    """Tell an error on standard error, and end the command with an exit code."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(code)


def token_host(text: str) -> str:
    """Read an option that is a domain, such as openai.example.com; or an address."""
    if not _HOST.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no domain; write it without https://, port and path")
    return text.lower()


def seconds(text: str) -> float:
    """Read an option that is a duration, such as 30s."""
    try:
        return parse_duration(text) / timedelta(seconds=1)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
