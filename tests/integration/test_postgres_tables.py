"""A table of PostgreSQL under a real supervisor: NOTIFY, unusual names, what check says of it."""

from __future__ import annotations

import signal
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.sections import section
from workers.sources.postgres_table_desk import PostgresTableDesk
from workers.sources.table import Table

HANDLERS = """
from ledger import note

def handle(message, context):
    if message.data["amount"] < 0:
        raise ValueError("50% of a \\0 amount")
    note("done", message.id)
"""

MODULES = {"shop": HANDLERS, "ledger": SOURCE}

KEYS = {
    "type": "table",
    "table": "shop.Payments",
    "key": "code",
    "status": "state",
    "pending": 0,
    "done": 1,
    "failed": 2,
    "order_by": "at",
    "where": "t.note LIKE 'to%'",
    "attempts_column": "tries",
    "error_column": "why",
    "notify": "Payments",
    "retries": 0,
    "handler": "shop:handle",
}


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.empty()
    with postgres_server.cursor() as cursor:
        cursor.execute(
            'DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop; CREATE TABLE shop."Payments"'
            " (code text PRIMARY KEY, state smallint DEFAULT 0, at timestamptz DEFAULT now(),"
            " amount numeric, note text DEFAULT 'to do', tries integer, why text, other text,"
            " extra json);"
            ' CREATE INDEX ON shop."Payments" (at) WHERE state = 0'
        )
    return postgres_server


def insert(server: PostgresServer, code: str, amount: int, note: str = "to do") -> None:
    with server.cursor() as cursor:
        cursor.execute(
            'INSERT INTO shop."Payments" (code, amount, note) VALUES (%s, %s, %s);'
            ' NOTIFY "Payments"',
            (code, amount, note),
        )


def row(server: PostgresServer, code: str) -> tuple[object, ...]:
    with server.cursor() as cursor:
        cursor.execute('SELECT state, tries, why FROM shop."Payments" WHERE code = %s', (code,))
        found: tuple[object, ...] = cursor.fetchone()
    return found


@pytest.mark.parametrize("claim", ["lock", "lease"])
def test_a_notification_wakes_and_what_failed_is_replayed(
    supervise: Supervise, server: PostgresServer, claim: str
) -> None:
    # Nobody would look at the table again within the test.
    jobs = section("pay", url=server.url, poll_interval="1h", claim=claim, **KEYS)
    supervisor = supervise(jobs, MODULES)
    insert(server, "é'1", 5)
    Ledger(supervisor).wait("done", "é'1")
    eventually(lambda: row(server, "é'1") == (1, 1, None))
    insert(server, "skipped", 5, note="done already")
    insert(server, "bad", -1)
    error = "ValueError: 50% of a \\0 amount"
    eventually(lambda: row(server, "bad") == (2, 1, error))
    [letter] = supervisor.json("dead", "list", "shop.Payments")
    assert (letter["id"], letter["error"], letter["data"]["amount"]) == ("bad", error, -1)
    with server.cursor() as cursor:
        cursor.execute("UPDATE shop.\"Payments\" SET amount = 1 WHERE code = 'bad'")
    replayed = supervisor.cli("dead", "replay", "shop.Payments")
    assert replayed.returncode == 0, replayed.stderr
    insert(server, "last", 1)
    Ledger(supervisor).wait("done", "bad")
    Ledger(supervisor).wait("done", "last")
    assert row(server, "skipped") == (0, None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": "Payments"}, "table: there is no table Payments in the database"),
        ({"status": "status"}, "status: shop.Payments has no column status (it has: code, state,"),
        ({"key": "other"}, "key: other is not unique in shop.Payments; it needs CREATE UNIQUE IND"),
        ({"where": "t.sho = 1"}, "where: cannot be used: column t.sho does not exist"),
        ({"done": "paid"}, "done: cannot be used: invalid input syntax for type smallint"),
        ({"failed": "lost"}, "failed: cannot be used: invalid input syntax for type smallint"),
        ({"pending": "new"}, "pending: cannot be used: invalid input syntax for type smallint"),
        (
            {"order_by": "extra"},
            "order_by: cannot be used: could not identify an ordering operator",
        ),
        ({"attempts_column": "at"}, 'attempts_column: cannot be used: column "at" is of type'),
        ({"error_column": "tries"}, 'error_column: cannot be used: column "tries" is of type int'),
    ],
)
def test_check_names_what_is_not_as_the_job_says(
    supervise: Supervise, server: PostgresServer, changes: dict[str, str], words: str
) -> None:
    jobs = section("pay", url=server.url, **KEYS | changes)
    checked = supervise(jobs, MODULES, start=False).cli("check")
    assert checked.returncode == 78
    assert f"[daemon:pay] {words}" in checked.stderr


