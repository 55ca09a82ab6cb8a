"""Which messages were handled already, in the table `workers_handled` of a PostgreSQL.

One row a key. While a handler works the row has an owner and runs out with the lease, so that a
process whose host is gone blocks nobody; when the work is done it has none, and stands for the
time that keys are remembered. What has run out is as good as not there, and is cleared away a few
rows at a time. Times are the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from workers.sources.keys import Claim, Key
from workers.sources.postgres_server import DENIED, PostgresServer, SqlTrouble, text
from workers.sources.source import SourceTrouble

_DDL: Final = """
    CREATE TABLE IF NOT EXISTS workers_handled (
        scope text, key text, owner text, until timestamptz NOT NULL, PRIMARY KEY (scope, key));
    CREATE INDEX IF NOT EXISTS workers_handled_until ON workers_handled (until);
    CREATE INDEX IF NOT EXISTS workers_handled_owner ON workers_handled (owner)
        WHERE owner IS NOT NULL
"""

_TABLE: Final = f"SELECT pg_advisory_xact_lock(7726322); {_DDL}"

_MISSING: Final = (
    f"workers_handled is missing, and may not be made here; it needs {' '.join(_DDL.split())}"
)

_GIVEN: Final = """
    (SELECT DISTINCT * FROM unnest(%(scopes)s::text[], %(keys)s::text[]) AS found (scope, key)
     ORDER BY scope, key) given
"""
"""The keys, each once, and in an order, so that nobody waits for others in a circle."""

_CLAIM: Final = f"""
    INSERT INTO workers_handled AS known (scope, key, owner, until)
    SELECT scope, key, %(me)s, now() + %(lease)s * interval '1 second' FROM {_GIVEN}
    ON CONFLICT (scope, key) DO UPDATE SET owner = excluded.owner, until = excluded.until
        WHERE known.until <= now()
    RETURNING scope, key
"""

_DONE: Final = f"""
    INSERT INTO workers_handled (scope, key, owner, until)
    SELECT scope, key, NULL, now() + %(ttl)s * interval '1 second' FROM {_GIVEN}
    ON CONFLICT (scope, key) DO UPDATE SET owner = NULL, until = excluded.until
"""

_SWEEP: Final = """
    DELETE FROM workers_handled WHERE (scope, key) IN (SELECT scope, key FROM workers_handled
        WHERE until <= now() ORDER BY until LIMIT 200 FOR UPDATE SKIP LOCKED)
"""
"""More than come in, and too few for anybody to wait for."""

_OURS: Final = f"""
    FROM {_GIVEN}
    WHERE known.scope = given.scope AND known.key = given.key AND known.owner = %(me)s
"""


class PostgresKeys:
    """The Keys of `postgresql://...`."""

    def __init__(
        self, url: str, owner: str, *, lease_s: float, ttl_s: float, io_timeout: float
    ) -> None:
        self._server = PostgresServer(url, io_timeout=io_timeout, name=owner[-60:])
        self._owner = owner
        self._lease_s = lease_s
        self._ttl_s = ttl_s

    def open(self) -> None:
        """Connect, and make the table where it is missing."""
        if self._server.run("SELECT to_regclass('workers_handled')") == [(None,)]:
            try:
                self._server.run(_TABLE)
            except SqlTrouble as trouble:
                if trouble.code != DENIED:
                    raise
                raise SqlTrouble(_MISSING, DENIED) from trouble

    def look(self) -> None:
        """See whether keys can be kept there; changes nothing. Raises: SourceTrouble."""
        [(may,)] = self._server.run(
            "SELECT to_regclass('workers_handled') IS NOT NULL"
            " OR has_schema_privilege(current_schema(), 'CREATE')"
        )
        if not may:
            raise SourceTrouble(_MISSING)

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def claim(self, keys: Sequence[Key]) -> list[Claim]:
        """Claim in one statement; a key that is wanted twice is busy for the second."""
        mine = set(self._run(_CLAIM, keys, lease=self._lease_s))
        known = (
            "SELECT known.scope, known.key, known.owner FROM workers_handled known"
            f" JOIN {_GIVEN} USING (scope, key)"
        )
        others = {(scope, key): owner for scope, key, owner in self._run(known, keys)}
        found = []
        for one in map(_writable, keys):
            if one in mine:
                mine.discard(one)
                found.append(Claim.MINE)
            else:
                # One that is not there any more was given up in this very moment.
                found.append(Claim.DONE if others.get(one, "") is None else Claim.BUSY)
        return found

    def extend(self, keys: Iterable[Key]) -> None:
        """Move the end of own claims."""
        self._run(
            "UPDATE workers_handled known SET until = now() + %(lease)s * interval '1 second'"
            + _OURS,
            keys,
            lease=self._lease_s,
        )

    def done(self, keys: Iterable[Key]) -> None:
        """Write the keys down, and clear some away that have run out."""
        self._run(_DONE, keys, ttl=self._ttl_s)
        self._server.run(_SWEEP)

    def release(self, keys: Iterable[Key]) -> None:
        """Delete own claims."""
        self._run("DELETE FROM workers_handled known USING" + _OURS.replace("FROM", "", 1), keys)

    def release_owner(self, owner: str) -> None:
        """Delete the claims of one dead process."""
        self._server.run("DELETE FROM workers_handled WHERE owner = %(owner)s", {"owner": owner})

    def release_seat(self, seat: str) -> None:
        """Delete the claims of earlier processes of the own slot."""
        self._server.run(
            "DELETE FROM workers_handled WHERE starts_with(owner, %(seat)s) AND owner <> %(me)s",
            {"seat": seat, "me": self._owner},
        )

    def _run(self, sql: str, keys: Iterable[Key], **values: object) -> list[tuple[Any, ...]]:
        some = [_writable(key) for key in keys]
        if not some:
            return []
        scopes, names = [scope for scope, _ in some], [name for _, name in some]
        given = {"me": self._owner, "scopes": scopes, "keys": names, **values}
        return self._server.run(sql, given)


def _writable(key: Key) -> Key:
    scope, name = key
    return scope, text(name)
