"""The commands that look into what runs: `why`, `top`, `stacks`; and `status --watch`.

They only read. Imports that not every command needs stand inside the functions; `cli` says why.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import click

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
    print_next,
    terminal,
)
from supervisor.errors import ExitCode

if TYPE_CHECKING:
    # Only for the reader: `why` and `stacks` do without it.
    from supervisor.frames import Look

WATCH_S: Final = 1.0
TOP_S: Final = 2.0
"""How often `status --watch` and `top` look again."""

FIRST_LOOK_S: Final = 0.5
"""How long `top` looks in a pipe, where it shows one frame."""


@click.command(
    short_help="Explain a state: how it came about, and what comes next.",
    epilog=examples("supervisor why billing", "supervisor why billing:1 --json", "supervisor why"),
)
@names_argument
@as_json
@conf
@pass_invocation
def why(invocation: Invocation, names: tuple[str, ...], as_json: bool) -> None:
    """Explain the state of processes: their last deaths, what comes next and when, and why.

    What is not well comes first; without NAME that of all jobs. --json gives the worst process,
    and all of them under "processes".
    """
    from supervisor import explain

    with invocation.client() as client:
        found = client.why(names, None if as_json else explain.DEATHS_SHOWN + 1)
    ordered = explain.worst_first(found)
    if as_json:
        print_json({**(ordered[0] if ordered else {}), "processes": ordered})
        return
    colour, width = terminal()
    print_lines(explain.lines(ordered, colour=colour, width=width))
    print_next(explain.next_command(ordered), invocation)


@click.command(
    short_help="Show the Python stacks of live processes.",
    epilog=examples("supervisor stacks orders:0", "supervisor stacks orders --json"),
)
@needed_names_argument
@as_json
@conf
@pass_invocation
def stacks(invocation: Invocation, names: tuple[str, ...], as_json: bool) -> ExitCode:
    """Show where each thread of a process is just now, also when it hangs. It goes on unharmed.

    The stacks are in its log as well. A program (type = program) shows none.
    """
    with invocation.client() as client:
        found = client.stacks(names)
    if as_json:
        print_json(found)
    else:
        from supervisor import explain

        for one in found:
            if not one["error"]:
                print_lines(explain.stacks_lines(one, title=len(found) > 1))
    failed = [one["error"] for one in found if one["error"]]
    for error in failed:
        complain(error)
    return ExitCode.FAILED if failed else ExitCode.OK


@click.command(
    short_help="Show what the processes use and do, live.",
    epilog=examples("supervisor top", "supervisor top 'order*'", "supervisor top --json"),
)
@names_argument
@as_json
@conf
@pass_invocation
def top(invocation: Invocation, names: tuple[str, ...], as_json: bool) -> None:
    """Show processor, memory and throughput of each process, every two seconds; q ends it.

    What is not well comes first, then who uses most of the processor: CPU is in per cent of one
    core, and of the process itself, without what it has begun. In a pipe it is one frame.
    """
    from supervisor import frames, watching

    before: Look | None = None

    def draw(colour: bool, width: int | None) -> list[str]:
        nonlocal before
        if before is None:
            before = _look(invocation, names)
            watching.pause(FIRST_LOOK_S)
        after = _look(invocation, names)
        clock = time.strftime("%H:%M:%S")
        lines = frames.frame(
            before, after, clock=clock, partial=bool(names), colour=colour, width=width
        )
        before = after
        return lines

    if as_json:
        before = _look(invocation, names)
        watching.pause(FIRST_LOOK_S)
        after = _look(invocation, names)
        print_json({"master": after.status["master"], "processes": frames.usages(before, after)})
    elif watching.can_redraw():
        watching.on_terminal(draw, TOP_S)
    else:
        print_lines(draw(*terminal()))


def _look(invocation: Invocation, names: tuple[str, ...]) -> Look:
    from supervisor import kernel
    from supervisor.frames import Look

    with invocation.client() as client:
        status = client.status(names)
    at, pids = time.monotonic(), [row["pid"] for row in status["processes"]]
    used = {pid: kernel.cpu_seconds(pid) for pid in pids if pid is not None}
    return Look(at, status, {pid: cpu_s for pid, cpu_s in used.items() if cpu_s is not None})


def watch_status(invocation: Invocation, names: tuple[str, ...], as_json: bool) -> None:
    """Show `status` again and again: in place on a terminal, else one after the other."""
    from supervisor import render, watching

    def draw(colour: bool, width: int | None) -> list[str]:
        with invocation.client() as client:
            found = client.status(names)
        screen = render.status_screen(found, partial=bool(names), colour=colour, width=width)
        return screen.splitlines()

    def give() -> str:
        if not as_json:
            return "\n".join([*draw(*terminal()), ""])
        with invocation.client() as client:
            return json.dumps(client.status(names))

    if watching.can_redraw() and not as_json:
        watching.on_terminal(draw, WATCH_S)
    else:
        watching.in_pipe(give, WATCH_S)
