"""Watches manifest files for changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from watchfiles import Change, awatch


async def watch(paths: Iterable[Path], on_change: Callable[[], None], *, suffixes: Container[str]) -> None:
    """Call `on_change` when one of the files, or a file with one of the suffixes below a directory, may have changed.

    It is the directory of a file that is watched, not the file: editors and `kubectl`-like tools write a new file and
    rename it over the old one, and the old one never changes. It is called once at the start too, for what
    changed between the first reading and now. Runs until it is cancelled.
    """
    paths = [path.absolute() for path in paths]
    directories = {path if path.is_dir() else path.parent for path in paths}
    # A mounted ConfigMap is a link to a file in a directory that is replaced: what it points to is watched as well.
    directories |= {path.resolve().parent for path in paths if not path.is_dir()}
    changes = awatch(*directories, watch_filter=_Concerned(paths, suffixes), debounce=50, step=20)
    first = asyncio.ensure_future(anext(changes))
    try:
        await asyncio.sleep(0)  # the task has begun, and with it the watch
        on_change()
        await first
        on_change()
        async for _ in changes:
            on_change()
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await changes.aclose()


class _Concerned:
    """Tells whether a changed path concerns the manifests; a link may have been turned, so its whole directory does."""

    def __init__(self, paths: list[Path], suffixes: Container[str]) -> None:
        self._suffixes = suffixes
        self._directories = [path for path in paths if path.is_dir()]
        self._links = {path.resolve().parent for path in paths if path.resolve() != path}
        self._files = {path for path in paths if not path.is_dir()}

    def __call__(self, change: Change, changed: str) -> bool:  # noqa: ARG002
        path = Path(changed)
        if path in self._files or path.parent in self._links or path.name == "..data":
            return True
        return path.suffix in self._suffixes and any(path.is_relative_to(directory) for directory in self._directories)
