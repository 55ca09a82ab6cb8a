"""The commands that change a running supervisor: scale, quiet, resume, signal, and reload.

What the first four change outlasts a reload and ends with the supervisor. Part of `cli`, which
says why imports stand inside the commands.
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
    needed_names_argument,
    pass_invocation,
    print_json,
    print_lines,
)
from supervisor.errors import ExitCode, Problem, UsageError


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
@needed_names_argument
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


@click.command(
    short_help="Read the configuration again and apply what has changed.",
    epilog=examples("supervisor reload --dry-run", "supervisor reload"),
)
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@as_json
@conf
@pass_invocation
def reload(invocation: Invocation, dry_run: bool, as_json: bool) -> ExitCode:
    """Read the configuration again and apply what has changed.

    Jobs that need it are restarted one process after the other; one that does not get ready goes
    back to its old settings (exit code 1). A file with errors changes nothing (exit code 78).
    """
    with invocation.client() as client:
        report = client.reload(dry_run=dry_run)
    if as_json:
        print_json(report)
    else:
        from supervisor import render

        for error in report["errors"]:
            complain(str(Problem(**error)), prefix="")
        print_lines(render.reload_lines(report, dry_run=dry_run))
        for one in report.get("failed", []):
            complain(f"{one['name']}: {one['why']}")
    if report["errors"]:
        return ExitCode.CONFIG
    return ExitCode.FAILED if report.get("failed") else ExitCode.OK
