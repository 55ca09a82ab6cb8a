"""Rows of a table of PostgreSQL as messages, under leases that lie beside it in TABLE_work.

Every call is one statement. The rows that are to be done are locked while they are taken or
settled, with SKIP LOCKED where others may have them, and always before what lies beside them: so
nobody waits in a circle. What makes a row ours is the row of TABLE_work, which is unique: a look
that is too old to know of another's lease meets it there. Times are the server's.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from supervisor.errors import ConfigError
from workers.sources.postgres_server import PostgresServer, SqlTrouble, text
from workers.sources.postgres_work import Work
from workers.sources.source import (
    Burial,
    Delivery,
    Return,
    Share,
    SourceTrouble,
    lone_crashes_ms,
)
from workers.sources.table import COUNTERS, MOST, Held, Pace, Table, quoted

T = TypeVar("T")

_BLAME_S: Final = 5.0
"""When every row was refused for so long, they are taken to be the reason themselves."""

_log = logging.getLogger(__name__)

_ECHO_S: Final = 30.0
"""How often a consumer that listens looks whether it would hear anything."""

_PLANS: Final = ("SET enable_seqscan = off", "SET enable_bitmapscan = off")
"""Every statement wants few rows by an index, in its order. A server that has not analyzed a table
since it was filled takes it for small, and would read and sort all of it each time."""

FREE_ROWS: Final = """
    FROM {here} t
    WHERE {is_pending} AND t.{key} IS NOT NULL AND coalesce(
        (SELECT w.owner IS NULL AND w.due <= now() FROM {work} w WHERE w.key = t.{key}), true)
    AND NOT EXISTS (SELECT 1 FROM {work} WHERE key IS NULL)
"""

_LOCKED: Final = """
    locked AS MATERIALIZED (SELECT count(*) AS rows FROM (
        SELECT 1 FROM {here} t WHERE t.{key} = ANY(%(keys)s::text[]::{type}[])
        ORDER BY t.{key} FOR NO KEY UPDATE) found)
"""

_CLAIM: Final = f"""
    WITH picked AS MATERIALIZED (
        SELECT t.{{key}} AS key, t.{{order}} AS place, row_to_json(t)::text AS line {FREE_ROWS}
        ORDER BY t.{{order}} LIMIT %(wanted)s FOR NO KEY UPDATE OF t SKIP LOCKED
    ), claimed AS (
        INSERT INTO {{work}} AS w (key, owner, until)
        SELECT key, %(me)s, now() + %(lease)s * interval '1 second' FROM picked
        ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until,
            due = '-infinity',
            attempts = CASE WHEN w.queue IS NULL THEN w.attempts ELSE 0 END,
            failures = CASE WHEN w.queue IS NULL THEN w.failures ELSE 0 END,
            crashes = CASE WHEN w.queue IS NULL THEN w.crashes ELSE 0 END,
            queue = NULL, id = NULL, error = NULL, traceback = NULL, origin = NULL, at = NULL
        WHERE w.owner IS NULL AND w.due <= now()
        RETURNING key, number, {COUNTERS}
    )
    SELECT key::text, line, number, {COUNTERS} FROM picked JOIN claimed USING (key) ORDER BY place
"""
"""A dead letter whose row is to be done again, by whoever wrote that word, begins anew."""

_SETTLE: Final = (
    f"WITH {_LOCKED}"
    + """, given AS (
        SELECT * FROM unnest(%(keys)s::text[]::{type}[], %(attempts)s::integer[])
            AS given (key, attempts)
    ), gone AS (
        DELETE FROM {work} w USING given
        WHERE w.key = given.key AND w.owner = %(me)s AND (SELECT rows FROM locked) >= 0
        RETURNING w.key, given.attempts
    )
    UPDATE {here} t SET {settled} FROM gone WHERE t.{key} = gone.key AND {still_pending}
"""
)

_RETURN: Final = """
    UPDATE {work} w SET owner = NULL, until = NULL, attempts = given.attempts,
        failures = given.failures, suspect = given.suspect,
        due = CASE WHEN delay > 0 THEN now() + delay * interval '1 second' ELSE due END
    FROM unnest(%(keys)s::text[]::{type}[], %(attempts)s::integer[], %(failures)s::integer[],
        %(suspects)s::boolean[], %(delays)s::float[])
        AS given (key, attempts, failures, suspect, delay)
    WHERE w.key = given.key AND w.owner = %(me)s
