"""Once a key, over every source: duplicates, failures, siblings, crashes at every step."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from supervisor.config import Job
from supervisor.secret import Secret
from supervisor.slot import FALLEN, Fallen
from tests.conformance.conftest import Bench, by_the_clock, empty
from tests.helpers import shop
from tests.helpers.forked import Nursery
from workers import Context, Message, codec
from workers.sources.postgres_keys import PostgresKeys
from workers.sources.redis_keys import RedisKeys
from workers.sources.sqlite_file import path_of
from workers.sources.sqlite_keys import SqliteKeys

pytestmark = by_the_clock


@pytest.fixture(params=["beside", "queue"])
def store(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> str:
    """The keys in a file of their own, or in that of the queue."""
    url = bench.job(tmp_path).url
    return url.reveal() if request.param == "queue" and url else f"sqlite:///{tmp_path}/keys.db"


def job(bench: Bench, journal: shop.Journal, store: str, **more: Any) -> Job:
    more = {"idempotency_key": "data.n"} | more
    return bench.job(journal.path, idempotency=Secret((store,)), **more)


def calls(journal: shop.Journal, pid: int) -> list[str]:
    """Give the key of each call that a process has ended."""
    lines = journal.lines()
    return [line[1].split(".")[0] for line in lines if line[0] == "end" and line[2] == str(pid)]


def keys_class(store: str) -> type[SqliteKeys | RedisKeys | PostgresKeys]:
    """Give the class of the store that a URL means."""
    if store.startswith("postgresql:"):
        return PostgresKeys
    return RedisKeys if store.startswith("redis:") else SqliteKeys


def remembered(store: str) -> set[str]:
    if store.startswith("redis:"):
        with redis.Redis.from_url(store, decode_responses=True) as client:
            names = [name for name in client.keys("mq:once:*") if client.type(name) == "string"]
            return {name.rpartition(":")[2] for name in names if client.get(name) == ""}
    if store.startswith("postgresql:"):
        with closing(psycopg2.connect(store)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT key FROM workers_handled WHERE owner IS NULL")
            return {key for (key,) in cursor.fetchall()}
    database = sqlite3.connect(path_of(store))
    found = database.execute("SELECT key FROM handled WHERE owner IS NULL").fetchall()
    database.close()
    return {key for (key,) in found}


def publish(bench: Bench, *data: object, **fields: Any) -> None:
    for one in data:
        number = one.get("n") if isinstance(one, dict) else None
        text = codec.encode("t", one, message_id=f"{number}.{os.urandom(4).hex()}", **fields)
        bench.publish_raw("t", text)


def test_what_was_done_is_acknowledged_without_a_call(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, *({"n": n % 20} for n in range(60)))
    one = nursery.fork(job(bench, journal, store))
    one.until(empty(bench))
    assert one.stop() == 0
    read = one.page.read()
    assert (read.done, read.skipped, read.dead, read.failed) == (20, 40, 0, 0)
    assert len(calls(journal, one.pid)) == 20
    assert one.said("message skipped: its idempotency key 7 was handled before")
    publish(bench, {"n": 3}, {"n": 20})
    two = nursery.fork(one.slot.job)
    two.until(empty(bench))
    assert two.stop() == 0
    assert (two.page.read().done, two.page.read().skipped) == (21, 41)


def test_a_failure_gives_its_key_up_and_the_retry_is_a_call(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, {"n": 1, "fail": 2}, {"n": 2, "fail": 99}, {"n": 3, "raise": "retry"})
    publish(bench, {"n": 4, "raise": "reject"}, {"n": 5, "raise": "skip"})
    one = nursery.fork(job(bench, journal, store))
    one.until(empty(bench))
    # Written down first, and then counted.
    one.until(lambda: (read := one.page.read()).done == read.dead == 2 and read.skipped == 1)
    # What is dead was not done: the same key may come again. What needed no work is done.
    publish(bench, {"n": 2}, {"n": 4}, {"n": 5})
    one.until(lambda: empty(bench)() and one.page.read().done == 4)
    assert one.stop() == 0
    assert one.page.read().skipped == 2


def test_two_at_once_are_one_call(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, {"n": 1, "gate": True})
    one = nursery.fork(job(bench, journal, store))
    one.until(lambda: journal.counts("begin"))
    publish(bench, {"n": 1, "gate": True}, {"n": 1, "gate": True})
    two = nursery.fork(one.slot.job, 1)
    # Somebody has looked at both, and put them off.
    two.until(lambda: bench.depth("t").delayed == 2)
    shop.open_gate(journal.path)
    two.until(empty(bench))
    assert (one.stop(), two.stop()) == (0, 0)
    assert journal.counts("begin").total() == 1
    assert one.page.read().skipped + two.page.read().skipped == 2


def test_a_dead_process_blocks_nobody(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, {"n": 1, "gate": True})
    one = nursery.fork(job(bench, journal, store, lease=3600.0))
    one.until(lambda: journal.counts("begin"))
    two = nursery.fork(one.slot.job, 1)
    two.until_ready()
    one.kill()
    one.wait()
    shop.open_gate(journal.path)
    two.order(FALLEN + b" " + Fallen(one.slot.owner, one.page.suspects()).encode())
    two.until(empty(bench))
    assert two.stop() == 0
    assert (two.page.read().done, two.page.read().skipped) == (1, 0)


def test_a_new_process_of_the_seat_takes_back_what_the_last_one_claimed(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, *({"n": n, "gate": True} for n in range(20)))
    one = nursery.fork(job(bench, journal, store, lease=3600.0))
    one.until(lambda: len(journal.counts("begin")) == 10)
    one.kill()
    one.wait()
    shop.open_gate(journal.path)
    two = nursery.fork(one.slot.job)
    two.until(empty(bench))
    assert two.stop() == 0
    assert (two.page.read().done, two.page.read().skipped) == (20, 0)


@pytest.mark.parametrize("step", ["done", "claim", "release"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_every_step_of_the_store_loses_nothing_and_blocks_nobody(
    bench: Bench,
    nursery: Nursery,
    journal: shop.Journal,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    when: str,
) -> None:
    publish(bench, *({"n": n} for n in range(30)), {"n": 30, "fail": 1})
    publish(bench, *({"n": n} for n in range(10)))
    real = getattr(keys_class(store), step)

    def deadly(*arguments: object) -> object:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    with monkeypatch.context() as patch:
        patch.setattr(keys_class(store), step, deadly)
        one = nursery.fork(job(bench, journal, store, lease=3600.0))
    assert one.wait() == -signal.SIGKILL
    done = remembered(store)
    two = nursery.fork(one.slot.job, 0, (Fallen(one.slot.owner, one.page.suspects()),))
    two.until(empty(bench))
    assert two.stop() == 0
    again = calls(journal, two.pid)
    assert sorted(map(int, {*calls(journal, one.pid), *again})) == list(range(31))
    assert len(again) == len(set(again)), "one living process: each key once"
    assert not done & set(again), "it was written down, and came again, and was not called"
    assert (two.page.read().dead, remembered(store)) == (0, {str(n) for n in range(31)})
    if step != "release":
        assert bool(done) == ((when, step) == ("after", "done"))


@pytest.mark.parametrize(
    ("rule", "data", "name"),
    [("data.n", {"m": 1}, "data.n"), ("data.n.o", 7, "data.n.o"), ("key", 1, "key")],
)
def test_a_message_without_its_key_is_dead_and_says_so(
    bench: Bench,
    nursery: Nursery,
    journal: shop.Journal,
    store: str,
    rule: str,
    data: object,
    name: str,
) -> None:
    publish(bench, data)
    one = nursery.fork(job(bench, journal, store, idempotency_key=rule))
    one.until(empty(bench))
    assert one.stop() == 0
    [letter] = bench.letters("t")
    assert letter.error == f"the message has no {name}, which is its idempotency_key"
    assert (one.page.read().dead, one.page.read().failed) == (1, 0)
    assert journal.lines() == []


def test_jobs_and_topics_do_not_share_their_keys(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, {"n": 1})
    one = nursery.fork(job(bench, journal, store))
    one.until(empty(bench))
    assert one.stop() == 0
    publish(bench, {"n": 1})
    two = nursery.fork(job(bench, journal, store, name="others"))
    two.until(empty(bench))
    assert two.stop() == 0
    assert journal.counts("end").total() == 2


def test_a_store_that_cannot_be_used_holds_nothing_up_for_ever(
    bench: Bench, nursery: Nursery, journal: shop.Journal, tmp_path: Path
) -> None:
    folder = tmp_path / "keys"
    folder.write_text("a file where the folder should be")
    publish(bench, *({"n": n} for n in range(5)))
    one = nursery.fork(job(bench, journal, f"sqlite:///{folder}/k.db"))
    one.until(lambda: one.said("the queue cannot be used"))
    assert one.said(str(folder))
    folder.unlink()
    one.until(empty(bench))
    assert one.stop() == 0
    assert one.page.read().done == 5


def test_a_batch_holds_each_key_once(
    bench: Bench, nursery: Nursery, journal: shop.Journal, store: str
) -> None:
    publish(bench, *({"n": n % 15} for n in range(60)))
    many = job(bench, journal, store, batch=10, rate_limit=1000.0)
    one = nursery.fork(replace(many, handler=f"{__name__}:Batches"))
    one.until(empty(bench))
    assert one.stop() == 0
    ended = [line[1] for line in journal.lines()]
    assert sorted(map(int, ended)) == list(range(15))
    assert (one.page.read().done, one.page.read().skipped) == (15, 45)


class Batches:
    """Writes down the keys of each batch that it is given."""

    def handle_batch(self, messages: list[Message], context: Context) -> None:
        """Handle them all."""
        for message in messages:
            shop.write(context, "end", message.data["n"])
