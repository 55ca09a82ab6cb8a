"""A PostgreSQL behind a URL: connecting, a deadline on every call, and what its errors mean.

The connection is an asynchronous one of libpq, and this is the only place that waits for it: so a
server that stands still costs a call its deadline and no more. Each call is one statement, and
with that one transaction. Nothing is retried here.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg2  # type: ignore[import-untyped]  # it has no types
from psycopg2 import extensions

from workers.sources.source import SourceTrouble

T = TypeVar("T")

KEEPALIVES: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""A peer that is gone without a word is asked for after a silence of 10 s."""

DENIED: Final = "42501"
"""The code of an error: no right to do that. Source: PostgreSQL, appendix A."""

_OF_VALUES: Final = ("22", "23", "27", "44", "P0")
_OF_NAMES: Final = "42"
"""How the codes of errors begin that are about what is written, and about where."""


class SqlTrouble(SourceTrouble):
    """The server has refused a statement; `code` is its SQLSTATE."""

    def __init__(self, words: str, code: str) -> None:
        super().__init__(words)
        self.code = code

    @property
    def is_of_values(self) -> bool:
        """Tell whether other rows may well be taken: a constraint or a trigger refuses this one."""
        return self.code.startswith(_OF_VALUES)

    @property
    def is_of_names(self) -> bool:
        """Tell whether a table or a column is not as it was, or not ours to use."""
        return self.code.startswith(_OF_NAMES)


class PostgresServer:
    """One connection. Used by one thread; connects at the first call, and again after a failure.

    `begin` are statements for each new connection.
    """

    def __init__(
        self, url: str, *, io_timeout: float, name: str = "workers", begin: Sequence[str] = ()
    ) -> None:
        self._url = url
        self._io_timeout = io_timeout
        self._name = name
        self._begin = (f"SET statement_timeout = {int(io_timeout * 1000)}", *begin)
        self._connection: Any = None  # psycopg2 has no types
        self.changed = 0
        """How many rows the last call has changed, or given."""
        self.connects = 0
        """How often it has connected: what was notified in between was not heard."""

    def run(self, sql: str, values: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Carry out one statement. Raises: SourceTrouble."""
        deadline = time.monotonic() + self._io_timeout
        if self._connection is None:
            self._in_words(lambda: self._connect(deadline))
        return self._in_words(lambda: self._execute(sql, values, deadline))

    def notes(self) -> list[str]:
        """Take what was notified since the last look. Raises: SourceTrouble."""
        if self._connection is None:
            return []
        self._in_words(self._connection.poll)
        found = [str(note.payload) for note in self._connection.notifies]
        self._connection.notifies.clear()
        return found

    def heard(self) -> bool:
        """Tell whether the last calls have brought a note."""
        return self._connection is not None and bool(self._connection.notifies)

    def fileno(self) -> int | None:
        """Give the descriptor that becomes readable with a note; None without a connection."""
        return None if self._connection is None else int(self._connection.fileno())

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self, deadline: float) -> None:
        self._connection = psycopg2.connect(
            self._url,
            async_=1,
            application_name=self._name,
            client_encoding="UTF8",
            **KEEPALIVES,
        )
        self._wait(deadline)
        for statement in self._begin:
            self._execute(statement, None, deadline)
        self.connects += 1

    def _execute(
        self, sql: str, values: Mapping[str, object] | None, deadline: float
    ) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            self._wait(deadline)
            self.changed = cursor.rowcount
            return list(cursor.fetchall()) if cursor.description else []

    def _wait(self, deadline: float) -> None:
        poll = select.poll()
        while (state := self._connection.poll()) != extensions.POLL_OK:
            wanted = select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
            fd = self._connection.fileno()
            poll.register(fd, wanted)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError(f"no answer within {self._io_timeout:g} s")
            poll.unregister(fd)

    def _in_words(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (psycopg2.Error, OSError) as error:
            self.close()
            words = in_words(error)
            if code := getattr(error, "pgcode", None):
                raise SqlTrouble(words, str(code)) from error
            raise SourceTrouble(words) from error


def has_news(connection: Any) -> bool:  # noqa: ANN401 - psycopg2 has no types
    """Tell whether the server has something to say to an idle connection: it is closing it."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def in_words(error: Exception) -> str:
    """Say what is wrong, in one line."""
    words = " ".join(str(error).split("\nLINE ")[0].split()).rstrip(".")
    return words or type(error).__name__


def text(text: str) -> str:
    """Escape what no text of PostgreSQL can hold."""
    return text.replace("\0", "\\0")
