"""Python itself, set up for a whole fleet: its garbage collector seldom walks over it, and its threads give way.

A full collection stops everything, and with a thousand pools takes over a second: longer than a change may take. What
we hold are trees, which reference counts free; cycles are few, and young.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 50_000
"""Allocations above deallocations that start a collection of the youngest; Python's own 700 suits small programs."""
_SWITCH = 0.0005
"""Seconds for which a thread keeps the interpreter while another one waits for it."""


def threads_give_way() -> None:
    """Have a thread that compiles give way to the loop, soon.

    The loop gives the interpreter away at each call that it makes, and gets it back only after this time: beside a busy
    thread, 0.5 ms let a loop make 4 to 14 times as many calls as Python's own 5 ms.
    """
    sys.setswitchinterval(_SWITCH)


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
