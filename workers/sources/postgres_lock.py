"""Rows of a table of PostgreSQL as messages, each held by the lock of an open transaction.

So a handler can work in the very transaction in which its row is marked as done: both are
committed, or neither. Each message has a connection of its own until it is settled; what looks
after everything else is the connection of `PostgresTableSource`, and its statements.

Nothing is written when a row is taken: who dies, or loses a connection, leaves no trace, and the
server frees the row by itself. What lies beside the table in TABLE_work is only what a message
carries over from one call to the next. It is written while the row is locked, before a sibling can
see the row again; only where the connection is gone it is written after that, unless a sibling
has the row by then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Final

from workers.sources.postgres_server import SqlTrouble, text
from workers.sources.postgres_session import RowSession
from workers.sources.postgres_table import FREE_ROWS, PostgresTableSource
from workers.sources.postgres_watch import Watch
from workers.sources.source import (
    Burial,
    Delivery,
    Return,
    Share,
    SourceTrouble,
    lone_crashes_ms,
)
from workers.sources.table import MOST, Table, body_of

_NUMBER: Final = "greatest(1, hashtextextended(key_of_row::text, 0) & 9223372036854775807)"
"""The number of a row by its key: every process comes to the same one without writing it down."""

_NUMBER_HERE: Final = _NUMBER.replace("key_of_row", "t.{key}")
_NUMBER_NEAR: Final = _NUMBER.replace("key_of_row", "near.key")

_LOCK: Final = f"""
    SELECT set_config('workers.row', coalesce((
        WITH locked AS MATERIALIZED (SELECT t.{{key}} AS key {FREE_ROWS}
            ORDER BY t.{{order}} LIMIT 1 FOR NO KEY UPDATE OF t SKIP LOCKED)
        SELECT 'k' || key::text FROM locked), ''), true)
"""
"""Lock the next row, and remember its key until the end of the transaction."""

_LOOK: Final = f"""
    SELECT t.{{key}}::text, row_to_json(t)::text, {_NUMBER_HERE},
        coalesce(w.attempts, 0), coalesce(w.failures, 0), coalesce(w.crashes, 0),
        coalesce(w.suspect, false), w.key IS NOT NULL
    FROM {{here}} t LEFT JOIN {{work}} found ON found.key = t.{{key}}
        LEFT JOIN {{work}} w ON w.key = t.{{key}} AND w.queue IS NULL
    WHERE t.{{key}} = substr(nullif(current_setting('workers.row'), ''), 2)::{{type}}
        AND {{is_pending}} AND found.owner IS NULL AND coalesce(found.due <= now(), true)
"""
"""Look at it again, now that nobody else writes about it. Of a dead letter whose row is to be done
again, by whoever wrote that word, nothing counts any more.
"""

_MINE: Final = """
    WITH mine AS (SELECT t.{key} AS key FROM {here} t
        WHERE t.{key} = %(key)s::text::{type} AND {still_pending} FOR NO KEY UPDATE SKIP LOCKED)
"""
"""The row, where it is still to be done and nobody else has it: within its own transaction, always.
"""

_GONE: Final = ", gone AS (DELETE FROM {work} USING mine WHERE {work}.key = mine.key)"
"""What need not be done for a row of which nothing lies beside the table."""

_SETTLE: Final = f"""
    {_MINE}{_GONE}
    UPDATE {{here}} t SET {{settled}} FROM mine,
        unnest(%(attempts)s::integer[]) AS given (attempts) WHERE t.{{key}} = mine.key
"""

_ANEW: Final = "queue = NULL, id = NULL, error = NULL, traceback = NULL, at = NULL"

_RETURN: Final = f"""
    {_MINE}
    INSERT INTO {{work}} AS w (key, attempts, failures, crashes, suspect, due)
    SELECT key, %(attempts)s, %(failures)s, %(crashes)s, %(suspect)s, CASE WHEN %(delay)s > 0
        THEN now() + %(delay)s * interval '1 second' ELSE '-infinity' END FROM mine
    ON CONFLICT (key) DO UPDATE SET attempts = excluded.attempts, failures = excluded.failures,
        crashes = excluded.crashes, suspect = excluded.suspect, due = excluded.due, {_ANEW}
