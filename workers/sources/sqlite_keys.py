"""Which messages were handled already, in a file of SQLite: the queue's own, or one beside it.

One row a key. While a handler works the row has an owner and runs out with the lease, so that a
process whose host is gone blocks nobody; when the work is done it has none, and stands for the
time that keys are remembered. What has run out is as good as not there, and is cleared away a few
rows at a time. Times are the wall clock's milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from workers.sources.keys import Claim, Key
from workers.sources.sqlite_clock import now_ms
from workers.sources.sqlite_file import QueueFile

_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS handled (
        scope TEXT    NOT NULL,
        key   TEXT    NOT NULL,
        owner TEXT,                -- who works on it; NULL: it is done
        until INTEGER NOT NULL,    -- then the row means nothing any more, epoch milliseconds
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS handled_until ON handled (until)",
    "CREATE INDEX IF NOT EXISTS handled_owner ON handled (owner) WHERE owner IS NOT NULL",
)

_CLAIM: Final = """
    INSERT INTO handled (scope, key, owner, until) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET owner = excluded.owner, until = excluded.until WHERE until <= ?
    RETURNING 1
"""

_DONE: Final = """
    INSERT INTO handled (scope, key, owner, until) VALUES (?, ?, NULL, ?)
    ON CONFLICT DO UPDATE SET owner = NULL, until = excluded.until
"""

_SWEEP: Final = 200
"""At most so many rows that have run out are removed with each batch that is done: more than come
in, and too few for anybody to wait for."""

_LOOK_S: Final = 1.0
"""How often to see whether the file is still the one of that name."""


class SqliteKeys:
    """The Keys of `sqlite:///PATH`."""

    def __init__(
        self, path: Path, owner: str, *, lease_s: float, ttl_s: float, io_timeout: float
    ) -> None:
        self._file = QueueFile(path, io_timeout=io_timeout, durable=False)
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._ttl_ms = int(ttl_s * 1000)
        self._next_look = 0.0

    def open(self) -> None:
        """Open the file, and make it, or the tables in it, where they are missing."""
        self._file.open()
        with self._file.change() as change:
            for statement in _TABLES:
                change.execute(statement)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def claim(self, keys: Sequence[Key]) -> list[Claim]:
        """Claim in one transaction; a key that is wanted twice is busy for the second."""
        self._look()
        now = now_ms()
        found = []
        with self._file.change() as change:
            for scope, key in keys:
                values = (scope, key, self._owner, now + self._lease_ms, now)
                if change.execute(_CLAIM, values).fetchone():
                    found.append(Claim.MINE)
                    continue
                [owner] = change.execute(
                    "SELECT owner FROM handled WHERE scope = ? AND key = ?", (scope, key)
                ).fetchone()
                found.append(Claim.DONE if owner is None else Claim.BUSY)
        return found

    def extend(self, keys: Iterable[Key]) -> None:
        """Move the end of own claims."""
        until = now_ms() + self._lease_ms
        with self._file.change() as change:
            change.executemany(
                "UPDATE handled SET until = ? WHERE scope = ? AND key = ? AND owner = ?",
                [(until, scope, key, self._owner) for scope, key in keys],
            )

    def done(self, keys: Iterable[Key]) -> None:
        """Write the keys down, and clear some away that have run out."""
        now = now_ms()
        with self._file.change() as change:
            change.executemany(_DONE, [(scope, key, now + self._ttl_ms) for scope, key in keys])
            change.execute(
                "DELETE FROM handled WHERE (scope, key) IN"
                " (SELECT scope, key FROM handled WHERE until <= ? ORDER BY until LIMIT ?)",
                (now, _SWEEP),
            )

    def release(self, keys: Iterable[Key]) -> None:
        """Delete own claims."""
        with self._file.change() as change:
            change.executemany(
                "DELETE FROM handled WHERE scope = ? AND key = ? AND owner = ?",
                [(scope, key, self._owner) for scope, key in keys],
            )

    def release_owner(self, owner: str) -> None:
        """Delete the claims of one dead process."""
        with self._file.change() as change:
            change.execute("DELETE FROM handled WHERE owner = ?", (owner,))

    def release_seat(self, seat: str) -> None:
        """Delete the claims of earlier processes of the own slot."""
        with self._file.change() as change:
            change.execute(
                "DELETE FROM handled"
                " WHERE owner IS NOT NULL AND substr(owner, 1, ?) = ? AND owner <> ?",
                (len(seat), seat, self._owner),
            )

    def _look(self) -> None:
        """See whether somebody has moved or removed the file; the others use a new one then."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            if self._file.is_gone():
                self.open()