def test_check_prints_the_ddl_of_an_index_that_is_missing(
    supervise: Supervise, server: PostgresServer
) -> None:
    jobs = section("pay", url=server.url, **KEYS | {"order_by": "code"})
    checked = supervise(jobs, MODULES, start=False).cli("check")
    assert checked.returncode == 0
    ddl = 'CREATE INDEX CONCURRENTLY ON "shop"."Payments" ("code") WHERE "state" = \'0\''
    assert f"has no index of what is to be done; it needs {ddl}" in checked.stderr
    with server.cursor() as cursor:
        cursor.execute(ddl)
    supervisor = supervise(jobs, MODULES, start=False)
    assert "has no index" not in supervisor.cli("check").stderr


def test_an_index_of_other_rows_does_not_count(server: PostgresServer) -> None:
    """Of the words of a status that only look like the one of a job, or come with a condition."""
    with server.cursor() as cursor:
        cursor.execute("CREATE TABLE shop.jobs (id bigserial PRIMARY KEY, at int, status varchar)")

    def hints(index: str, **more: Any) -> list[str]:
        words = ("id", "status", "pending", "done", "failed", "at")
        with server.cursor() as cursor:
            cursor.execute(f"DROP INDEX IF EXISTS shop.i; CREATE INDEX i ON shop.jobs {index}")
        desk = PostgresTableDesk(server.url, Table("shop.jobs", *words, **more), io_timeout=30)
        with closing(desk):
            return desk.look()

    for good in (
        "(at) WHERE status = 'pending'",
        "(at, id) WHERE (status::text = 'pending'::text)",
        "(status, at)",
    ):
        assert not hints(good), good
    for bad in (
        "(at) WHERE status <> 'pending'",
        "(at) WHERE status = 'pending_review'",
        "(at) WHERE status = 'pending' AND id > 7",
        "(id) WHERE status = 'pending'",
        "(at)",
    ):
        assert hints(bad), bad
    assert not hints("(at) WHERE status = 'pending' AND id > 7", where="t.id > 7")


def test_who_heard_nothing_for_a_while_looks_by_itself(supervise: Supervise) -> None:
    """What was inserted while the server was away, or before anybody listened again, is found."""
    with closing(PostgresServer()) as server:
        with server.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE jobs (id int PRIMARY KEY, amount int DEFAULT 1,"
                " status text DEFAULT 'pending')"
            )

        def handle(number: int) -> None:
            with server.cursor() as cursor:
                cursor.execute("INSERT INTO jobs VALUES (%s); NOTIFY jobs", (number,))
            eventually(lambda: states() == {"done"})

        def states() -> set[str]:
            with server.cursor() as cursor:
                cursor.execute("SELECT status FROM jobs")
                return {word for (word,) in cursor}

        keys = {"type": "table", "table": "jobs", "notify": "jobs", "handler": "shop:handle"}
        jobs = section("work", url=server.url, poll_interval="1h", io_timeout="2s", **keys)
        supervisor = supervise(jobs, MODULES)
        handle(1)
        for number, how in ((2, signal.SIGINT), (4, signal.SIGQUIT)):
            server.stop(how)
            server.start()
            handle(number)  # perhaps nobody listens yet
            handle(number + 1)
        assert supervisor.status()["processes"][0]["restarts"] == 0
        assert supervisor.stop() == 0


def test_check_prints_the_ddl_of_what_may_not_be_made(
    supervise: Supervise, server: PostgresServer
) -> None:
    with server.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE clerk LOGIN; GRANT USAGE ON SCHEMA shop TO clerk;"
            ' GRANT SELECT, UPDATE ON shop."Payments" TO clerk'
        )
    try:
        jobs = section("pay", url=server.url.replace("tests@", "clerk@"), **KEYS)
        supervisor = supervise(jobs, MODULES, start=False)
        checked = supervisor.cli("check")
        assert checked.returncode == 78
        words = "shop.Payments_work is missing, and may not be made here; it needs CREATE TABLE IF"
        assert words in checked.stderr
        supervisor.start(wait=False)
        supervisor.wait_process("pay:0", lambda found: found["state"] == "FATAL")
        supervisor.wait_line(words)
    finally:
        with server.cursor() as cursor:
            cursor.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_check_prints_the_ddl_of_handled_keys_that_may_not_be_made(
    supervise: Supervise, server: PostgresServer
) -> None:
    with server.cursor() as cursor:
        cursor.execute(
            "CREATE ROLE clerk LOGIN; ALTER ROLE clerk SET search_path = shop;"
            " GRANT USAGE ON SCHEMA shop TO clerk"
        )
    try:
        store = server.url.replace("tests@", "clerk@")
        jobs = section(
            "mails", type="queue", url="sqlite:///q.db", topics="mails", idempotency=store
        )
        supervisor = supervise(jobs, start=False)
        checked = supervisor.cli("check")
        assert checked.returncode == 69
        words = (
            "workers_handled is missing, and may not be made here;"
            " it needs CREATE TABLE IF NOT EXISTS workers_handled ("
        )
        assert words in checked.stderr
        supervisor.start(wait=False)
        supervisor.wait_line(words)
        with server.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE shop.workers_handled (scope text, key text, owner text,"
                " until timestamptz NOT NULL, PRIMARY KEY (scope, key));"
                " GRANT SELECT, INSERT, UPDATE, DELETE ON shop.workers_handled TO clerk"
            )
        supervisor.wait_process("mails:0", lambda found: found["ready"])
        assert supervisor.cli("check").returncode == 0
    finally:
        with server.cursor() as cursor:
            cursor.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_a_server_that_does_not_answer_is_69(supervise: Supervise) -> None:
    jobs = section("pay", url="postgresql://me:hush@127.0.0.1:1/shop", **KEYS)
    checked = supervise(jobs, MODULES, start=False).cli("check")
    assert checked.returncode == 69
    words = "url: the database of postgresql://me:***@127.0.0.1:1/shop cannot be used: "
    assert words in checked.stderr
    assert "Connection refused" in checked.stderr
    assert "hush" not in checked.stderr


