"""How the statements about a table of PostgreSQL are put together."""

from __future__ import annotations

from workers.sources.postgres_server import PostgresServer
from workers.sources.postgres_work import Work
from workers.sources.table import Table


def work_of(where: str) -> Work:
    table = Table(
        name="jobs",
        key="id",
        status="status",
        pending="new",
        done="done",
        failed="failed",
        order_by="id",
        where=where,
    )
    work = Work(PostgresServer("postgresql://nowhere/x", io_timeout=1.0), table)
    work.key_type = "bigint"
    return work


def test_names_are_put_in() -> None:
    work = work_of("true")
    assert work.filled("SELECT {key}::{type} FROM {here}") == 'SELECT "id"::bigint FROM "jobs"'


def test_a_where_may_have_braces_of_its_own() -> None:
    """`data #>> '{type}'` is the path of a value in JSON, and no place of ours."""
    where = "data #>> '{type}' = 'order' AND data #>> '{work,key}' = '{has_failed}'"
    assert f"({where})" in work_of(where).filled("SELECT 1 FROM {here} t WHERE {is_pending}")


def test_a_percent_sign_of_the_table_is_no_value() -> None:
    assert "LIKE 'a%%'" in work_of("name LIKE 'a%'").filled("SELECT 1 WHERE {is_pending}")


def test_how_a_row_ended_is_put_in_as_it_is() -> None:
    found = work_of("true").filled("UPDATE {here} SET {settled}", "status = '{type}'")
    assert found == "UPDATE \"jobs\" SET status = '{type}'"
