"""The shipped handlers of the gateway, and the shipped configurations that name them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.loading import load
from workers import gateway, handlers
from workers.testing import Outcome, run


def test_the_gateway_sends_each_message_once(tmp_path: Path) -> None:
    options = {"database": str(tmp_path / "shop" / "gateway.db")}
    order = {"order_id": "12345", "user_id": "67890", "type": "payment_reminder", "amount": 299.99}
    for _ in range(2):
        assert run(gateway.order_reminder, order, options=options, id="m1").ok
    assert run(
        gateway.user_notification, {"user_id": 1, "title": "hi"}, options=options, id="m2"
    ).ok
    database = sqlite3.connect(options["database"])
    sent = database.execute("SELECT message_id, kind, user_id FROM sent ORDER BY 1").fetchall()
    assert sent == [("m1", "payment_reminder", "67890"), ("m2", "notification", "1")]
    database.execute("UPDATE orders SET state = 'paid'")
    database.execute("UPDATE users SET wants_mail = 0")
    database.commit()
    database.close()
    assert run(gateway.order_reminder, order, options=options).status == "skipped"
    note = {"user_id": 1, "title": "hi"}
    assert run(gateway.user_notification, note, options=options).status == "skipped"


@pytest.mark.parametrize("data", [None, [], "text", {}, {"order_id": ""}, {"user_id": 1}])
def test_the_gateway_rejects_what_can_never_work(data: object, tmp_path: Path) -> None:
    options = {"database": str(tmp_path / "g.db")}
    assert run(gateway.order_reminder, data, options=options).status == "dead"
    assert not (tmp_path / "g.db").exists()


def test_an_unknown_topic_is_said_and_handled(caplog: pytest.LogCaptureFixture) -> None:
    assert run(gateway.unhandled, 1, topic="x").ok
    assert "unhandled message" in caplog.text


PAYMENT = {"order_id": "o1", "user_id": "u1", "amount": 299.99}


def rows(database: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    return database.execute(query).fetchall()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give the gateway's database, at the path that `options` gives."""
    assert run(gateway.system_cleanup, None, options=options(tmp_path)).ok
    with closing(sqlite3.connect(tmp_path / "g.db", isolation_level=None)) as database:
        yield database


def options(folder: Path, **more: str) -> dict[str, str]:
    return {"database": str(folder / "g.db"), **more}


def pay(folder: Path, attempt: int = 1, **more: object) -> Outcome:
    given = options(folder, payment_tries="3", payment_pause="10")
    return run(gateway.payment_retry, PAYMENT | more, options=given, attempt=attempt)


def test_a_payment_is_made_once_and_pays_its_order(
    tmp_path: Path, shop: sqlite3.Connection
) -> None:
    shop.execute("INSERT INTO accounts VALUES ('u1', 70000)")
    assert pay(tmp_path).ok
    assert pay(tmp_path).status == "skipped"
    assert rows(shop, "SELECT cents FROM accounts") == [(40001,)]
    assert rows(shop, "SELECT order_id, state FROM orders") == [("o1", "paid")]
    assert pay(tmp_path, payment_id="p2").ok
    assert rows(shop, "SELECT payment_id, cents FROM payments") == [("o1", 29999), ("p2", 29999)]


def test_a_payment_without_money_is_tried_again_and_given_up(
    tmp_path: Path, shop: sqlite3.Connection
) -> None:
    first, second, third = (pay(tmp_path, attempt) for attempt in (1, 2, 3))
    assert (first.status, first.after, second.after) == ("retried", 10, 20)
    assert third.status == "dead"
    assert "has too little" in third.reason
    assert rows(shop, "SELECT * FROM payments") == []
    assert rows(shop, "SELECT * FROM accounts") == []


@pytest.mark.parametrize("amount", [None, "", 0, -1, "x", "nan", "inf", 1.005, [], True])
def test_a_payment_of_no_amount_is_dead(
    tmp_path: Path, shop: sqlite3.Connection, amount: object
) -> None:
    assert pay(tmp_path, amount=amount).status == "dead"


