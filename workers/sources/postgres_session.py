"""A connection whose open transaction holds one row, for the handler to work in as well.

It is one of psycopg2's ordinary kind, of which libpq waits for answers; `postgres_watch` sees to it
that our own calls do not wait for ever. Its transactions begin and end by statements of ours, so
that psycopg2 takes it for one that never ends, and begins none by itself. Three savepoints lie at
the beginning: `workers_row`, to which all goes back that a failed handler did; `workers_mark`,
which is gone when a handler has ended the transaction by SQL; and `workers_kept`, which makes
`commit` and `rollback` of the connection do what they say, within the transaction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import psycopg2  # type: ignore[import-untyped]  # it has no types
from psycopg2 import extensions

from workers.sources.postgres_server import KEEPALIVES, SqlTrouble, has_news, in_words
from workers.sources.postgres_watch import Watch, shut
from workers.sources.source import SessionLost, SourceTrouble

_HAS_TIMEOUT: Final = 120000
"""From this version on a server can be told how long to wait for its answer to be taken."""

_CHECKS_PEER: Final = 140000
"""From this version on a server asks during a statement whether its client still lives."""

_LONGEST_S: Final = 7200.0
"""Who says nothing for that long is lost, whatever the lease; Linux has bounds of its own."""

_ENDED: Final = frozenset({"25P01", "3B001"})
"""Codes of errors that say that there is no transaction, or none with our savepoints."""

_PLANS: Final = ("enable_seqscan", "enable_bitmapscan")
"""What is off for statements of ours (see `postgres_table`), and as ever for the handler's."""

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED; " + "".join(
    f"SET LOCAL {plan} = off; " for plan in _PLANS
)
_AS_EVER: Final = "".join(f"SET LOCAL {plan} TO DEFAULT; " for plan in _PLANS)
_SAVEPOINTS: Final = "SAVEPOINT workers_row; SAVEPOINT workers_mark; SAVEPOINT workers_kept; "
_FINISH: Final = "RELEASE SAVEPOINT workers_mark; SET CONSTRAINTS ALL IMMEDIATE; "
_UNDO: Final = "ROLLBACK TO SAVEPOINT workers_row; "


class TransactionEnded(Exception):
    """What becomes of a message whose handler has ended the transaction that held its row."""


class RowConnection(extensions.connection):  # type: ignore[misc]  # psycopg2 has no types
    """What a handler works with: it ends neither the transaction that holds its row nor itself."""

    def commit(self) -> None:
        """Keep what was written so far; it is committed with the row, when the handler returns."""
        self._say("RELEASE SAVEPOINT workers_kept; SAVEPOINT workers_kept")

    def rollback(self) -> None:
        """Undo what was written since the last `commit`."""
        self._say("ROLLBACK TO SAVEPOINT workers_kept")

    def close(self) -> None:
        """Do nothing: it is not the handler's to close."""

    def end(self) -> None:
        """Close it."""
        super().close()

    def _say(self, sql: str) -> None:
        with self.cursor() as cursor:
            cursor.execute(sql)


