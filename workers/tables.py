"""The source and the desk of a job of type `table`, by the URL of its database."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from supervisor.config import Job
from supervisor.errors import ConfigError
from supervisor.slot import Slot
from supervisor.urls import LOCK_ON_SQLITE, is_postgres
from workers.sources.source import Source
from workers.sources.table import Table

if TYPE_CHECKING:
    from workers.sources.desk import Desk


def table_of(job: Job) -> Table:
    """Give what a job says of its table."""
    return Table(
        name=job.table,
        key=job.key,
        status=job.status,
        pending=job.pending,
        done=job.done,
        failed=job.failed,
        order_by=job.order_by or job.key,
        where=job.where,
        attempts_column=job.attempts_column,
        error_column=job.error_column,
        notify=str(job.notify) if job.notify else None,
        poll_interval=job.poll_interval,
        is_locked=job.claim == "lock",
        wrong=partial(_wrong, job),
    )


def source_of(slot: Slot) -> Source:
    """Give the source of a job. Raises: ConfigError."""
    job = slot.job
    assert job.url is not None, "a table is in a database"
    url = job.url.reveal()
    times = {"lease_s": job.lease, "io_timeout": job.io_timeout}
    if is_postgres(url):
        if job.claim == "lock":
            from workers.sources.postgres_lock import PostgresLockSource

            return PostgresLockSource(url, slot.owner, table_of(job), **times)
        from workers.sources.postgres_table import PostgresTableSource

        return PostgresTableSource(url, slot.owner, table_of(job), **times)
    _refuse_lock(job)
    from workers.sources.sqlite_file import path_of
    from workers.sources.sqlite_table import SqliteTableSource

    return SqliteTableSource(path_of(url), slot.owner, table_of(job), **times)


def desk_of(job: Job, io_timeout: float) -> Desk:
    """Give a new desk of the table of a job; it connects when it is used."""
    assert job.url is not None, "a table is in a database"
    url = job.url.reveal()
    if is_postgres(url):
        from workers.sources.postgres_table_desk import PostgresTableDesk

        return PostgresTableDesk(url, table_of(job), io_timeout=io_timeout)
    _refuse_lock(job)
    from workers.sources.sqlite_file import path_of
    from workers.sources.sqlite_table_desk import SqliteTableDesk

    return SqliteTableDesk(path_of(url), table_of(job), io_timeout=io_timeout)


def _refuse_lock(job: Job) -> None:
    """Refuse what could not be seen before, as a file holds the URL."""
    if job.claim == "lock":
        raise _wrong(job, "claim", LOCK_ON_SQLITE)


def _wrong(job: Job, key: str, message: str) -> ConfigError:
    return ConfigError(job.problem(key, message))