"""

_BURY: Final = (
    f"WITH {_LOCKED}"
    + """, given AS (
        SELECT * FROM unnest(%(keys)s::text[]::{type}[], %(attempts)s::integer[],
            %(failures)s::integer[], %(crashes)s::integer[], %(queues)s::text[], %(ids)s::text[],
            %(errors)s::text[], %(traces)s::text[], %(origins)s::text[])
            AS given (key, attempts, failures, crashes, queue, id, error, traceback, origin)
    ), buried AS (
        UPDATE {work} w SET owner = NULL, until = NULL, suspect = false,
            attempts = given.attempts, failures = given.failures, crashes = given.crashes,
            queue = given.queue, id = given.id, error = given.error,
            traceback = given.traceback, origin = given.origin, at = now()
        FROM given
        WHERE w.key = given.key AND w.owner = %(me)s AND (SELECT rows FROM locked) >= 0
        RETURNING w.key, w.attempts, w.error
    )
    UPDATE {here} t SET {settled} FROM buried WHERE t.{key} = buried.key AND {still_pending}
"""
)

_SET_ASIDE: Final = """
    UPDATE {work} SET owner = NULL, until = NULL, due = 'infinity', attempts = %(attempts)s,
        suspect = false, queue = %(queue)s, id = key::text, error = %(error)s, traceback = '',
        origin = split_part(owner, '/', 2), at = now()
    WHERE key = %(key)s::text::{type} AND owner = %(me)s
"""

_MARK: Final = """
    UPDATE {work} SET crashes = crashes + suspect::integer, suspect = true, due = CASE
        WHEN suspect AND crashes = 0 THEN now() + %(first)s * interval '1 ms'
        WHEN suspect AND crashes = 1 THEN now() + %(second)s * interval '1 ms' ELSE due END,
        owner = NULL, until = NULL
    WHERE owner = %(owner)s AND number = ANY(%(suspects)s::bigint[])
"""

_FREE: Final = "UPDATE {work} SET owner = NULL, until = NULL WHERE "

_FREE_EXPIRED: Final = f"""
    {_FREE} key IN (SELECT key FROM {{work}} WHERE owner IS NOT NULL AND until < now()
        FOR UPDATE SKIP LOCKED)
"""

_FORGET: Final = """
    DELETE FROM {work} w WHERE key IS NOT NULL AND owner IS NULL AND NOT EXISTS (
        SELECT 1 FROM {here} t WHERE t.{key} = w.key
            AND ({still_pending} OR (w.queue IS NOT NULL AND {has_failed})))