"""

_BURY: Final = f"""
    {_MINE}, buried AS (
        INSERT INTO {{work}} AS w (key, attempts, failures, crashes,
            queue, id, error, traceback, origin, at)
        SELECT key, %(attempts)s, %(failures)s, %(crashes)s,
            %(queue)s, %(id)s, %(error)s, %(traceback)s, %(origin)s, now() FROM mine
        ON CONFLICT (key) DO UPDATE SET suspect = false, due = '-infinity',
            attempts = excluded.attempts, failures = excluded.failures,
            crashes = excluded.crashes, queue = excluded.queue, id = excluded.id,
            error = excluded.error, traceback = excluded.traceback, origin = excluded.origin,
            at = excluded.at
        RETURNING w.key, w.attempts, w.error
    )
    UPDATE {{here}} t SET {{settled}} FROM buried WHERE t.{{key}} = buried.key
"""

_SET_ASIDE: Final = f"""
    {_MINE}
    INSERT INTO {{work}} AS w (key, attempts, queue, id, error, traceback, origin, at, due)
    SELECT key, %(attempts)s, %(queue)s, key::text, %(error)s, '', split_part(%(me)s, '/', 2),
        now(), 'infinity' FROM mine
    ON CONFLICT (key) DO UPDATE SET suspect = false, due = excluded.due,
        attempts = excluded.attempts, queue = excluded.queue, id = excluded.id,
        error = excluded.error, traceback = '', origin = excluded.origin, at = excluded.at
"""

_MARK: Final = f"""
    WITH near AS MATERIALIZED (SELECT t.{{key}} AS key FROM {{here}} t WHERE {{is_pending}}
        ORDER BY t.{{order}} LIMIT {MOST}
    ), mine AS MATERIALIZED (SELECT t.{{key}} AS key FROM {{here}} t
        WHERE t.{{key}} IN (SELECT key FROM near
            WHERE {_NUMBER_NEAR} = ANY(%(suspects)s::bigint[]))
        FOR NO KEY UPDATE SKIP LOCKED
    )
    INSERT INTO {{work}} AS w (key, suspect, origin) SELECT key, true, %(owner)s FROM mine
    ON CONFLICT (key) DO UPDATE SET suspect = true, origin = excluded.origin,
        crashes = CASE WHEN w.queue IS NULL THEN w.crashes + w.suspect::integer ELSE 0 END,
        due = CASE WHEN w.queue IS NOT NULL OR NOT w.suspect THEN w.due
            WHEN w.crashes = 0 THEN now() + %(first)s * interval '1 ms'
            WHEN w.crashes = 1 THEN now() + %(second)s * interval '1 ms' ELSE w.due END,
        attempts = CASE WHEN w.queue IS NULL THEN w.attempts ELSE 0 END,
        failures = CASE WHEN w.queue IS NULL THEN w.failures ELSE 0 END, {_ANEW}
    WHERE w.origin IS DISTINCT FROM excluded.origin
"""
"""Suspects were taken from the beginning of what is to be done, and are looked for there. Who has
died of it stands in `origin`, so that a death that is told twice counts once. One that a sibling
has taken meanwhile is no suspect: it is being tried.
"""

_ABANDON: Final = """
    INSERT INTO {work} (key, origin) VALUES (%(key)s::text::{type}, %(me)s)
    ON CONFLICT (key) DO UPDATE SET origin = excluded.origin
"""
"""What we have given up in the middle of a call has not killed us, whoever says so later."""

_OF_OWNER: Final = """
    FROM pg_stat_activity WHERE datname = current_database()
        AND starts_with(application_name, %(name)s) AND application_name <> %(mine)s
"""
"""Other connections that hold rows; those of one process, or of all in one seat."""

_END_SESSIONS: Final = f"""
    SELECT count(*) FILTER (WHERE held) FROM (
        SELECT pg_terminate_backend(pid), state <> 'idle' AS held {_OF_OWNER}) told
