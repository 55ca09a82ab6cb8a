"""The shipped example: the message handlers of a shop's gateway, on a SQLite database of its own.

Five topics (`order.reminder`, `user.notification`, `system.cleanup`, `payment.retry`,
`inventory.alert`) and what to do with an unknown one; `cleanup` is a `scheduled` job, `Heartbeat` a
`worker`, `Ants` empties a table. They do real work, so that a fresh machine shows all of it without
any server: what is sent, paid and ordered ends up as rows. Each message is handled once, however
often it is delivered: its id, or that of its payment, is the key of its row.

The database is `option.database`, a path.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from workers.base import Context, Message, Reject, Retry, Skip, Worker

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
    CREATE TABLE IF NOT EXISTS accounts (
        user_id TEXT PRIMARY KEY, cents INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE IF NOT EXISTS payments (
        payment_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, user_id TEXT NOT NULL,
        cents INTEGER NOT NULL, at TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS stock (
        product_id TEXT PRIMARY KEY, pieces INTEGER NOT NULL, is_short INTEGER NOT NULL,
        at TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS ants (
        id INTEGER PRIMARY KEY, user_id TEXT, text TEXT, status TEXT NOT NULL DEFAULT 'pending'
    );
    CREATE INDEX IF NOT EXISTS ants_pending ON ants (id) WHERE status = 'pending';
"""

_KEEP_DAYS: Final = "30"
_PAYMENT_TRIES: Final = "5"
_PAYMENT_PAUSE_S: Final = "60"
_THRESHOLD: Final = 10
_BUYER: Final = "warehouse"
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


def system_cleanup(message: Message, context: Context) -> None:
    """Delete what was sent long ago: `{"keep_days"?}`, else as `option.keep_days` says.

    Raises: Reject for a number of days that is none.
    """
    given = message.data.get("keep_days") if isinstance(message.data, Mapping) else None
    days = context.options.get("keep_days", _KEEP_DAYS) if given is None else given
    _clean(context, _whole(message, "keep_days", days))


def payment_retry(message: Message, context: Context) -> None:
    """Take what an order costs from its user's account.

    `{"order_id", "user_id", "amount", "payment_id"?}`. An account that has too little is looked at
    again after `option.payment_pause` seconds, doubled each time, `option.payment_tries` times in
    all.
    Raises: Reject without order, user or amount, and after the last look; Skip when it was paid.
    """
    order_id, user_id = _needed(message, "order_id"), _needed(message, "user_id")
    cents = _cents(message)
    payment_id = str(message.data.get("payment_id") or order_id)
    with _database(context) as database:
        database.execute("INSERT OR IGNORE INTO accounts (user_id) VALUES (?)", (user_id,))
        paid = database.execute("SELECT 1 FROM payments WHERE payment_id = ?", (payment_id,))
        if paid.fetchone():
            raise Skip(f"payment {payment_id} was made before")
        taken = database.execute(
            "UPDATE accounts SET cents = cents - ? WHERE user_id = ? AND cents >= ?",
            (cents, user_id, cents),
        )
        if not taken.rowcount:
            raise _again(message, context, f"the account of user {user_id} has too little")
        database.execute(
            "INSERT INTO payments (payment_id, order_id, user_id, cents, at)"
            " VALUES (?, ?, ?, ?, ?)",
            (payment_id, order_id, user_id, cents, _now()),
        )
        database.execute(
            "INSERT INTO orders (order_id, user_id, state) VALUES (?, ?, 'paid')"
            " ON CONFLICT (order_id) DO UPDATE SET state = 'paid'",
            (order_id, user_id),
        )
    _tell(context, "payment made", message, True, order_id=order_id, payment_id=payment_id)


