"""A file of the configuration, read whole: a regular one, of a sensible size, never waited for.

A FIFO, a terminal or `/proc/kmsg` would hold whoever reads it for as long as it likes, and
`/dev/zero` would take all memory; neither could be read again at a reload. Called by `ini` for the
files of a configuration, by `secret` and `envfile` for those that it names.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read(path: Path, most: int) -> bytes:
    """Read a file of `most` bytes at most.

    Raises: OSError, or ValueError that says why it is no such file.
    """
    _judge(path.stat().st_mode)  # to open a device may already mean something to it
    # Source: open(2), O_NONBLOCK: it may have become a FIFO meanwhile, and some of /proc wait.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        _judge(os.fstat(fd).st_mode)
        data = bytearray()
        while len(data) <= most and (piece := file.read(most + 1 - len(data))):
            data += piece
    if len(data) > most:
        raise ValueError(f"is larger than {most >> 20} MB")
    return bytes(data)


def _judge(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("is a folder; a file is expected")
    if not stat.S_ISREG(mode):
        raise ValueError("is not a regular file")
