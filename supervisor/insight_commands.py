"""The commands that look into what runs: `why`, `stacks`.

They only read. Imports that not every command needs stand inside the functions; `cli` says why.
"""

from __future__ import annotations

import click

from supervisor.complaint import complain
from supervisor.console import (
    Invocation,
    as_json,
    conf,
    examples,
    names_argument,
    pass_invocation,
    print_json,
    print_lines,
    print_next,
    terminal,
)
from supervisor.errors import ExitCode


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
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
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