@pytest.mark.parametrize("url", ["postgresql://me:hush@127.0.0.1:1/shop", "${file:store}"])
def test_a_store_of_keys_that_does_not_answer_is_69(supervise: Supervise, url: str) -> None:
    jobs = section(
        "pay",
        url="sqlite:///queue.db",
        type="queue",
        topics="pay",
        handler="shop:handle",
        idempotency=url,
    )
    supervisor = supervise(jobs, MODULES, start=False)
    supervisor.write("store", "postgresql://me:hush@127.0.0.1:1/shop\n").chmod(0o600)
    checked = supervisor.cli("check")
    assert checked.returncode == 69
    assert "idempotency: the server of " in checked.stderr
    assert "Connection refused" in checked.stderr
    assert "hush" not in checked.stderr


@pytest.mark.parametrize("claim", ["lock", "lease"])
def test_a_row_that_takes_no_word_is_set_aside_and_holds_up_nobody(
    supervise: Supervise, server: PostgresServer, claim: str
) -> None:
    with server.cursor() as cursor:
        cursor.execute(
            'ALTER TABLE shop."Payments" ADD CONSTRAINT never CHECK'
            " (code NOT IN ('undone', 'unfailed') OR state = 0)"
        )
        cursor.execute(
            'INSERT INTO shop."Payments" (code, amount) VALUES'
            " ('undone', 5), ('unfailed', -5), ('good', 5), ('bad', -5)"
        )
    supervisor = supervise(section("pay", url=server.url, claim=claim, **KEYS), MODULES)
    eventually(lambda: (row(server, "good")[0], row(server, "bad")[0]) == (1, 2))

    def letters() -> dict[str, str]:
        return {one["id"]: one["error"] for one in supervisor.json("dead", "list", "shop.Payments")}

    eventually(lambda: letters().keys() == {"bad", "undone", "unfailed"})
    for name in ("undone", "unfailed"):
        assert row(server, name) == (0, None, None)
        assert letters()[name].startswith("its row cannot be written: new row for relation")
    [depth] = supervisor.json("queue", "list")
    assert (depth["depth"], depth["delayed"], depth["in_flight"], depth["dead"]) == (0, 0, 0, 3)
    supervisor.wait_line("message is set aside: its row cannot be written: new row for relation")
    assert Ledger(supervisor).counts("done").keys() == {"good", "undone"}
    with server.cursor() as cursor:
        cursor.execute('ALTER TABLE shop."Payments" DROP CONSTRAINT never')
    assert supervisor.cli("dead", "replay", "shop.Payments", "--id", "undone").returncode == 0
    eventually(lambda: row(server, "undone") == (1, 1, None))
    assert letters().keys() == {"bad", "unfailed"}


@pytest.mark.parametrize(
    "change", ['DROP TABLE "Payments_work"', 'ALTER TABLE "Payments" RENAME TO x']
)
@pytest.mark.parametrize("claim", ["lock", "lease"])
def test_what_is_dropped_while_it_runs_is_said_and_taken_up_again(
    supervise: Supervise, server: PostgresServer, claim: str, change: str
) -> None:
    supervisor = supervise(section("pay", url=server.url, claim=claim, **KEYS), MODULES)
    with server.cursor() as cursor:
        cursor.execute(f"SET search_path = shop; {change}")
    if "RENAME" in change:
        words = "not ready: the queue cannot be used: there is no table shop.Payments in"
        supervisor.wait_process("pay:0", lambda found: words in found["why"])
        with server.cursor() as cursor:
            cursor.execute('ALTER TABLE shop.x RENAME TO "Payments"')
    insert(server, "after", 5)
    Ledger(supervisor).wait("done", "after")
    supervisor.wait_process("pay:0", lambda found: found["ready"])
