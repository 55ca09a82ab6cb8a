"""What `context.connection(url)` gives: connections to PostgreSQL, kept for the calls that follow.

A thread that asks has the connection until its call of a handler is over: what it wrote is then
committed, or undone when the handler raised. So the handler's end is the end of its transaction,
whoever calls it. In a `worker`, which is one call for all its life, it commits by itself.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from supervisor.urls import is_postgres
from workers.base import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_FORM: Final = "postgresql://USER@HOST:PORT/DATABASE"


class Connections:
    """Those of one process: of each URL `size` at most, made when they are asked for.

    `io_timeout` is the longest wait for a free one, and for the server's first answer.
    """

    def __init__(self, size: int, io_timeout: float, name: str) -> None:
        self._size = size
        self._io_timeout = io_timeout
        self._name = name
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}

    @cached_property
    def _mine(self) -> _Mine:
        """Made for the first who asks: what belongs to each thread takes long to make."""
        return _Mine()

    def get(self, url: str) -> Any:  # noqa: ANN401 - psycopg2 has no types
        """Give this thread's connection to that database.

        Raises: ValueError, TimeoutError where all are in use, Unavailable where none can be made.
        """
        if not is_postgres(url):
            raise ValueError(f"connection(url) takes the URL of a PostgreSQL: {_FORM}")
        lent = self._mine.lent
        if url in lent and not lent[url].closed:
            return lent[url]
        with self._lock:
            pool = self._pools.setdefault(url, _Pool(url, self._size, self._connect))
        if url in lent:
            pool.put(lent.pop(url))
        connection = pool.take(self._io_timeout)
        lent[url] = connection
        return connection

    def keep(self) -> None:
        """Commit what the call of this thread wrote, and take its connections back.

        Raises: what the server says against it; the rest is undone then.
        """
        if not self._pools or not self._mine.lent:
            return
        try:
            for connection in self._mine.lent.values():
                if not connection.closed:
                    connection.commit()
        finally:
            self.undo()

    def undo(self) -> None:
        """Undo what the call of this thread wrote and did not commit; take its connections back."""
        if not self._pools:
            return
        lent = self._mine.lent
        while lent:
            url, connection = lent.popitem()
            self._pools[url].put(connection)

    def close(self) -> None:
        """Close those that nobody has."""
        for pool in self._pools.values():
            pool.close()

    def _connect(self, url: str) -> Any:  # noqa: ANN401 - psycopg2 has no types
        import psycopg2  # type: ignore[import-untyped]  # it has no types

        from workers.sources.postgres_server import KEEPALIVES, in_words

        try:
            return psycopg2.connect(
                url,
                connect_timeout=math.ceil(self._io_timeout),
                application_name=self._name,
                **KEEPALIVES,
            )
        except psycopg2.OperationalError as error:
            raise Unavailable(f"the database: {in_words(error)}") from error


class _Mine(threading.local):
    """What this thread has."""

    def __init__(self) -> None:
        self.lent: dict[str, Any] = {}


class _Pool:
    """The connections to one database."""

    def __init__(self, url: str, size: int, connect: Callable[[str], Any]) -> None:
        self._url = url
        self._size = size
        self._connect = connect
        self._free = threading.Semaphore(size)
        self._idle: list[Any] = []

    def take(self, timeout_s: float) -> Any:  # noqa: ANN401 - psycopg2 has no types
        if not self._free.acquire(timeout=timeout_s):
            raise TimeoutError(
                f"no connection came free within {timeout_s:g} s; pool_size = {self._size}"
            )
        from workers.sources.postgres_server import has_news

        try:
            while True:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    return self._connect(self._url)
                if not has_news(connection):
                    return connection
                connection.close()
        except BaseException:
            self._free.release()
            raise

    def put(self, connection: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
        """Take one back; one that is broken, or was set up by its user, is closed."""
        import psycopg2

        is_fit = False
        with suppress(psycopg2.Error):  # closed, it loses all that was not committed, too
            if not connection.closed:
                connection.rollback()
                is_fit = not _is_changed(connection)
        if is_fit:
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _is_changed(connection: Any) -> bool:  # noqa: ANN401 - psycopg2 has no types
    """Tell whether it is not what the next one expects."""
    modes = (connection.isolation_level, connection.readonly, connection.deferrable)
    return connection.autocommit or any(mode is not None for mode in modes)
