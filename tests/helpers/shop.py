"""Handlers for tests: what they do is told by the data, and what they did by a journal file.

The journal is a file named by `option.journal`; each line is one write, `WORD ID PID`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.config import Job
from supervisor.secret import Secret
from tests.helpers.forked import queue_job
from workers import Context, Message, Reject, Retry, Skip, Unavailable

_NEVER = threading.Event()


class Journal:
    """Reads what the handlers have written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        """Give each whole line as its words."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    def counts(self, word: str) -> Counter[str]:
        """Count the ids of the lines with that word."""
        return Counter(line[1] for line in self.lines() if line[0] == word)


def job(url: str, journal: Path, handler: str = "handle", **more: Any) -> Job:
    """Give a queue job with these handlers; `gate` is a path beside the journal."""
    options = {"journal": Secret((str(journal),)), "gate": Secret((str(journal) + ".gate",))}
    more = {"retry_backoff": 0.05, "retry_backoff_max": 0.2} | more
    return queue_job(url, f"{__name__}:{handler}", options=options, **more)


def open_gate(journal: Path) -> None:
    """Let all handlers go on that wait at the gate."""
    Path(str(journal) + ".gate").touch()


def write(context: Context, word: str, what: object) -> None:
    """Append one line to the journal, in one write."""
    fd = os.open(context.options["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {what} {os.getpid()}\n".encode())
    os.close(fd)


class Speechless(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        """Fail at it."""
        raise RuntimeError("no words")


def handle(message: Message, context: Context) -> None:
    """Do what the data says; plain data is simply handled."""
    write(context, "begin", message.id)
    orders = message.data if isinstance(message.data, Mapping) else {}
    _wait(orders, context)
    if orders.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if message.attempt <= orders.get("fail", 0):
        raise ValueError(f"failure {message.attempt}")
    if orders.get("fork"):
        if not (pid := os.fork()):
            raise ValueError("in the fork")
        os.waitpid(pid, 0)
    if orders.get("speechless"):
        raise Speechless
    if orders.get("unwritable"):
        raise ValueError(os.fsdecode(b"\xff"))
    if "raise" in orders and message.attempt == 1:
        raise {"skip": Skip("why"), "reject": Reject("why"), "retry": Retry("why", after=0.05)}[
            orders["raise"]
        ]
    write(context, "end", message.id)


def _never_end() -> None:
    while True:
        _NEVER.wait(1)


def _wait(orders: Mapping[str, Any], context: Context) -> None:
    if "wait" in orders:
        _NEVER.wait(orders["wait"])
    if orders.get("gate"):
        while not Path(context.options["gate"]).exists():
            _NEVER.wait(0.005)
    if orders.get("for_ever"):
        _never_end()
    if orders.get("until_overdue"):
        context.stop.wait(60)
    if "needs" in orders and not Path(context.options["gate"]).exists():
        raise {"unavailable": Unavailable("shop"), "refused": ConnectionRefusedError("no")}[
            orders["needs"]
        ]
    if orders.get("until_stop"):
        context.stop.wait(60)
        raise OSError("the stop broke it")


class Packer:
    """Handles batches; in the journal each batch is one `batch` line with the ids of its members.

    Data with `spoil` makes every batch fail that it is in, as often as it says; `word` settles it
    alone, by what is returned.
    """

    def handle_batch(self, messages: list[Message], context: Context) -> object:
        """Do what the data of each member says."""
        write(context, "batch", "+".join(message.id for message in messages))
        results: list[Exception | None] = []
        for message in messages:
            orders = message.data if isinstance(message.data, Mapping) else {}
            _wait(orders, context)
            if orders.get("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if message.attempt <= orders.get("spoil", 0):
                raise ValueError(f"spoiled by {message.id}")
            word = orders.get("word")
            results.append({"skip": Skip("why"), "reject": Reject("why")}.get(word))
        for message in messages:
            write(context, "end", message.id)
        return results


class Shop:
    """The same as a class, with its open and close in the journal."""

    def open(self, context: Context) -> None:
        """Keep the context for close."""
        self.context = context
        write(context, "open", "-")

    def handle(self, message: Message, context: Context) -> None:
        """Handle as the function does."""
        handle(message, context)

    def close(self) -> None:
        """Say so."""
        write(self.context, "close", "-")
