"""The commands of queues and dead letters: `publish`, `queue list`, `dead list`, `dead show`.

They work with the supervisor down. What they know of queues is in `workers.commands`, which is
loaded by name when one is called: the parent's package never imports the workers' statically. Other
imports stand inside the functions as well; `cli` says why.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

import click

from supervisor.console import (
    Group,
    Invocation,
    as_json,
    conf,
    duration,
    examples,
    pass_invocation,
    print_json,
    print_lines,
)
from supervisor.errors import UsageError

if TYPE_CHECKING:
    # Only for the reader: the short commands do without the whole configuration.
    from supervisor.config import Config
    from supervisor.protocol import DeadLetter, QueueStatus


class _Commands(Protocol):
    """What `workers.commands` offers."""

    def publish(
        self,
        config_path: Path,
        topic: str,
        payloads: Iterable[object],
        delay_s: float,
        message_id: str | None,
        url: str | None,
    ) -> list[str]:
        """Put messages on a queue; give their ids."""
        ...

    def queue_list(self, config: Config) -> list[QueueStatus]:
        """Look at every queue of the configuration."""
        ...

    def dead_list(self, config: Config, topic: str, *, limit: int) -> list[DeadLetter]:
        """Look at the dead letters of a topic."""
        ...

    def dead_show(self, config: Config, topic: str, message_id: str) -> dict[str, object]:
        """Look at one of them."""
        ...


@click.command(
    short_help="Put a message on a queue; no supervisor has to run.",
    epilog=examples(
        """supervisor publish order.reminder '{"order_id": 1}'""",
        """supervisor publish order.reminder --delay 10m '{"order_id": 1}'""",
        "supervisor publish order.reminder < orders.jsonl",
    ),
)
@click.argument("topic")
@click.argument("payload", metavar="[JSON]", required=False)
@click.option("--delay", metavar="D", help="Deliver after D (30s, 10m), not at once.")
@click.option("--id", "message_id", metavar="ID", help="The id of the message.  [default: random]")
@click.option("--url", metavar="URL", help="The queue.  [default: that of the job with TOPIC]")
@conf
@pass_invocation
def publish(
    invocation: Invocation,
    topic: str,
    payload: str | None,
    delay: str | None,
    message_id: str | None,
    url: str | None,
) -> None:
    """Put a message on a queue and print its id; no supervisor has to run.

    Without JSON, every line of the standard input is a message.
    """
    delay_s = duration(delay, "--delay") or 0.0
    if message_id == "":
        raise UsageError("--id is empty; leave it out for a random one")
    if url is not None:
        _check_topic(topic)
    payloads = _payloads(payload)
    if message_id is not None and len(payloads) > 1:
        raise UsageError("--id is for one message, and here are more")
    ids = _workers_commands().publish(invocation.path, topic, payloads, delay_s, message_id, url)
    print_lines(map(str, ids))


@click.group(cls=Group, later=("pause", "resume", "purge"))
@conf
def queue() -> None:
    """Look at the queues of the configuration's jobs."""


@queue.command("list", epilog=examples("supervisor queue list"))
@as_json
@conf
@pass_invocation
def queue_list(invocation: Invocation, as_json: bool) -> None:
    """Show how much waits in each queue, is in work, and is dead."""
    rows = _workers_commands().queue_list(_config(invocation))
    if as_json:
        print_json(rows)
    else:
        from supervisor import render

        print_lines(render.queue_table(rows))


@click.group(cls=Group, later=("replay", "purge"))
@conf
def dead() -> None:
    """Look at the dead letters: messages that were given up."""


@dead.command("list", epilog=examples("supervisor dead list order.reminder"))
@click.argument("topic")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many at most.",
)
@as_json
@conf
@pass_invocation
def dead_list(invocation: Invocation, topic: str, limit: int, as_json: bool) -> None:
    """Show the dead letters of a topic."""
    rows = _workers_commands().dead_list(_config(invocation), topic, limit=limit)
    if as_json:
        print_json(rows)
    else:
        from supervisor import render

        print_lines(render.dead_table(rows))


@dead.command("show", epilog=examples("supervisor dead show order.reminder --id 5f0c"))
@click.argument("topic")
@click.option("--id", "message_id", metavar="ID", required=True, help="The id of the message.")
@as_json
@conf
@pass_invocation
def dead_show(invocation: Invocation, topic: str, message_id: str, as_json: bool) -> None:
    """Show one dead letter: its data, error, traceback and history."""
    letter = _workers_commands().dead_show(_config(invocation), topic, message_id)
    if as_json:
        print_json(letter)
    else:
        from supervisor import render

        print_lines(render.dead_letter(letter))


def _check_topic(topic: str) -> None:
    """Refuse a name that no job could ever list; without --url the jobs' own names decide."""
    from supervisor import values

    try:
        good = values.topic_name(topic) == topic
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{topic!a} is no topic name; letters, digits, _ . - and at most 200")


def _payloads(text: str | None) -> list[object]:
    """Give the messages to publish; all are read before the first is sent."""
    if text is not None:
        return [_parsed(text, "the message")]
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("what is the message? Give JSON, or pipe in one JSON a line")
    return list(_parsed_lines(sys.stdin))


def _parsed_lines(lines: Iterable[str]) -> Iterator[object]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parsed(line, f"line {number} of the input (nothing was published)")


def _parsed(text: str, what: str) -> object:
    try:
        value: object = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}; a text needs quotes: '\"text\"'") from None
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is a word of Python's, and no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is more than a number can hold")
    return number


def _workers_commands() -> _Commands:
    from importlib import import_module

    return cast("_Commands", import_module("workers.commands"))


def _config(invocation: Invocation) -> Config:
    from supervisor.config import load

    return load(invocation.path)