def inventory_alert(message: Message, context: Context) -> None:
    """Note the stock of a product, and have more bought when it gets short.

    `{"product_id", "stock", "threshold"?}`. The buyer is told once, until there was enough again.
    Raises: Reject without product and stock; Skip for news that is older than what is known.
    """
    product_id = _needed(message, "product_id")
    pieces = _whole(message, "stock", _needed(message, "stock"))
    threshold = _whole(message, "threshold", message.data.get("threshold", _THRESHOLD))
    at = (message.published_at or datetime.now(UTC)).astimezone(UTC).isoformat()
    is_short = pieces < threshold
    with _database(context) as database:
        known = database.execute(
            "SELECT is_short, at FROM stock WHERE product_id = ?", (product_id,)
        ).fetchone()
        was_short, known_at = known or (0, "")
        if at < known_at:
            raise Skip(f"the stock of {product_id} is known from a later time")
        database.execute(
            "INSERT OR REPLACE INTO stock (product_id, pieces, is_short, at) VALUES (?, ?, ?, ?)",
            (product_id, pieces, is_short, at),
        )
        text = f"buy {product_id}: {pieces} left, {threshold} wanted"
        is_new = is_short and not was_short
        is_new = is_new and _send(database, message, "inventory", _BUYER, text)
    words = "more of a product ordered" if is_new else "stock noted"
    _tell(context, words, message, True, product_id=product_id, stock=str(pieces))


def unhandled(message: Message, context: Context) -> None:
    """Say that nobody knows what to do with a topic; the message counts as handled."""
    context.logger.warning(
        "unhandled message", extra={"topic": message.topic, "message_id": message.id}
    )


def cleanup(context: Context) -> None:
    """Delete what was sent more than `option.keep_days` ago; for a `scheduled` job."""
    _clean(context, int(context.options.get("keep_days", _KEEP_DAYS)))


class Ants:
    """Carries what lies in the table `ants` to its users: each row is a text for one of them."""

    def open(self, context: Context) -> None:
        """Make the table where it is missing, before anybody looks for it."""
        with _database(context):
            pass

    def handle(self, message: Message, context: Context) -> None:
        """Send one row. Raises: Reject without user and text."""
        user_id, text = _needed(message, "user_id"), _needed(message, "text")
        parcel = replace(message, id=f"ant-{message.id}")
        with _database(context) as database:
            is_new = _send(database, parcel, "ant", user_id, text)
        _tell(context, "carried", parcel, is_new, user_id=user_id)


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


def _whole(message: Message, name: str, value: object) -> int:
    """Read a number that counts something. Raises: Reject."""
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise Reject(f"{message.topic}: {name} is {value!r:.40}, and no whole number from 0 on")
    return number


def _cents(message: Message) -> int:
    """Read the amount of a payment. Raises: Reject."""
    amount = _needed(message, "amount")
    with suppress(ArithmeticError):
        cents = Decimal(amount) * 100
        if cents > 0 and cents == cents.to_integral_value():
            return int(cents)
    raise Reject(f"{message.topic}: the amount is {amount!r:.40}; write one like 299.99")


def _again(message: Message, context: Context, why: str) -> Exception:
    """Decide whether a payment is tried again."""
    if message.attempt >= int(context.options.get("payment_tries", _PAYMENT_TRIES)):
        return Reject(f"{why}, at the last of {message.attempt} looks")
    pause_s = float(context.options.get("payment_pause", _PAYMENT_PAUSE_S))
    return Retry(why, after=pause_s * 2 ** (message.attempt - 1))


def _clean(context: Context, keep_days: int) -> None:
    try:
        before = (datetime.now(UTC) - timedelta(days=keep_days)).isoformat()
    except OverflowError:
        before = ""  # earlier than all that there is
    with _database(context) as database:
        deleted = database.execute("DELETE FROM sent WHERE at < ?", (before,)).rowcount
    context.logger.info("cleanup done", extra={"deleted": deleted, "before": before})


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _send(
    database: sqlite3.Connection, message: Message, kind: str, user_id: str, text: str
) -> bool:
    """Write what a mail server would be given. False: it was, by an earlier delivery."""
    cursor = database.execute(
        "INSERT OR IGNORE INTO sent (message_id, kind, user_id, text, at) VALUES (?, ?, ?, ?, ?)",
        (message.id, kind, user_id, text, _now()),
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
