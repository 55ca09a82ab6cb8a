"""What every contender's handler does: count on a page of shared memory, and tell how late it is.

The page is the file BENCH_PAGE. Each thread has a cell of its own, so that counting needs neither
a lock nor a system call. The first call of each thread waits for the word to go: what a contender
needs to start is in no figure.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time

_FIRST = 16
"""The first pair of cells, a pid and its count; before them the word, and the number of pairs."""

_file = os.open(os.environ["BENCH_PAGE"], os.O_RDWR)
_late = os.open(os.environ["BENCH_LATE"], os.O_WRONLY | os.O_APPEND)
_cells = memoryview(mmap.mmap(_file, 0)).cast("q")
_mine = threading.local()


def done(sent_ns: int = 0) -> None:
    """Count one job; one that says when it was due is a measure of the time since."""
    if sent_ns:
        os.write(_late, struct.pack("q", time.monotonic_ns() - sent_ns))
    try:
        cell = _mine.cell
    except AttributeError:
        cell = _mine.cell = _begin()
    _cells[cell] += 1


def has_gone() -> bool:
    """Tell whether the word was given."""
    return bool(_cells[0])


def count() -> int:
    """Add up what all have done."""
    return sum(_cells[_FIRST + 1 : _FIRST + 2 * _cells[1] : 2])


def _begin() -> int:
    fcntl.lockf(_file, fcntl.LOCK_EX)
    place = _FIRST + 2 * _cells[1]
    _cells[place] = os.getpid()
    _cells[1] += 1
    fcntl.lockf(_file, fcntl.LOCK_UN)
    while not has_gone():
        time.sleep(0.001)
    return place + 1
