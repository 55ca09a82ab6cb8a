"""The commands that change a running supervisor by hand: scale, quiet, resume, signal.

What they change outlasts a reload and ends with the supervisor. Part of `cli`, which says why
imports stand inside the commands.
"""

from __future__ import annotations

import click

from supervisor.console import (
    Invocation,
    conf,
    examples,
    names_argument,
    pass_invocation,
    print_lines,
)
from supervisor.errors import UsageError


@click.command(
    short_help="Give jobs more or fewer processes.",
    epilog=examples("supervisor scale orders=4", "supervisor scale orders=4 mails=0"),
)
@click.argument("wishes", metavar="NAME=N...", nargs=-1, required=True)
@conf
@pass_invocation
def scale(invocation: Invocation, wishes: tuple[str, ...]) -> None:
    """Give jobs more or fewer processes; 0 is allowed. The others are never touched.

    Those with the highest numbers go, and drain first. It lasts over a reload, until the number of
    the file is wished again or the supervisor ends.
    """
    counts: dict[str, int] = {}
    for wish in wishes:
        name, _, number = wish.partition("=")
        if not name or not number.isascii() or not number.isdigit() or name in counts:
            raise UsageError(f"NAME=N is expected, each NAME once, like orders=4; not {wish!a}")
        counts[name] = int(number[:9])
    with invocation.client() as client:
        rows = client.scale(counts)
    from supervisor import render

    print_lines(map(render.scaled_line, rows))


@click.command(
    short_help="Take nothing new, but stay alive.",
    epilog=examples("supervisor quiet", "supervisor quiet orders 'mail*'"),
)
@names_argument
@conf
@pass_invocation
def quiet(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Have jobs take nothing new: they finish what they have begun, and stay alive.

    Without NAME all jobs, also those that a reload adds. It lasts until `resume`.
    """
    with invocation.client() as client:
        done = client.quiet(names)
    for name in done["names"]:
        click.echo(f"{name} quiet")
    if note := done.get("note"):
        click.echo(note, err=True)


@click.command(
    short_help="Take new work again after `quiet`.",
    epilog=examples("supervisor resume"),
)
@names_argument
@conf
@pass_invocation
def resume(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Have jobs take new work again after `quiet`; without NAME all."""
    with invocation.client() as client:
        done = client.resume(names)
    for name in done["names"]:
        click.echo(f"{name} resumed")


@click.command(
    short_help="Send a signal to processes.",
    epilog=examples("supervisor signal billing:1 USR1", "supervisor signal 'order*' HUP"),
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.argument("word", metavar="SIG")
@conf
@pass_invocation
def signal(invocation: Invocation, names: tuple[str, ...], word: str) -> None:
    """Send a signal, like HUP or SIGHUP, to the processes themselves, not to what they began.

    What comes of it is theirs: one that dies of it is restarted as after any death.
    """
    with invocation.client() as client:
        for name in client.signal(names, word):
            click.echo(f"{name}: sent {word}")
