"""Handlers of two topics of Kafka; what they know of users and orders is in `option.database`.

A message may come twice, so each call writes down what is, and not what is added to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from workers import Context, Message, Reject, Skip

_TABLES = """
CREATE TABLE IF NOT EXISTS users (user_id TEXT PRIMARY KEY, is_here INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY, user_id TEXT, status TEXT NOT NULL);
"""


def user_event(message: Message, context: Context) -> None:
    """Take in that a user has come or gone: `{"user_id", "event"}`."""
    user_id, event = _needed(message, "user_id", "event")
    if event not in ("registered", "left"):
        # A business error: nothing will be better the next time.
        raise Skip(f"nothing follows from {event}")
    with _database(context) as database:
        row = (user_id, event == "registered")
        database.execute("INSERT OR REPLACE INTO users VALUES (?, ?)", row)
    context.count(f"users_{event}")
    context.logger.info("user event", extra={"user_id": user_id, "event": event})


def order_event(message: Message, context: Context) -> None:
    """Take in the state of an order: `{"order_id", "user_id", "status"}`."""
    order_id, user_id, status = _needed(message, "order_id", "user_id", "status")
    with _database(context) as database:
        row = (order_id, user_id, status)
        database.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?)", row)
    context.logger.info("order event", extra={"order_id": order_id, "status": status})


def report(context: Context) -> None:
    """Say how many users and orders there are."""
    with _database(context) as database:
        [(users,)] = database.execute("SELECT count(*) FROM users WHERE is_here")
        [(orders,)] = database.execute("SELECT count(*) FROM orders")
    context.logger.info("%d users, %d orders", users, orders)


@contextmanager
def _database(context: Context) -> Iterator[sqlite3.Connection]:
    """Give a connection for one transaction; several processes write here."""
    path = Path(context.options["database"])
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as database:
        database.executescript(_TABLES)
        with database:
            yield database


def _needed(message: Message, *names: str) -> list[str]:
    """Give the fields that the message cannot do without, as text."""
    data = message.data if isinstance(message.data, Mapping) else {}
    if missing := [name for name in names if data.get(name) in (None, "")]:
        raise Reject(f"{message.topic} needs {', '.join(missing)}")
    return [str(data[name]) for name in names]
