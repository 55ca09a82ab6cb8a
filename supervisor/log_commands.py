"""The commands that show what has happened, and what happens now: `logs` and `events`.

With `-f` they go on: what was there comes first, and nothing is lost or shown twice between the
two. They end with Ctrl-C (130), when the reader of their output leaves, and when the supervisor
stops (0, with a last word on stderr).
"""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import click

from supervisor import shapes
from supervisor.client import Client
from supervisor.complaint import complain
from supervisor.console import (
    Invocation,
    as_json,
    conf,
    examples,
    names_argument,
    needed_names_argument,
    pass_invocation,
    print_json,
    print_lines,
)
from supervisor.errors import ExitCode

_LINES: Final = 50

follow_option = click.option("-f", "--follow", is_flag=True, help="Go on with what follows.")

Item = shapes.Item


@click.command(
    short_help="Show the last lines that processes have printed.",
    epilog=examples(
        "supervisor logs billing:1",
        "supervisor logs master -n 200",
        "supervisor logs 'order*' -f",
    ),
)
@needed_names_argument
@follow_option
@click.option(
    "-n",
    "lines",
    metavar="N",
    type=click.IntRange(min=0, max=1_000_000),
    default=_LINES,
    show_default=True,
    help="How many lines.",
)
@as_json
@conf
@pass_invocation
def logs(
    invocation: Invocation, names: tuple[str, ...], follow: bool, lines: int, as_json: bool
) -> ExitCode | None:
    """Show the last lines that processes have printed; `master` is a NAME too.

    Where lines come from several processes, each is behind the name of its own. -f goes on with
    what follows, over restarts and with processes that come later; with --json one object a line.
    """
    show = _LinePrinter(as_json=as_json)
    with invocation.client() as client:
        if follow:
            found, items = client.follow("logs", names, lines)
            show.several(_pairs(cast("shapes.LogLines", found)))
            return _go_on(client, items, show.item)
        answer = client.logs(names, lines)
    if as_json:
        print_json(answer)
    else:
        show.several(_pairs(answer))
    return None


@click.command(
    short_help="Show the last changes of state.",
    epilog=examples(
        "supervisor events", "supervisor events billing --json", "supervisor events -f"
    ),
)
@names_argument
@follow_option
@click.option(
    "-n",
    "number",
    metavar="N",
    type=click.IntRange(min=0, max=1_000_000),
    help=f"How many.  [default: all that are kept; with -f the last {_LINES}]",
)
@as_json
@conf
@pass_invocation
def events(
    invocation: Invocation, names: tuple[str, ...], follow: bool, number: int | None, as_json: bool
) -> ExitCode | None:
    """Show the last changes of state, oldest first; --json prints one object a line.

    -f goes on with what follows.
    """
    from supervisor import render

    show = json.dumps if as_json else render.event_line

    def item(one: Item) -> str:
        return show(cast("shapes.Event", one))

    with invocation.client() as client:
        if not follow:
            found = client.events(names, number)
            print_lines(map(show, found))
            return None
        count = _LINES if number is None else number
        before, items = client.follow("events", names, count)
        print_lines(map(show, cast("list[shapes.Event]", before)))
        return _go_on(client, items, item)


class _LinePrinter:
    """Shows lines, behind names as soon as they come from more than one process."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._seen: set[str] = set()

    def several(self, pairs: list[tuple[str, str]]) -> None:
        """Print lines that are all there already."""
        self._seen.update(name for name, _ in pairs)
        print_lines(self._show(name, line) for name, line in pairs)

    def item(self, item: Item) -> str:
        """Give the text of a line that has just come."""
        name, line = item.get("name", ""), item.get("line", "")
        self._seen.add(name)
        return self._show(name, line)

    def _show(self, name: str, line: str) -> str:
        if self._as_json:
            return json.dumps({"name": name, "line": line})
        # Here: it compiles patterns that other commands can do without.
        from supervisor.lines import escape

        # The master has escaped it; what is obeyed by a terminal is not left to one place alone.
        shown = escape(line)
        return f"{escape(name)}  {shown}" if len(self._seen) > 1 else shown


def _pairs(found: shapes.LogLines) -> list[tuple[str, str]]:
    lines = found["lines"]
    # A master of an earlier release does not say whose they are.
    return list(zip(found.get("names", [""] * len(lines)), lines, strict=True))


def _go_on(client: Client, items: Iterator[list[Item]], show: Callable[[Item], str]) -> ExitCode:
    """Print what follows until it ends. Raises: BrokenPipeError when nobody reads it any more."""
    for arrived in _while_read(client, items):
        lines = [show(item) for item in arrived if "dropped" not in item and "end" not in item]
        if lines:
            click.echo("\n".join(lines))
        for item in arrived:
            if "dropped" in item:
                complain(f"dropped {item['dropped']} lines: they came faster than they were read")
            if "end" in item:
                complain(item["end"])
                return ExitCode.OK if item.get("ok") else ExitCode.FAILED
    return ExitCode.FAILED


def _while_read(client: Client, items: Iterator[list[Item]]) -> Iterable[list[Item]]:
    """Give items for as long as somebody reads our output: a pipe tells when its reader leaves."""
    poll = select.poll()
    poll.register(client.fileno(), select.POLLIN)
    poll.register(sys.stdout.fileno(), 0)
    while True:
        if not client.has_more():
            ready = dict(poll.poll())
            if ready.get(sys.stdout.fileno(), 0) & select.POLLERR:
                raise BrokenPipeError
        arrived = next(items, None)
        if arrived is None:
            return
        yield arrived
