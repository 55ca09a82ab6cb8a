"""A terminal taken over for a while: frames drawn in place, single keys heard, all given back.

The only user of rich, which is loaded with this module: it knows how the many kinds of terminals
are cleared and restored. Used by `watching` alone.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Screen:
    """The terminal of the standard output; the keys are those of the standard input, if any."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before = None if self._keys is None else termios.tcgetattr(self._keys)

    def __enter__(self) -> Self:
        """Take the terminal."""
        # The default action would leave it without cursor and echo.
        signal.signal(signal.SIGTERM, _end)
        if self._keys is not None:
            tty.setcbreak(self._keys)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back as it was, with what it showed before."""
        try:
            self._live.stop()
        finally:
            if self._keys is not None and self._before is not None:
                # A terminal that has been closed meanwhile has nothing to be restored.
                with suppress(termios.error):
                    termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    @property
    def size(self) -> tuple[int, int]:
        """Give its width and height of now."""
        return self._console.size.width, self._console.size.height

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, which may hold colours and fit in width and height."""
        text = Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop", end="")
        self._live.update(text, refresh=True)

    def wait(self, seconds: float) -> str:
        """Wait so long, or for a key; gives the key, or nothing."""
        keys = [self._keys] if self._keys is not None else []
        readable, _, _ = select.select(keys, (), (), seconds)
        if not readable or self._keys is None:
            return ""
        typed = os.read(self._keys, 64)
        if not typed:  # the terminal is gone
            raise KeyboardInterrupt
        return typed.decode("utf-8", "replace")


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
