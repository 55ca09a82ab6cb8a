"""Compiled handlers, where Python may not keep them beside their sources.

Images for containers set PYTHONDONTWRITEBYTECODE, and then each child would compile its handlers
anew: a third of its whole start (measured). The probe imports them all anyway; its bytecode is
written to `state_dir`, and a child looks for it there while it imports them. Where Python keeps
`__pycache__` by itself, nothing of this happens.

Source: sys.pycache_prefix and sys.dont_write_bytecode in Python's documentation. A stale file does
no harm: Python compares the time and size of the source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept_in(state_dir: Path) -> Iterator[None]:
    """Have a process that is forked meanwhile write what it compiles to `state_dir`."""
    if not sys.dont_write_bytecode:
        yield
        return
    look_in(state_dir)
    sys.dont_write_bytecode = False
    try:
        yield
    finally:
        sys.dont_write_bytecode = True
        look_beside_sources(state_dir)


def look_in(state_dir: Path) -> None:
    """Look for compiled modules in `state_dir` from now on. Runs in: child, before its handlers."""
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.pycache_prefix = _folder(state_dir)


def look_beside_sources(state_dir: Path) -> None:
    """Take `look_in` back: what a handler imports late was not compiled by the probe."""
    if sys.pycache_prefix is not None and sys.pycache_prefix == _folder(state_dir):
        sys.pycache_prefix = None


def _folder(state_dir: Path) -> str:
    # Not by `/`: pathlib is ten functions more on the way of every start.
    return f"{state_dir}/bytecode"
