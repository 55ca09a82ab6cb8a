"""The shipped example: the message handlers of a shop's gateway, on a SQLite database of its own.

Two topics of the five (`order.reminder`, `user.notification`) and what to do with an unknown one;
`cleanup` is a `scheduled` job, `Heartbeat` a `worker`. They do real work, so that a fresh machine
shows all of it without any server: reminders and notifications end up as rows. Each message is
handled once, however often it is delivered: its id is the key of its row.

The database is `option.database`, a path.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from workers.base import Context, Message, Reject, Skip, Worker

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS users (
        user_id TEXT PRIMARY KEY, wants_mail INTEGER NOT NULL DEFAULT 1
    );
    CREATE TABLE IF NOT EXISTS orders (
        order_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'open'
    );
    CREATE TABLE IF NOT EXISTS sent (
        message_id TEXT PRIMARY KEY, kind TEXT NOT NULL, user_id TEXT NOT NULL,
        text TEXT NOT NULL, at TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS sent_at ON sent (at);
"""

_KEEP_DAYS: Final = "30"
_BUSY_S: Final = 5.0


def order_reminder(message: Message, context: Context) -> None:
    """Remind a user of an order: `{"order_id", "user_id", "type"?, "message"?, "amount"?}`.

    Raises: Reject without order and user; Skip when the order is paid or cancelled.
    """
    order_id, user_id = _needed(message, "order_id"), _needed(message, "user_id")
    text = str(message.data.get("message") or f"order {order_id} waits for its payment")
    with _database(context) as database:
        database.execute("INSERT OR IGNORE INTO users (user_id) VALUES (?)", (user_id,))
        database.execute(
            "INSERT OR IGNORE INTO orders (order_id, user_id) VALUES (?, ?)", (order_id, user_id)
        )
        (state,) = database.execute(
            "SELECT state FROM orders WHERE order_id = ?", (order_id,)
        ).fetchone()
        if state != "open":
            raise Skip(f"order {order_id} is {state}")
        is_new = _send(database, message, str(message.data.get("type", "reminder")), user_id, text)
    _tell(context, "order reminder sent", message, is_new, order_id=order_id, user_id=user_id)


def user_notification(message: Message, context: Context) -> None:
    """Notify a user: `{"user_id", "title", "body"?}`.

    Raises: Reject without user and title; Skip when the user wants no mail.
    """
    user_id, title = _needed(message, "user_id"), _needed(message, "title")
    text = f"{title}: {message.data['body']}" if message.data.get("body") else title
    with _database(context) as database:
        database.execute("INSERT OR IGNORE INTO users (user_id) VALUES (?)", (user_id,))
        (wanted,) = database.execute(
            "SELECT wants_mail FROM users WHERE user_id = ?", (user_id,)
        ).fetchone()
        if not wanted:
            raise Skip(f"user {user_id} wants no mail")
        is_new = _send(database, message, "notification", user_id, text)
    _tell(context, "user notification sent", message, is_new, user_id=user_id)


def unhandled(message: Message, context: Context) -> None:
    """Say that nobody knows what to do with a topic; the message counts as handled."""
    context.logger.warning(
        "unhandled message", extra={"topic": message.topic, "message_id": message.id}
    )


def cleanup(context: Context) -> None:
    """Delete what was sent more than `option.keep_days` ago; for a `scheduled` job."""
    keep = timedelta(days=int(context.options.get("keep_days", _KEEP_DAYS)))
    before = (datetime.now(UTC) - keep).isoformat()
    with _database(context) as database:
        deleted = database.execute("DELETE FROM sent WHERE at < ?", (before,)).rowcount
    context.logger.info("cleanup done", extra={"deleted": deleted, "before": before})


class Heartbeat(Worker):
    """A `worker` that says each `option.every` seconds how much was sent; shows the class's life.

    It beats, so a hang of its loop would be noticed within `heartbeat_timeout`.
    """

    def setup(self) -> None:
        """Read the options; a wrong one is a failed start."""
        self.every_s = float(self.context.options.get("every", "60"))

    def run(self, context: Context) -> None:
        """Look at the database until the stop."""
        while not context.stopping:
            context.beat()
            with _database(context) as database:
                (sent,) = database.execute("SELECT count(*) FROM sent").fetchone()
            context.logger.info("sent so far", extra={"sent": sent})
            context.wait(self.every_s)


def _needed(message: Message, name: str) -> str:
    """Give a field that the message cannot do without, as text."""
    value = message.data.get(name) if isinstance(message.data, Mapping) else None
    if value is None or value == "":
        raise Reject(f"{message.topic} needs {name}")
    return str(value)


def _send(
    database: sqlite3.Connection, message: Message, kind: str, user_id: str, text: str
) -> bool:
    """Write what a mail server would be given. False: it was, by an earlier delivery."""
    cursor = database.execute(
        "INSERT OR IGNORE INTO sent (message_id, kind, user_id, text, at) VALUES (?, ?, ?, ?, ?)",
        (message.id, kind, user_id, text, datetime.now(UTC).isoformat()),
    )
    return cursor.rowcount == 1


def _tell(context: Context, what: str, message: Message, is_new: bool, **about: str) -> None:
    words = what if is_new else f"{what} before, this is the same message again"
    context.logger.info(words, extra={"message_id": message.id, **about})


@contextmanager
def _database(context: Context) -> Iterator[sqlite3.Connection]:
    """Open the example's database for one transaction; it is made where it is missing."""
    path = Path(context.options.get("database", "gateway.db"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
