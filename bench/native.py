"""The C programs of `native/`: built once with the machine's compiler, kept beside the results."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError

SOURCES = Path(__file__).parent / "native"


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the built programs."""

    generator: Path
    upstream: Path


def build(directory: Path) -> Programs:
    """Build what is not built yet, named by the hash of all sources."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("the bench needs a C compiler: apt-get install gcc libc6-dev")
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    version = hashlib.sha256(text).hexdigest()[:12]
    directory.mkdir(parents=True, exist_ok=True)
    return Programs(
        generator=_compile(compiler, "generator", version, directory),
        upstream=_compile(compiler, "upstream", version, directory),
    )


def _compile(compiler: str, name: str, version: str, directory: Path) -> Path:
    program = directory / f"{name}-{version}"
    if program.exists():
        return program
    made = program.with_suffix(".new")
    command = [compiler, "-O2", "-std=gnu11", "-o", str(made), str(SOURCES / f"{name}.c"), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{name}.c does not compile: apt-get install gcc libc6-dev\n{result.stderr}")
    made.replace(program)
    return program