"""

_COUNT_SESSIONS: Final = f"SELECT count(*), pg_sleep(0.002) {_OF_OWNER}"

_ENDED_S: Final = 2.0
"""How long to wait for sessions to end that were told to."""

_SPARE_S: Final = 60.0
"""A connection that was not used for so long is closed."""

_LONGEST: Final = 32
"""A longer name of a seat is hashed: the name of a connection has 63 bytes (NAMEDATALEN)."""

_log = logging.getLogger(__name__)


class PostgresLockSource(PostgresTableSource):
    """The Source of a table with `claim = lock`. Used by the work loop's thread only."""

    _ASIDE = _SET_ASIDE

    def __init__(
        self, url: str, owner: str, table: Table, *, lease_s: float, io_timeout: float
    ) -> None:
        super().__init__(url, owner, table, lease_s=lease_s, io_timeout=io_timeout)
        self._url = url
        self._io_timeout = io_timeout
        self._watch = Watch(io_timeout)
        self._sessions: dict[int, tuple[RowSession, Delivery, str]] = {}
        self._spare: list[tuple[RowSession, float]] = []

    def close(self) -> None:
        """Disconnect; what is still in a handler is undone."""
        sessions = [session for session, _, _ in self._sessions.values()]
        for session in (*sessions, *(session for session, _ in self._spare)):
            session.end()
        self._sessions.clear()
        self._spare.clear()
        self._watch.close()
        super().close()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Lock what is to be done and free, in the table's order, each row by its connection."""
        self._answer()
        self._examine()
        wanted = limit if any(topic == self._table.name for topic, _ in shares) else 0
        found: list[Delivery] = []
        while len(found) < wanted:
            try:
                delivery = self._take()
            except SourceTrouble as trouble:
                if not found:
                    raise
                _log.debug("fewer rows than wanted: %s", trouble)
                break
            if delivery is None:
                break
            found.append(delivery)
        self._pace.looked(is_full=0 < wanted == len(found))
        return found

    def tend(self) -> Collection[int]:
        """Look after the table as ever; close connections that nobody needs."""
        now = time.monotonic()
        while self._spare and self._spare[0][1] + _SPARE_S < now:
            self._spare.pop(0)[0].end()
        return super().tend()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Take note of what its session has committed; settle what no handler was called for."""
        for one in deliveries:
            self._settle_by(one, _SETTLE, self._table.done)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Write `failed`, and nothing about why."""
        for one in deliveries:
            self._settle_by(one, _SETTLE, self._table.failed)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Write `failed` into the rows, and into TABLE_work why."""
        for burial in burials:
            self._settle_by(
                burial.delivery,
                _BURY,
                self._table.failed,
                queue=burial.queue,
                id=text(burial.id),
                error=text(burial.error),
                traceback=text(burial.traceback),
                origin=burial.origin,
            )

    def nack(self, returns: Sequence[Return]) -> None:
        """Undo what the handlers did, write the counters down, and let the rows go."""
        for back in returns:
            if back.delivery.number in self._sessions:
                self._give_back(back)
                self._pace.delay(back.delay_s)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Give those whose connection is gone; a lock needs no renewal."""
        numbers = {one.number for one in deliveries}
        held = {n for n in numbers & self._sessions.keys() if not self._sessions[n][0].is_cut()}
        return numbers - held

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """End what the server still has of a dead process, and mark what its handlers were at.

        It frees leases too: those of a process that began before the job was changed to locks.
        """
        freed = super().release(owner, suspects)
        freed += self._end_sessions(_name_of(owner))
        if suspects:
            first, second = lone_crashes_ms()
            self._run(_MARK, owner=owner, suspects=list(suspects), first=first, second=second)
        return freed

    def release_seat(self, seat: str) -> int:
        """End what the server still has of earlier processes of the own slot."""
        return super().release_seat(seat) + self._end_sessions(_name_of(seat))

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what is to be done and free, up to a bound."""
        waiting = super().backlog(topics)
        return max(0, waiting - self._work.locked()) if waiting else 0

    def _take(self) -> Delivery | None:
        """Lock one row. Raises: SourceTrouble."""
        session = self._next_session()
        try:
            row = session.hold(self._work.filled(_LOCK), self._work.filled(_LOOK))
        except SqlTrouble as trouble:
            self._doubt(trouble)
            raise
        if row is None:
            self._spare.append((session, time.monotonic()))
            return None
        key, line, number, attempts, failures, crashes, suspect, has_more = row
        sql = _SETTLE if has_more else _SETTLE.replace(_GONE, "")
        session.done = self._filled(sql, self._table.done), {"key": key}
        body, topic = body_of(key, line), self._table.name
        delivery = Delivery(
            number, topic, body, attempts, failures, crashes, suspect, session=session
        )
        self._sessions[number] = session, delivery, key
        return delivery

    def _next_session(self) -> RowSession:
        while self._spare:
            session, _ = self._spare.pop()
            if not session.is_cut():
                return session
            session.end()
        return self._connect()

    def _connect(self) -> RowSession:
        name = _name_of(self._owner)
        times = {"io_timeout": self._io_timeout, "lease_s": self._lease_s}
        return RowSession(self._url, self._watch, name=name, **times)

    def _settle_by(self, one: Delivery, sql: str, word: str, **values: object) -> None:
        """Write how a row ended, unless it was lost: then it comes again, to whomever."""
        if one.number not in self._sessions:
            return
        session, _, key = self._sessions[one.number]
        if session.is_done or session.is_cut():
            self._part(one.number)
            return
        is_letter = sql is _BURY
        counters: dict[str, object] = {"attempts": [one.attempts]}
        if is_letter:
            counters = {"attempts": one.attempts, "failures": one.failures, "crashes": one.crashes}
        filled = self._filled(sql, word, is_letter=is_letter)
        refused = self._write(one.number, filled, {"key": key, **counters, **values})
        if refused is not None:
            self._set_aside(one, key, refused)

    def _give_back(self, back: Return) -> None:
        one = back.delivery
        session, taken, key = self._sessions[one.number]
        if session.is_called:
            self._run(_ABANDON, key=key)
            self._part(one.number)
        elif session.is_done:
            self._part(one.number)
        elif one == taken and not back.delay_s:
            with suppress(SourceTrouble):  # it is let go in any case
                session.let_go()
            self._part(one.number)
        else:
            values = {
                "key": key,
                "attempts": one.attempts,
                "failures": one.failures,
                "crashes": one.crashes,
                "suspect": one.suspect,
                "delay": back.delay_s,
            }
            self._write(one.number, self._work.filled(_RETURN), values)

    def _write(self, number: int, sql: str, values: Mapping[str, object]) -> SqlTrouble | None:
        """Settle by the session; where it is gone, by our own connection.

        Gives why the row takes no such word, if so; it is let go then. Raises: SourceTrouble.
        """
        session, refused = self._sessions[number][0], None
        if not session.is_cut():
            try:
                session.settle(sql, values)
            except SourceTrouble as trouble:
                _log.debug("the transaction of a row is gone: %s", trouble)
        if session.is_cut():
            try:
                self._server.run(sql, values)
            except SqlTrouble as trouble:
                self._doubt(trouble)
                if not trouble.is_of_values:
                    raise
                refused = trouble
        self._part(number)
        return refused

    def _part(self, number: int) -> None:
        """Forget a row that is settled; its connection is free for another."""
        session = self._sessions.pop(number)[0]
        if session.is_called or session.is_cut():
            session.end()
        else:
            self._spare.append((session, time.monotonic()))

    def _filled(self, sql: str, word: str, *, is_letter: bool = False) -> str:
        by = ("buried.attempts", "buried.error") if is_letter else ("given.attempts",)
        return self._work.filled(sql, self._table.settled(word, *by))

    def _end_sessions(self, name: str) -> int:
        """Have the server end others' sessions; give how many of them held a row."""
        values = {"name": name, "mine": _name_of(self._owner)}
        [(ended,)] = self._run(_END_SESSIONS, **values)
        until = time.monotonic() + min(_ENDED_S, self._io_timeout)
        while self._run(_COUNT_SESSIONS, **values)[0][0] and time.monotonic() < until:
            pass
        return int(ended)


def _name_of(owner: str) -> str:
    """Give the name of the connections of a process, or how those of its seat begin."""
    seat, _, incarnation = owner.rpartition("/")
    if len(seat) > _LONGEST or not seat.isascii():
        seat = blake2b(seat.encode(), digest_size=16).hexdigest()
    return f"row of {seat}/{incarnation}{'.' if incarnation else ''}"
