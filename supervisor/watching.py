"""Showing the same again and again: in place on a terminal, one after the other in a pipe.

Ends with `q` or Ctrl-C; a terminal also outlasts a restart of the supervisor, and says so.
Called by `cli` and `insight_commands`.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

from supervisor.errors import ControlError, NotRunning
from supervisor.frames import fitting

Draw = Callable[[bool, int | None], Sequence[str]]
"""Gives the lines of now; with colour or without, for a width or for none."""


def can_redraw() -> bool:
    """Tell whether the output is a terminal on which one can go back."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def on_terminal(draw: Draw, every_s: float) -> None:
    """Draw in place until somebody has seen enough."""
    from supervisor.screen import Screen  # it brings rich

    colour = not os.environ.get("NO_COLOR")
    with suppress(KeyboardInterrupt), Screen() as screen:
        while True:
            width, height = screen.size
            try:
                lines = draw(colour, width)
            except (NotRunning, ControlError) as error:
                lines = [*str(error).splitlines(), "waiting for it; q ends this"]
            screen.draw(fitting(lines, height))
            if "q" in screen.wait(every_s).lower():
                return


def in_pipe(give: Callable[[], str], every_s: float) -> None:
    """Print one text after the other until nobody reads them or the supervisor is gone.

    Raises: NotRunning, ControlError, BrokenPipeError.
    """
    with suppress(KeyboardInterrupt):
        while True:
            click.echo(give())
            pause(every_s)


def pause(seconds: float) -> None:
    """Wait, unless who reads our output leaves before."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if poll.poll(seconds * 1000):
        raise BrokenPipeError