def alert(folder: Path, stock: object, id: str, **more: object) -> Outcome:  # noqa: A002
    data = {"product_id": "tea", "stock": stock, **more}
    return run(gateway.inventory_alert, data, options=options(folder), id=id)


def test_a_product_that_gets_short_is_ordered_once_until_there_was_enough(
    tmp_path: Path, shop: sqlite3.Connection
) -> None:
    for number, stock in enumerate((12, 9, 3, 40, 2)):
        assert alert(tmp_path, stock, f"a{number}").ok
    assert rows(shop, "SELECT message_id, user_id, text FROM sent") == [
        ("a1", "warehouse", "buy tea: 9 left, 10 wanted"),
        ("a4", "warehouse", "buy tea: 2 left, 10 wanted"),
    ]
    assert rows(shop, "SELECT pieces, is_short FROM stock") == [(2, 1)]
    assert alert(tmp_path, 2, "a5", threshold=2).ok
    assert rows(shop, "SELECT is_short FROM stock") == [(0,)]
    shop.execute("UPDATE stock SET at = '9'")
    assert alert(tmp_path, 1, "a6").status == "skipped"
    assert rows(shop, "SELECT pieces FROM stock") == [(2,)]


@pytest.mark.parametrize("stock", [None, "", "few", -1, 1.5])
def test_a_stock_that_is_no_number_is_dead(
    tmp_path: Path, shop: sqlite3.Connection, stock: object
) -> None:
    assert alert(tmp_path, stock, "a").status == "dead"


def test_the_cleanup_deletes_what_is_old(tmp_path: Path, shop: sqlite3.Connection) -> None:
    def left(data: object, **more: str) -> list[tuple[object, ...]]:
        shop.execute("DELETE FROM sent")
        for days in (1, 10, 100):
            shop.execute(
                "INSERT INTO sent VALUES (?, 'k', 'u', 't',"
                " strftime('%Y-%m-%dT%H:%M:%S', 'now', ?))",
                (days, f"-{days} days"),
            )
        assert run(gateway.system_cleanup, data, options=options(tmp_path, **more)).ok
        return rows(shop, "SELECT message_id FROM sent ORDER BY at DESC")

    assert left(None) == [("1",), ("10",)]
    assert left({"why": "x"}, keep_days="5") == [("1",)]
    assert left({"keep_days": 50}, keep_days="5") == [("1",), ("10",)]
    assert left({"keep_days": 10**9}) == [("1",), ("10",), ("100",)]
    assert left({"keep_days": 0}) == []
    for wrong in ("soon", -1, 1.5):
        assert (
            run(gateway.system_cleanup, {"keep_days": wrong}, options=options(tmp_path)).status
            == "dead"
        )


ETC = Path(__file__).parents[2] / "etc"


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("workers", ["queue", "table", "scheduled", "worker", "program"]),
        ("gateway-worker", ["queue"]),
    ],
)
def test_the_shipped_examples_are_valid_and_their_handlers_are_there(
    name: str, types: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("REDIS_HOST", "REDIS_PORT"):
        monkeypatch.delenv(variable, raising=False)
    config = load(ETC / f"{name}.ini")
    assert config.name == name
    assert [job.type for job in config.jobs] == types
    assert config.warnings == ()
    for job in config.jobs:
        for target in filter(None, (job.handler, job.target, *job.handlers.values())):
            assert callable(handlers.load(target))


def test_the_gateway_of_the_servers_listens_where_its_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_HOST", "redis-service")
    monkeypatch.setenv("REDIS_PORT", "6380")
    [job] = load(ETC / "gateway-worker.ini").jobs
    assert job.url is not None
    assert job.url.reveal() == "redis://redis-service:6380/0"
    assert len(job.handlers) == len(job.topics) == 5