"""


class PostgresTableSource:
    """The Source of a table at `postgresql://...`. Used by the work loop's thread only."""

    _ASIDE = _SET_ASIDE

    def __init__(
        self, url: str, owner: str, table: Table, *, lease_s: float, io_timeout: float
    ) -> None:
        begin = [*_PLANS, *([f"LISTEN {quoted(table.notify)}"] if table.notify else [])]
        self._server = PostgresServer(url, io_timeout=io_timeout, name=owner[-60:], begin=begin)
        self._table = table
        self._work = Work(self._server, table)
        self._owner = owner
        self._lease_s = lease_s
        self._held = Held(table.name)
        self._refused_since = math.inf
        self._pace = Pace(table.poll_interval)
        self._bell: int | None = None
        self._next_echo = 0.0
        self._awaits_echo = False
        self._is_unsure = False
        self._connects = 0

    def open(self) -> None:
        """Connect, compare the table with what the job says, make what is beside it."""
        self._work.examine()
        self._work.make()
        self._run(_FORGET)

    def close(self) -> None:
        """Disconnect."""
        self._server.close()
        if self._bell is not None:
            os.close(self._bell)
            self._bell = None

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Claim in one statement what is to be done and free, in the table's order."""
        self._answer()
        wanted = limit if any(topic == self._table.name for topic, _ in shares) else 0
        if self._is_unsure:
            self._give_back_unknown()
        rows: list[tuple[Any, ...]] = []
        if wanted:
            self._is_unsure = True
            rows = self._run(_CLAIM, wanted=wanted, lease=self._lease_s)
            self._is_unsure = False
        found = [self._held.take(*row) for row in rows]
        self._pace.looked(is_full=0 < wanted == len(found))
        return found

    def patience(self) -> float:
        """Give the time to the next look, or to the end of a delay of our own."""
        return self._pace.left()

    def tend(self) -> Collection[int]:
        """Free leases that have run out; see that what is notified would be heard."""
        self._run(_FREE_EXPIRED)
        if self._server.changed:
            self._pace.hurry()
        if self._table.notify:
            self._listen_for_echo(self._table.notify)
        return ()

    def bells(self) -> Sequence[int]:
        """Give the connection, where it listens, and what rings for notes that came in a call."""
        fd = self._server.fileno() if self._table.notify else None
        return [one for one in (fd, self._bell) if one is not None]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Write `done` into the rows that are still to be done, and forget them beside."""
        self._settle(deliveries, self._table.done)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Write `failed`, and nothing about why."""
        self._settle(deliveries, self._table.failed)

    def nack(self, returns: Sequence[Return]) -> None:
        """Free the rows, with their counters and their new time."""
        if not returns:
            return
        deliveries = [back.delivery for back in returns]
        self._run(
            _RETURN,
            keys=self._held.keys(deliveries),
            attempts=[one.attempts for one in deliveries],
            failures=[one.failures for one in deliveries],
            suspects=[one.suspect for one in deliveries],
            delays=[back.delay_s for back in returns],
        )
        self._held.forget(deliveries)
        for back in returns:
            self._pace.delay(back.delay_s)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Write `failed` into the rows, and into TABLE_work why; not where the lease was lost."""
        if not burials:
            return
        refused = self._put(self._bury, burials)
        for burial, trouble in refused:
            self._set_aside(burial.delivery, self._held[burial.delivery], trouble)
        self._held.forget(burial.delivery for burial in burials)

    def _bury(self, burials: Sequence[Burial]) -> None:
        deliveries = [burial.delivery for burial in burials]
        table = self._table
        self._run(
            _BURY,
            settled=table.settled(table.failed, "buried.attempts", "buried.error"),
            keys=self._held.keys(deliveries),
            attempts=[one.attempts for one in deliveries],
            failures=[one.failures for one in deliveries],
            crashes=[one.crashes for one in deliveries],
            queues=[burial.queue for burial in burials],
            ids=[text(burial.id) for burial in burials],
            errors=[text(burial.error) for burial in burials],
            traces=[text(burial.traceback) for burial in burials],
            origins=[burial.origin for burial in burials],
        )

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew the leases in one statement."""
        if not deliveries:
            return set()
        kept = self._run(
            "UPDATE {work} SET until = now() + %(lease)s * interval '1 second'"
            " WHERE owner = %(me)s AND key = ANY(%(keys)s::text[]::{type}[]) RETURNING number",
            keys=self._held.keys(deliveries),
            lease=self._lease_s,
        )
        return {one.number for one in deliveries} - {number for (number,) in kept}

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free what a dead process held, and mark what its handlers were working on."""
        first, second = lone_crashes_ms()
        self._run(_MARK, owner=owner, suspects=list(suspects), first=first, second=second)
        marked = self._server.changed
        self._run(f"{_FREE} owner = %(owner)s", owner=owner)
        self._pace.hurry()
        return marked + self._server.changed

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held."""
        self._run(f"{_FREE} starts_with(owner, %(seat)s) AND owner <> %(me)s", seat=seat)
        self._pace.hurry()
        return self._server.changed

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what is to be done and free, up to a bound."""
        if self._table.name not in topics:
            return 0
        sql = f"SELECT count(*) FROM (SELECT 1 {FREE_ROWS} LIMIT {MOST}) found"
        [(number,)] = self._run(sql)
        return int(number)

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Look for the mark."""
        mark = self._run("SELECT 1 FROM {work} WHERE key IS NULL")
        return {self._table.name} & set(topics) if mark else set()

    def _settle(self, deliveries: Sequence[Delivery], word: str) -> None:
        if not deliveries:
            return

        def settle(some: Sequence[Delivery]) -> None:
            self._run(
                _SETTLE,
                settled=self._table.settled(word, "gone.attempts"),
                keys=self._held.keys(some),
                attempts=[one.attempts for one in some],
            )

        for one, trouble in self._put(settle, deliveries):
            self._set_aside(one, self._held[one], trouble)
        self._held.forget(deliveries)

    def _put(
        self, write: Callable[[Sequence[T]], None], some: Sequence[T]
    ) -> list[tuple[T, SqlTrouble]]:
        """Write all, or one by one where one is refused; give the refused ones, and why.

        Where none can be written it is the table that takes nothing, until that has lasted.
        Raises: SourceTrouble.
        """
        refused: list[tuple[T, SqlTrouble]] = []
        try:
            write(some)
        except SqlTrouble as trouble:
            if not trouble.is_of_values:
                raise
            refused = [(some[0], trouble)] if len(some) == 1 else self._put_each(write, some)
        now = time.monotonic()
        if len(refused) < len(some):
            self._refused_since = math.inf
        elif now - min(self._refused_since, now) < _BLAME_S:
            self._refused_since = min(self._refused_since, now)
            raise refused[0][1]
        return refused

    @staticmethod
    def _put_each(
        write: Callable[[Sequence[T]], None], some: Sequence[T]
    ) -> list[tuple[T, SqlTrouble]]:
        refused = []
        for one in some:
            try:
                write([one])
            except SqlTrouble as trouble:
                if not trouble.is_of_values:
                    raise
                refused.append((one, trouble))
        return refused

    def _set_aside(self, one: Delivery, key: str, trouble: SqlTrouble) -> None:
        """Let a row wait for somebody to mend it: it was handled, and cannot be marked so."""
        words = f"its row cannot be written: {trouble}"
        self._run(self._ASIDE, key=key, attempts=one.attempts, error=text(words), queue=one.topic)
        _log.error("message is set aside: %s", words, extra={"topic": one.topic, "message_id": key})

    def _give_back_unknown(self) -> None:
        """Free what a claim has leased whose answer was lost: nobody else would, while we live."""
        self._run(
            f"{_FREE} owner = %(me)s AND key <> ALL(%(keys)s::text[]::{{type}}[])",
            keys=self._held.all(),
        )

    def _examine(self) -> None:
        """Look at the table again, if it is not as it was, and make what is beside it."""
        if self._work.key_type:
            return
        try:
            self._work.examine()
            self._work.make()
        except ConfigError as error:
            self._work.key_type = ""
            raise SourceTrouble("; ".join(one.message for one in error.problems)) from error

    def _doubt(self, trouble: SqlTrouble) -> None:
        """Have the table examined again before the next call, where it is not as it was."""
        if trouble.is_of_names:
            self._work.key_type = ""

    def _run(self, sql: str, *, settled: str = "", **values: object) -> list[tuple[Any, ...]]:
        self._examine()
        try:
            found = self._server.run(self._work.filled(sql, settled), {"me": self._owner, **values})
        except SqlTrouble as trouble:
            self._doubt(trouble)
            raise
        if self._server.connects != self._connects:
            self._connects = self._server.connects
            self._pace.hurry()
        if self._server.heard():
            self._ring()
        return found

    def _ring(self) -> None:
        """Ring for a note that a call has brought: the connection will not do it any more."""
        if self._bell is None:
            self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        os.eventfd_write(self._bell, 1)

    def _answer(self) -> None:
        """Take in what has rung."""
        if not self._table.notify:
            return
        if self._bell is not None:
            os.close(self._bell)
            self._bell = None
        if self._echo in self._server.notes():
            self._awaits_echo = False

    def _listen_for_echo(self, channel: str) -> None:
        """Notify ourselves now and then; who does not hear it connects anew. Raises: SourceTrouble.

        A proxy, or a server that has forgotten us, may well answer questions and tell us nothing.
        """
        now = time.monotonic()
        if now < self._next_echo:
            return
        if self._echo in self._server.notes():
            self._awaits_echo = False
        if self._awaits_echo:
            self._server.close()
        self._next_echo = now + _ECHO_S
        self._awaits_echo = True
        self._run("SELECT pg_notify(%(channel)s, %(echo)s)", channel=channel, echo=self._echo)

    @property
    def _echo(self) -> str:
        return f"echo {self._owner}"
