"""`supervisor init`: something to begin with, out of nothing or from another supervisor's file.

`blueprint` writes what works at once. What is understood of other formats is in `importers`;
`importing` reads and writes the files.
"""

from __future__ import annotations

from pathlib import Path

import click

from supervisor.check_command import check
from supervisor.console import Invocation, conf, examples, pass_invocation, print_next
from supervisor.errors import ExitCode


@click.command(
    short_help="Write a configuration to begin with.",
    epilog=examples(
        "supervisor init shop",
        "supervisor init shop --from /etc/supervisor/supervisord.conf",
        "supervisor init shop --from Procfile",
        "supervisor init shop --from ecosystem.json",
    ),
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take over supervisord.conf, a Procfile or PM2's ecosystem.json.",
)
@conf
@pass_invocation
@click.pass_context
def init(
    context: click.Context, invocation: Invocation, folder: Path, source: Path | None
) -> ExitCode:
    """Write DIR/workers.ini, with handlers and a systemd unit; no file is ever overwritten.

    What it writes works as it is: a queue, a scheduled function and a loop.

    With --from, every program of another supervisor's configuration becomes a job; what has no
    counterpart stands there as a comment with the reason. The end is what `check` says of it.
    """
    if source is None:
        return begin(invocation, folder)
    return import_from(context, invocation, folder, source)


def begin(invocation: Invocation, folder: Path) -> ExitCode:
    """Write what works at once, and tell how to go on."""
    from supervisor import blueprint

    written = blueprint.write(folder)
    for path in (written.conf, *written.others):
        click.echo(f"wrote {path}")
    invocation.named = written.conf
    print_next("supervisor check", invocation)
    return ExitCode.OK


def import_from(
    context: click.Context, invocation: Invocation, folder: Path, source: Path
) -> ExitCode:
    """Import a configuration into a folder, tell what was done, and check the result."""
    from supervisor.importing import import_into

    done = import_into(folder, source)
    jobs, remarks = _counted(done.jobs, "job"), _counted(done.remarks, "remark")
    click.echo(f"wrote {done.path}: {jobs}; {remarks} in its comments")
    invocation.named = done.path
    return ExitCode(context.invoke(check, names=(), show=False, as_json=False))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
