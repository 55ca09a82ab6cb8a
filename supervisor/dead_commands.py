"""The commands of dead letters: `dead list`, `dead show`, `dead replay`, `dead purge`.

One choice of letters serves all four, so that an operator can look before acting. They work with
the supervisor down; what they do is in `workers.commands`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from supervisor import workers_commands
from supervisor.console import (
    Group,
    Invocation,
    as_json,
    conf,
    confirmed,
    examples,
    pass_invocation,
    print_json,
    print_lines,
    print_table,
    yes,
)
from supervisor.errors import UsageError
from supervisor.letters import Choice

Command = TypeVar("Command", bound=Callable[..., Any])


def _full(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty text: it would mean everything, where a variable of a script was unset."""
    if value == "":
        raise UsageError(f"{option.opts[0]} is empty; leave it out for all")
    return value


def _choice(limit: int | None) -> Callable[[Command], Command]:
    """Let a command take the options that choose letters, as one `choice` of them."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def choosing(
            *,
            topic: str,
            message_id: str | None,
            where: str | None,
            limit: int | None,
            **others: object,
        ) -> object:
            return command(choice=Choice(topic, message_id, where, limit), **others)

        chosen = cast("Command", choosing)
        for option in (
            click.option(
                "--limit",
                metavar="N",
                type=click.IntRange(min=1, max=1_000_000_000),
                default=limit,
                show_default=limit is not None,
                help="How many at most, the newest first.",
            ),
            click.option(
                "--where",
                metavar="TEXT",
                callback=_full,
                help="Only with TEXT in the error or the data.",
            ),
            click.option(
                "--id", "message_id", metavar="ID", callback=_full, help="Only with this id."
            ),
        ):
            chosen = option(chosen)
        return click.argument("topic")(chosen)

    return decorate


@click.group(
    cls=Group,
    order=("list", "show", "replay", "purge"),
    short_help="Look at messages that were given up; put back or delete.",
)
@conf
def dead() -> None:
    """Look at the dead letters, messages that were given up; put them back or delete them."""


@dead.command(
    "list",
    epilog=examples(
        "supervisor dead list order.reminder",
        "supervisor dead list order.reminder --where Timeout",
    ),
)
@_choice(100)
@as_json
@conf
@pass_invocation
def dead_list(invocation: Invocation, choice: Choice, as_json: bool) -> None:
    """Show the dead letters of a topic, a line each."""
    config = workers_commands.configuration(invocation)
    rows = workers_commands.load().dead_list(config, choice)
    if as_json:
        print_json(rows)
    else:
        from supervisor import render

        print_table(render.dead_table(rows))


@dead.command("show", epilog=examples("supervisor dead show order.reminder --id order-17"))
@_choice(1)
@as_json
@conf
@pass_invocation
def dead_show(invocation: Invocation, choice: Choice, as_json: bool) -> None:
    """Show dead letters whole: data, error, traceback and history. Without --id, the newest."""
    config = workers_commands.configuration(invocation)
    letters = workers_commands.load().dead_show(config, choice)
    if as_json:
        # With an id it is that one letter, and no list of one.
        print_json(letters[0] if choice.message_id is not None else letters)
        return
    from supervisor import render

    for number, letter in enumerate(letters):
        print_lines([""] if number else [])
        print_lines(render.dead_letter(letter))


@dead.command(
    "replay",
    short_help="Put dead letters back on the topics they came from.",
    epilog=examples(
        "supervisor dead replay order.reminder",
        "supervisor dead replay order.reminder --where Timeout --limit 10",
    ),
)
@_choice(None)
@as_json
@conf
@pass_invocation
def dead_replay(invocation: Invocation, choice: Choice, as_json: bool) -> None:
    """Put dead letters back on the topics they came from, as if never tried.

    Each is put back once, whole, or stays where it is.
    """
    config = workers_commands.configuration(invocation)
    result = workers_commands.load().dead_replay(config, choice)
    if as_json:
        print_json(result)
    else:
        from supervisor.render import amount

        print_lines([f"put back {amount(result['replayed'], 'dead letter')} of {choice.topic}"])


@dead.command(
    "purge",
    epilog=examples("supervisor dead purge order.reminder --where 'no such order'"),
)
@_choice(None)
@yes
@as_json
@conf
@pass_invocation
def dead_purge(invocation: Invocation, choice: Choice, yes: bool, as_json: bool) -> None:
    """Delete dead letters for good."""
    from supervisor.render import amount

    def confirm(count: int) -> None:
        confirmed(f"Delete {amount(count, 'dead letter')} of {choice.topic} for good?")

    config = workers_commands.configuration(invocation)
    result = workers_commands.load().dead_purge(config, choice, None if yes else confirm)
    if as_json:
        print_json(result)
    else:
        print_lines([f"deleted {amount(result['purged'], 'dead letter')} of {choice.topic}"])
