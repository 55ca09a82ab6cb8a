"""The rate of a job whose table is in PostgreSQL: one row for the processes of all its hosts.

A row of the table `workers_rates` holds what `workers.ratelimit` keeps in a cell: the time at which
the next call would be due if all came evenly, in nanoseconds since 1970, by the server's clock.
Beside it stands what the last statement that changed it was given.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from workers.sources.postgres_server import DENIED, PostgresServer, SqlTrouble
from workers.sources.source import SourceTrouble

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS workers_rates (job text PRIMARY KEY, due bigint NOT NULL,"
    " granted bigint NOT NULL, wait bigint NOT NULL) WITH (fillfactor = 50)"
)

_ROW: Final = "INSERT INTO workers_rates VALUES (%(job)s, 0, 0, 0) ON CONFLICT DO NOTHING"

_TAKE: Final = """
    UPDATE workers_rates AS cell SET (due, granted, wait) = (
        SELECT start + taken * each, taken, greatest(0, start + (taken + worth) * each - latest)
        FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint AS now,
            %(interval)s::bigint AS each, %(worth)s AS worth OFFSET 0) AS given,
        LATERAL (SELECT now + %(burst)s * each AS latest, cell.due - %(unused)s * each AS due)
            AS known,
        LATERAL (SELECT CASE WHEN known.due > latest THEN now ELSE greatest(known.due, now) END
            AS start) AS begun,
        LATERAL (SELECT least(%(wanted)s, (latest - start) / each) AS taken) AS allowed
    ) WHERE job = %(job)s RETURNING granted, wait
"""
"""Who waits for the row computes anew when it has it. What lies further ahead than any limit would
allow was left by a slower one, or by a clock that has gone back."""


class PostgresMeter:
    """The Meter of a job at `postgresql://...`; a job of this name elsewhere shares it.

    `interval` is in nanoseconds, `burst` in calls.
    """

    def __init__(self, url: str, job: str, *, interval: int, burst: int, io_timeout: float) -> None:
        # Who has lost the last of it to a crash of the server owes nothing.
        begin = ["SET synchronous_commit = off"]
        self._server = PostgresServer(url, io_timeout=io_timeout, name=f"rate {job}", begin=begin)
        self._limit = {
            "job": job,
            "interval": interval,
            "burst": burst,
            "worth": max(1, burst // 2),
        }

    def open(self) -> None:
        """Connect, and make the table and the row where they are missing."""
        if self._server.run("SELECT to_regclass('workers_rates')") == [(None,)]:
            self._make()
        self._server.run(_ROW, self._limit)

    def _make(self) -> None:
        try:
            self._server.run(f"SELECT pg_advisory_xact_lock(7726323); {_TABLE}")
        except SqlTrouble as trouble:
            if trouble.code != DENIED:
                raise
            raise SourceTrouble(
                f"rate_limit may not make its table here; it needs {_TABLE}"
            ) from None

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def take(self, wanted: int) -> tuple[int, float]:
        """Take in one statement, by the server's clock."""
        granted, wait = self._take(wanted, 0)
        return granted, wait / 1e9

    def give_back(self, unused: int) -> None:
        """Give it back once: what is lost with an answer is rather not called at all."""
        if unused:
            with suppress(SourceTrouble):  # the next call says it
                self._take(0, unused)

    def _take(self, wanted: int, unused: int) -> tuple[int, int]:
        values = {**self._limit, "wanted": wanted, "unused": unused}
        found = self._server.run(_TAKE, values)
        if not found:  # somebody has emptied the table
            self.open()
            found = self._server.run(_TAKE, values)
        [(granted, wait)] = found
        return int(granted), int(wait)