class RowSession:
    """One connection, and the row that it holds, if any.

    Between `enter` and `leave` it is the handler's thread's, else the loop's. `done` are the
    statement by which the row is done, and its values.
    """

    def __init__(
        self, url: str, watch: Watch, *, io_timeout: float, lease_s: float, name: str
    ) -> None:
        """Connect. Raises: SourceTrouble."""
        self._watch = watch
        self.done: tuple[str, Mapping[str, object]] = ("", {})
        self.is_called = False
        self.is_done = False
        try:
            self.connection = psycopg2.connect(
                url,
                connection_factory=RowConnection,
                connect_timeout=math.ceil(io_timeout),
                application_name=name,
                client_encoding="UTF8",
                **KEEPALIVES,
            )
            self._prepare(lease_s)
        except (psycopg2.Error, OSError) as error:
            raise SourceTrouble(in_words(error)) from error

    def _prepare(self, lease_s: float) -> None:
        """Leave time to the handler; let the server look after a client that is gone.

        It gives one up whose host says nothing for about as long as a lease would have lasted.
        """
        begin = "SET idle_in_transaction_session_timeout = 0; "
        lease_s = min(lease_s, _LONGEST_S)
        begin += f"SET tcp_keepalives_idle = {math.ceil(lease_s / 3)}; "
        begin += f"SET tcp_keepalives_interval = {math.ceil(lease_s / 6)}; "
        begin += "SET tcp_keepalives_count = 3; "
        if self.connection.server_version >= _HAS_TIMEOUT:
            # Keepalives find out only where it does not wait for us to take an answer.
            begin += f"SET tcp_user_timeout = {math.ceil(lease_s * 1000)}; "
        if self.connection.server_version >= _CHECKS_PEER:
            begin += "SET client_connection_check_interval = 1000; "
        with self._watch.over(self.connection):
            self._say(begin + "COMMIT")

    # --- the loop's

    def hold(self, lock: str, look: str) -> tuple[Any, ...] | None:
        """Begin a transaction: lock a row, then look at it. Raises: SourceTrouble.

        Two statements, as only the second sees all that others had written when the lock was had.
        """
        self.is_done = False
        rows = self._call(f"{_BEGIN}{lock}; {_AS_EVER}{_SAVEPOINTS}{look}", {})
        if not rows:
            self.let_go()
            return None
        return rows[0]

    def settle(self, sql: str, values: Mapping[str, object]) -> None:
        """Undo what the handler did, write how the row ended, and let it go.

        Raises: SourceTrouble, and then the row is not held any more.
        """
        self._call(f"{_UNDO}{sql}; COMMIT", values)

    def let_go(self) -> None:
        """Undo everything, and let the row go. Raises: SourceTrouble."""
        self._call("ROLLBACK")

    def is_lost(self) -> bool:
        """Tell whether a call has found the connection broken."""
        return bool(self.connection.closed)

    def is_cut(self) -> bool:
        """Tell whether the server has said goodbye to a connection that nobody uses now."""
        if self.is_called:
            return False
        return self.is_lost() or has_news(self.connection)

    def end(self) -> None:
        """Disconnect; what its handler does just now with the connection fails."""
        if not self.is_called:
            self.connection.end()
        else:
            with suppress(psycopg2.Error):  # it may break by itself at any moment
                shut(self.connection.fileno())

    def _call(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        try:
            with self._watch.over(self.connection):
                return self._say(sql, values)
        except (psycopg2.Error, OSError) as error:
            code = getattr(error, "pgcode", None)
            self._give_up()
            if code:
                raise SqlTrouble(in_words(error), str(code)) from error
            raise SourceTrouble(in_words(error)) from error

    def _give_up(self) -> None:
        """Disconnect; where the server still answers, it has let the row go before."""
        with suppress(psycopg2.Error, OSError), self._watch.over(self.connection):
            self._say("ROLLBACK")
        self.connection.end()

    def _say(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall()) if cursor.description else []

    # --- the handler's thread's

    def enter(self) -> None:
        """Hand the connection over to a handler."""
        self.is_called = True

    def leave(self) -> None:
        """Hand it back."""
        self.is_called = False

    def finish(self, attempts: int) -> None:
        """Commit what the handler did, and that its row is done. Raises: SessionLost, and more.

        Constraints that were put off are looked at before, while all can still be undone.
        """
        sql, values = self.done
        try:
            with self._watch.over(self.connection):
                self._say(f"{_FINISH}{sql}; COMMIT", {**values, "attempts": [attempts]})
        except psycopg2.Error as error:
            if self.is_lost():
                raise SessionLost(in_words(error)) from error
            if error.pgcode in _ENDED:
                raise TransactionEnded(
                    "the handler has ended the transaction that holds its row; COMMIT and ROLLBACK"
                    " come by themselves when it returns or raises"
                ) from None
            raise
        self.is_done = True
