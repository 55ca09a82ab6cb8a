"""The command line: `supervisor COMMAND`, and what it prints.

Reads words, asks the master over its socket (`client`) or does the whole-supervisor work of
`launch`, and shows the answer (`render`). What all commands share is in `console`; exit codes are
those of `errors.ExitCode`.

Imports that `status --json` can do without stand inside the commands (`render` costs 17 ms, the
configuration 40): health checks ask every few seconds, and the interpreter alone takes long enough.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final

import click

from supervisor import __version__, protocol
from supervisor.complaint import complain
from supervisor.console import (
    Group,
    Invocation,
    as_json,
    conf,
    duration,
    examples,
    names_argument,
    pass_invocation,
    print_done,
    print_json,
    print_lines,
    print_status,
)
from supervisor.errors import (
    ExitCode,
    NotRunning,
    UsageError,
)

_LATER: Final = "cron upgrade"

_ORDER: Final = (
    "check start status why top logs events restart stop reload scale quiet resume signal stacks"
    " publish queue dead init completion version"
)
"""How `--help` lists the commands: as they are needed, not by the alphabet."""

_ELSEWHERE: Final = {
    "check": "check_command",
    "completion": "completion",
    "dead": "dead_commands",
    "quiet": "hand_commands",
    "reload": "hand_commands",
    "resume": "hand_commands",
    "scale": "hand_commands",
    "signal": "hand_commands",
    "init": "init_command",
    "stacks": "insight_commands",
    "top": "insight_commands",
    "why": "insight_commands",
    "events": "log_commands",
    "logs": "log_commands",
    "publish": "queue_commands",
    "queue": "queue_commands",
}
"""The commands of other modules, which are loaded when they are called."""

_INSTEAD = {
    "add": "reload",
    "avail": "check",
    "fg": "logs -f NAME",
    "help": "--help",
    "list": "status",
    "maintail": "logs master",
    "pid": "status --json",
    "ps": "status",
    "remove": "reload",
    "reread": "reload --dry-run",
    "shutdown": "stop",
    "tail": "logs NAME",
    "update": "reload",
}
"""What other supervisors call what we have; README has the whole table."""


@click.group(
    cls=Group,
    later=_LATER.split(),
    order=_ORDER.split(),
    elsewhere=_ELSEWHERE,
    instead=_INSTEAD,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "supervisor init DIR              write a small configuration that runs",
        "supervisor check                 is the configuration right?",
        "supervisor start                 run it here; Ctrl-C drains and stops it",
        "supervisor start --daemonize     run it in the background",
        "supervisor status                how is it going?",
        "supervisor why NAME              what is wrong with it, and what comes next?",
        "supervisor logs NAME             what has it printed?",
        "supervisor stop                  drain everything and leave",
        title="To begin",
    ),
)
@click.version_option(__version__, prog_name="workers-supervisor", message="%(prog)s %(version)s")
@conf
def cli() -> None:
    """Run the jobs of a configuration file, each in processes of its own, and keep them running.

    NAME is a job (orders), one process of it (orders:0) or a pattern ('order*'). No NAME means the
    whole supervisor.
    """


@cli.command(
    short_help="Run the supervisor, or start stopped jobs of the running one.",
    epilog=examples(
        "supervisor start --conf etc/workers.ini",
        "supervisor start --daemonize",
        "supervisor start billing 'order*'",
    ),
)
@names_argument
@click.option("--daemonize", is_flag=True, help="Go to the background; return once ready.")
@click.option(
    "--mode",
    type=click.Choice(["standalone"]),
    help="Run a configuration of [worker] mode = embedded by itself.",
)
@conf
@pass_invocation
def start(
    invocation: Invocation, names: tuple[str, ...], daemonize: bool, mode: str | None
) -> int | None:
    """Run the supervisor; with NAMEs, start stopped jobs of the running one."""
    if names:
        if daemonize or mode:
            raise UsageError("--daemonize and --mode are for the whole supervisor, without a NAME")
        with invocation.client() as client:
            client.start(names)
            print_done(client.status(names)["processes"], "started")
        return None
    from supervisor import launch

    standalone = mode == "standalone"
    if not daemonize:
        return launch.start(invocation.path, standalone=standalone)

    def slow() -> None:
        command = f"supervisor status{invocation.suffix}"
        complain(f"not ready yet, still waiting; `{command}` tells for what", prefix="")

    code, message = launch.start_daemon(invocation.path, slow, standalone=standalone)
    if message:
        complain(message, prefix="" if code == ExitCode.CONFIG else "supervisor: ")
    if code in (ExitCode.OK, ExitCode.FAILED):
        # Nobody is there when its file has disabled it, or when it has failed for good.
        with suppress(NotRunning), invocation.client() as client:
            found = client.status()
            if code == ExitCode.OK and not found["master"]["ready"]:
                click.echo("was ready, now ", nl=False)  # the code is 0: it has been
            print_status(found, invocation, check=code == ExitCode.OK)
    return code


@cli.command(
    short_help="Drain everything and leave, or stop some jobs.",
    epilog=examples(
        "supervisor stop",
        "supervisor stop --timeout 10s",
        "supervisor stop billing:1",
    ),
)
@names_argument
@click.option("--timeout", metavar="S", help="Kill what has not drained after S (30s, 2m).")
@as_json
@conf
@pass_invocation
def stop(
    invocation: Invocation, names: tuple[str, ...], timeout: str | None, as_json: bool
) -> ExitCode:
    """Drain everything and leave; with NAMEs, stop only those and stay.

    Returns when the master and every process are gone, also those that a dead master has left.
    Exit code 1 when anything had to be killed.
    """
    timeout_s = duration(timeout, "--timeout")
    if names:
        with invocation.client() as client:
            report = client.stop(names, timeout_s)
    else:
        from supervisor import launch

        report = launch.stop(invocation.location(), timeout_s, invocation.start_hint())
    if as_json:
        print_json(report)
    else:
        from supervisor import render

        print_lines(render.stop_lines(report))
    return ExitCode.FAILED if report["killed"] else ExitCode.OK


@cli.command(
    short_help="Restart jobs, one process after the other.",
    epilog=examples("supervisor restart orders", "supervisor restart"),
)
@names_argument
@conf
@pass_invocation
def restart(invocation: Invocation, names: tuple[str, ...]) -> None:
    """Restart jobs, one process after the other; without NAME every job. The master stays.

    The next process is touched only when the former is ready again, and none after one that does
    not get ready (exit code 1). What was stopped on purpose is started only when it is named.
    """
    with invocation.client() as client:
        done = client.restart(names)
        chosen = tuple(done["names"])
        print_done(client.status(chosen)["processes"] if chosen else [], "restarted")
    if note := done.get("note"):
        click.echo(note, err=True)


@cli.command(
    short_help="Show how the supervisor and its processes are.",
    epilog=examples(
        "supervisor status",
        "supervisor status 'order*' --json",
        "supervisor status --check          for health checks",
        "supervisor status --watch",
    ),
)
@names_argument
@click.option("--check", is_flag=True, help="One line; exit code 1 when not ready.")
@click.option("--watch", is_flag=True, help="Again each second; q or Ctrl-C ends it.")
@as_json
@conf
@pass_invocation
def status(
    invocation: Invocation, names: tuple[str, ...], check: bool, watch: bool, as_json: bool
) -> ExitCode:
    """Show how the supervisor and its processes are. Exit code 3 when it is not running.

    --watch draws in place on a terminal; in a pipe one follows the other, with --json each on a
    line of its own.
    """
    if watch:
        if check:
            raise UsageError("--check is one look, --watch goes on: use one of them")
        from supervisor.insight_commands import watch_status

        watch_status(invocation, names, as_json)
        return ExitCode.OK
    with invocation.client() as client:
        found = client.status(names)
    partial = bool(names)
    if as_json:
        print_json(found)
    else:
        print_status(found, invocation, partial=partial, check=check)
    is_ready = protocol.is_ready(found, partial=partial)
    return ExitCode.FAILED if check and not is_ready else ExitCode.OK


@cli.command(epilog=examples("supervisor version"))
@as_json
@conf
def version(as_json: bool) -> None:
    """Show the version of this program."""
    python = ".".join(map(str, sys.version_info[:3]))
    if as_json:
        print_json({"version": __version__, "python": python})
    else:
        click.echo(f"workers-supervisor {__version__} (Python {python})")


def run() -> int:
    """Read the words of the command line and do what they say; returns the exit code.

    Raises: the errors of `supervisor.errors`, which `entry` shows.
    """
    try:
        return int(cli.main(prog_name="supervisor", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
