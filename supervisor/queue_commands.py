"""The commands of queues: `publish`, `queue list`, `queue pause`, `queue resume`, `queue purge`.

They work with the supervisor down. What they know of queues is in `workers.commands`; see
`workers_commands`. Imports stand inside the functions where they can; `cli` says why.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

import click

from supervisor import workers_commands
from supervisor.console import (
    Group,
    Invocation,
    as_json,
    conf,
    confirmed,
    duration,
    examples,
    pass_invocation,
    print_json,
    print_lines,
    print_table,
    yes,
)
from supervisor.errors import UsageError
from supervisor.shapes import QueueStatus


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
    ids = workers_commands.load().publish(
        invocation.path, topic, payloads, delay_s, message_id, url
    )
    print_lines(map(str, ids))


@click.group(
    cls=Group,
    order=("list", "pause", "resume", "purge"),
    short_help="Look at queues; pause, resume or empty one.",
)
@conf
def queue() -> None:
    """Look at the queues of the configuration's jobs; pause or empty one."""


@queue.command("list", epilog=examples("supervisor queue list"))
@as_json
@conf
@pass_invocation
def queue_list(invocation: Invocation, as_json: bool) -> None:
    """Show how much waits in each queue, is in work, and is dead."""
    rows = workers_commands.load().queue_list(workers_commands.configuration(invocation))
    if as_json:
        print_json(rows)
    else:
        from supervisor import render

        print_table(render.queue_table(rows))


@queue.command("pause", epilog=examples("supervisor queue pause order.reminder"))
@click.argument("topic")
@as_json
@conf
@pass_invocation
def queue_pause(invocation: Invocation, topic: str, as_json: bool) -> None:
    """Let no consumer take from a topic, until it is resumed.

    What is in flight is finished. The pause lies in the queue itself: it counts for every
    supervisor that shares the queue, and survives them all.
    """
    config = workers_commands.configuration(invocation)
    _print_topic(workers_commands.load().queue_pause(config, topic), as_json)


@queue.command("resume", epilog=examples("supervisor queue resume order.reminder"))
@click.argument("topic")
@as_json
@conf
@pass_invocation
def queue_resume(invocation: Invocation, topic: str, as_json: bool) -> None:
    """Undo `queue pause`."""
    config = workers_commands.configuration(invocation)
    _print_topic(workers_commands.load().queue_resume(config, topic), as_json)


@queue.command("purge", epilog=examples("supervisor queue purge order.reminder"))
@click.argument("topic")
@yes
@as_json
@conf
@pass_invocation
def queue_purge(invocation: Invocation, topic: str, yes: bool, as_json: bool) -> None:
    """Delete for good all that waits on a topic, delayed messages too.

    What is in flight stays, and so do dead letters.
    """
    config, commands = workers_commands.configuration(invocation), workers_commands.load()
    if not yes and (waiting := commands.queue_waiting(config, topic)):
        from supervisor.render import amount

        confirmed(f"Delete {amount(waiting, 'message')} of {topic} for good?")
    result = commands.queue_purge(config, topic)
    if as_json:
        print_json(result)
    else:
        from supervisor.render import amount

        print_lines([f"deleted {amount(result['purged'], 'message')} of {topic}"])


def _print_topic(rows: list[QueueStatus], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        from supervisor import render

        print_lines(render.topic_lines(rows))


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
