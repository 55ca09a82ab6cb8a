"""`supervisor check`: what is wrong with a configuration, and with --show what it means.

Reads and imports, starts and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from supervisor import protocol
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
)
from supervisor.errors import ExitCode, UsageError

if TYPE_CHECKING:
    # Only for the reader: they bring the whole configuration.
    from supervisor.effective import Part
    from supervisor.errors import Problem
    from supervisor.launch import Checked


@click.command(
    short_help="Read the configuration and import every handler; change nothing.",
    epilog=examples(
        "supervisor check --conf etc/workers.ini",
        "supervisor check --show",
        "supervisor check --show billing --json",
    ),
)
@names_argument
@click.option("--show", is_flag=True, help="Print the effective values, and where each stands.")
@as_json
@conf
@pass_invocation
def check(invocation: Invocation, names: tuple[str, ...], show: bool, as_json: bool) -> ExitCode:
    """Read the configuration and import every handler, without starting or changing anything.

    Tells all errors at once, each with file and line; exit code 78 when there is one, and 69 when
    a server that is needed cannot be used. With --show
    also each value of the supervisor and of its jobs (of NAME only, where one is given) with the
    file and line that it comes from; secrets are masked.
    """
    from supervisor import effective, launch, workers_commands

    if names and not show:
        raise UsageError("check is about the whole configuration; --show NAME prints one job")
    found = launch.check(invocation.path)
    lost: tuple[Problem, ...] = ()
    if found.config is not None and not found.errors:
        servers = workers_commands.load().servers(found.config)
        lost = servers.lost
        warnings = (*found.warnings, *servers.warnings)
        found = replace(found, errors=servers.wrong, warnings=warnings)
    parts = None
    if show and found.config is not None:
        parts = effective.parts(found.config, invocation.path, names)
    if as_json:
        print_json(_shape(found, lost, parts))
    else:
        _print(found, lost, parts or [])
    if found.errors:
        return ExitCode.CONFIG
    return ExitCode.UNAVAILABLE if lost else ExitCode.OK


def _shape(
    found: Checked, lost: tuple[Problem, ...], parts: list[Part] | None
) -> dict[str, object]:
    from supervisor import launch

    shape: dict[str, object] = {
        "ok": not (found.errors or lost),
        "errors": [protocol.problem(problem) for problem in found.errors],
        "warnings": [protocol.problem(problem) for problem in found.warnings],
        "unreachable": [protocol.problem(problem) for problem in lost],
        "jobs": [launch.job_shape(job) for job in found.jobs],
    }
    if parts is not None:
        shape["settings"] = {
            part.section: {
                one.key: {"value": one.value, "file": one.file, "line": one.line}
                for one in part.values
            }
            for part in parts
        }
    return shape


def _print(found: Checked, lost: tuple[Problem, ...], parts: list[Part]) -> None:
    from supervisor import render

    for part in parts:
        print_lines([f"[{part.section}]", *_table(part), ""])
    for problem in (*found.errors, *lost):
        complain(str(problem), prefix="")
    for problem in found.warnings:
        complain(render.warning_line(problem), prefix="")
    counts = (len(found.jobs), len(found.files), len(found.errors) + len(lost), len(found.warnings))
    click.echo(render.check_verdict(*counts))


def _table(part: Part) -> list[str]:
    """Draw the values; they stand last, as they are as long as they like."""
    from supervisor.columns import grid

    rows: list[tuple[str, str, str]] = []
    for one in part.values:
        place = "default" if one.file is None else f"{one.file}:{one.line}"
        first, *more = (one.value if one.value is not None else "-").split("\n")
        rows += [(one.key, place, first), *(("", "", line) for line in more)]
    return [f"  {line}" for line in grid(("KEY", "FROM", "VALUE"), rows)]
