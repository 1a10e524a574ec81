"""The directory of one running operator: its sockets, its pipe. Those that died without cleaning up are swept."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "aoai-operator-"
_LOCK = "lock"


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a private directory below TMPDIR for the time of the block, and remove those of dead operators.

    Raises:
        OSError: it cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        directory = Path(name)
        # The system drops the lock however the process ends. It gets its name when it is held: nobody sees it free.
        fresh = directory / f"{_LOCK}.new"
        lock = os.open(fresh, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh.rename(directory / _LOCK)
            _sweep(directory)
            yield directory
        finally:
            os.close(lock)


def _sweep(own: Path) -> None:
    for other in own.parent.glob(f"{_PREFIX}*"):
        if other != own and not other.is_symlink() and _is_dead(other):
            shutil.rmtree(other, ignore_errors=True)


def _is_dead(directory: Path) -> bool:
    try:
        if directory.stat().st_uid != os.getuid():
            return False
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
