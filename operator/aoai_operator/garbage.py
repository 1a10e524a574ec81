"""Python's garbage collector, kept from walking over a whole fleet again and again.

A full collection stops everything, and with a thousand pools takes over a second: longer than a change may take. What
we hold are trees, which reference counts free; cycles are few, and young.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 50_000
"""Allocations above deallocations that start a collection of the youngest; Python's own 700 suits small programs."""


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Collect nothing while the block runs: a start, which makes what stays.

    Then collect once, or the garbage of the start would be kept, and keep what is left out of all collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, 20, 50)
        gc.enable()
