"""Keys of messages, and the store that remembers them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from supervisor.board import Page
from supervisor.config import Job
from supervisor.errors import ConfigError
from supervisor.loading import load
from tests.helpers.eventually import eventually
from tests.helpers.laned import Laned, place_of
from workers import Message
from workers.idempotency import OnceSource, key_of
from workers.sources.keys import Claim
from workers.sources.source import SourceTrouble
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk
from workers.sources.sqlite_keys import SqliteKeys

IO_S = 30.0


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("id", "m1"),
        ("key", "k"),
        ("data.n", "7"),
        ("data.text", '"7"'),
        ("data.deep.er", '{"a":[1],"b":null}'),
        ("data.no", "false"),
        ("data.zero", "0"),
        ("data.null", None),
        ("data.nothing", None),
        ("data.n.o", None),
    ],
)
def test_the_key_of_a_message(rule: str, key: str | None) -> None:
    deep = {"er": {"b": None, "a": [1]}}
    data = {"n": 7, "text": "7", "deep": deep, "no": False, "zero": 0, "null": None}
    assert key_of(Message("m1", "t", data, key="k"), rule) == key


def test_odd_keys_can_be_kept() -> None:
    assert key_of(Message("m", "t", 1), "key") is None
    assert key_of(Message("m", "t", 1, key=""), "key") is None
    assert key_of(Message("\ud800", "t", 1), "id") == "\\ud800"
    long = key_of(Message("x" * 1000, "t", 1), "id")
    assert long is not None
    assert len(long) == 64
    assert long != key_of(Message("x" * 1001, "t", 1), "id")


Store = Callable[..., SqliteKeys]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = []

    def make(owner: str = "i/a:0/1", lease_s: float = 600.0, ttl_s: float = 600.0) -> SqliteKeys:
        path = tmp_path / "keys.db"
        keys = SqliteKeys(path, owner, lease_s=lease_s, ttl_s=ttl_s, io_timeout=IO_S)
        keys.open()
        made.append(keys)
        return keys

    yield make
    for keys in made:
        keys.close()


K = ("orders/t", "k")
L = ("orders/t", "l")


def test_a_key_is_claimed_once_and_done_once(store: Store) -> None:
    one, two = store(), store("i/a:1/1")
    assert one.claim([K, L, K]) == [Claim.MINE, Claim.MINE, Claim.BUSY]
    assert two.claim([K, ("others/t", "k")]) == [Claim.BUSY, Claim.MINE]
    one.done([K])
    one.release([L])
    assert two.claim([K, L]) == [Claim.DONE, Claim.MINE]
    one.release([L])
    assert one.claim([L]) == [Claim.BUSY], "only its own claims can a process give up"


def test_claims_go_with_the_process(store: Store) -> None:
    one, two = store(), store("i/a:1/1")
    one.claim([K])
    two.release_owner("i/a:0/1")
    assert two.claim([K]) == [Claim.MINE]
    three = store("i/a:1/2")
    three.release_seat("i/a:1/")
    assert one.claim([K]) == [Claim.MINE]
    one.release_seat("i/a:0/")
    assert two.claim([K]) == [Claim.BUSY], "not what this very process holds"


def test_what_has_run_out_is_as_good_as_not_there(store: Store, tmp_path: Path) -> None:
    one, two = store(lease_s=0.0), store("i/a:1/1", ttl_s=0.0)
    assert one.claim([K]) == [Claim.MINE]
    assert two.claim([K]) == [Claim.MINE], "a lease that nobody renewed"
    one.done([K])
    assert two.claim([K]) == [Claim.DONE], "whoever claimed it meanwhile: the work is done"
    two.done([K])
    assert one.claim([K]) == [Claim.MINE], "remembered for no time at all"


def test_old_keys_are_removed_a_few_at_a_time(store: Store, tmp_path: Path) -> None:
    forgetful, keys = store(ttl_s=0.0), store("i/a:1/1")
    forgetful.done([("s", str(number)) for number in range(1000)])
    keys.done([("s", "kept")])

    def rows() -> int:
        with sqlite3.connect(tmp_path / "keys.db") as database:
            count = database.execute("SELECT count(*) FROM handled").fetchone()[0]
        database.close()
        return int(count)

    seen = [rows()]
    while rows() > 1:
        keys.done([("s", "kept")])
        seen.append(rows())
    steps = [before - after for before, after in pairwise(seen)]
    assert max(steps) <= 200
    assert keys.claim([("s", "kept")]) == [Claim.DONE]


def test_the_file_may_be_that_of_a_queue(tmp_path: Path, store: Store) -> None:
    desk = SqliteDesk(tmp_path / "keys.db", io_timeout=IO_S, create=True)
    desk.publish("t", [b"1"], 0)
    keys = store()
    keys.done([K])
    assert desk.depths()[0].depth == 1
    desk.close()


def test_a_store_that_is_moved_away_is_made_anew(tmp_path: Path, store: Store) -> None:
    keys = store()
    keys.done([K])
    (tmp_path / "keys.db").rename(tmp_path / "elsewhere.db")
    keys._next_look = 0.0
    assert keys.claim([K]) == [Claim.MINE]
    assert (tmp_path / "keys.db").exists()


class Broken:
    """Keys or a source that fails at one step, once."""

    def __init__(self, real: Any, step: str) -> None:
        self._real = real
        self.step: str | None = step

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self.step:
            return real

        def fail(*_: object) -> None:
            self.step = None
            raise SourceTrouble("not now")

        return fail


@pytest.fixture
def page() -> Page:
    return Page.alone()


def _job(folder: Path) -> Job:
    conf = folder / "w.ini"
    conf.write_text(
        "[daemon:orders]\ntype = queue\nurl = sqlite:///q.db\ntopics = t\n"
        "idempotency = sqlite:///keys.db\nhandler = a:b\n"
    )
    [job] = load(conf).jobs
    return job


@pytest.mark.parametrize("step", ["claim", "ack", "nack"])
def test_trouble_halfway_leaves_nothing_leased(
    tmp_path: Path, store: Store, page: Page, step: str
) -> None:
    path = tmp_path / "q.db"
    desk = SqliteDesk(path, io_timeout=IO_S, create=True)
    desk.publish("t", [b'{"id": "%d", "data": 1}' % number for number in (1, 2, 3)], 0)
    job = _job(tmp_path)
    keys = store()
    keys.done([("orders/t", "1")])
    store("i/a:9/1").claim([("orders/t", "2")])
    source = SqliteSource(path, "i/a:0/1", lease_s=600, io_timeout=IO_S)
    once = OnceSource(Broken(source, step), Broken(keys, step), job, page, lambda *_: None)
    once.open()
    with pytest.raises(SourceTrouble):
        once.fetch([("t", 10)], 10)
    [kept] = once.fetch([("t", 10)], 10)
    assert page.read().skipped == 1
    assert b'"3"' in kept.body
    once.ack([replace(kept, attempts=1)])
    [depth] = desk.depths()
    assert (depth.depth, depth.delayed, depth.in_flight) == (0, 1, 0)
    once.close()
    desk.close()


def test_what_was_lost_and_comes_again_is_claimed_anew(
    tmp_path: Path, store: Store, page: Page
) -> None:
    path = tmp_path / "q.db"
    desk = SqliteDesk(path, io_timeout=IO_S, create=True)
    desk.publish("t", [b"1", b"2"], 0)
    job = _job(tmp_path)
    keys = store(lease_s=0.0)
    source = SqliteSource(path, "i/a:0/1", lease_s=0, io_timeout=IO_S)
    once = OnceSource(source, keys, job, page, lambda *_: None)
    once.open()
    [first, _] = once.fetch([("t", 10)], 10)
    other = store("i/a:1/1")
    other.claim([("orders/t", str(first.number))])
    again = eventually(lambda: once.tend() or once.fetch([("t", 10)], 10))
    assert len(again) == 1, "the other one works on it now"
    once.close()
    desk.close()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("idempotency = postgresql://h/0 1", "write it in one line, without blanks"),
        ("idempotency = redis://h/x", "where DATABASE is a number"),
        ("idempotency = sqlite:///:memory:", "a store in memory ends with its process"),
        ("idempotency = yes", '"yes" is no store; write redis://HOST:PORT/DATABASE or sqlite'),
        ("idempotency_key = data.", '"data." is no key of a message; write id, key or data.FIELD'),
        ("idempotency_key = order_id", "is no key of a message"),
        ("idempotency_key = data.a..b", "is no key of a message"),
        ("idempotency_ttl = 0", "is too short"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    conf = tmp_path / "w.ini"
    base = "[daemon:a]\ntype = queue\nurl = sqlite:///q.db\ntopics = t\nhandler = a:b\n"
    conf.write_text(base + lines)
    with pytest.raises(ConfigError) as caught:
        load(conf)
    assert message in str(caught.value)


def test_right_settings(tmp_path: Path) -> None:
    conf = tmp_path / "w.ini"
    base = "[daemon:a]\ntype = queue\nurl = sqlite:///q.db\ntopics = t\nhandler = a:b\n"
    conf.write_text(base + "idempotency = none\n")
    assert load(conf).jobs[0].idempotency is None
    conf.write_text(base + "idempotency = sqlite:///k.db\nidempotency_key = data.order.id\n")
    [job] = load(conf).jobs
    assert job.idempotency is not None
    assert job.idempotency.reveal() == f"sqlite:///{tmp_path}/k.db"
    assert (job.idempotency_key, job.idempotency_ttl) == ("data.order.id", 86400.0)


def test_nothing_overtakes_in_its_lane_what_somebody_else_works_on(
    tmp_path: Path, store: Store, page: Page
) -> None:
    desk = SqliteDesk(tmp_path / "q.db", io_timeout=IO_S, create=True)
    names = ("1/0", "2/0", "1/1", "2/1", "1/2")
    desk.publish("t", [b'{"id": "%s", "data": 1}' % name.encode() for name in names], 0)
    job, keys = _job(tmp_path), store()
    other = store("i/a:9/1")
    other.claim([("orders/t", "1/1")])
    source = Laned(SqliteSource(tmp_path / "q.db", "i/a:0/1", lease_s=600, io_timeout=IO_S))
    once = OnceSource(source, keys, job, page, lambda *_: None)
    once.open()
    first = once.fetch([("t", 10)], 10)
    assert [place_of(one) for one in first] == [("1", "0"), ("2", "0"), ("2", "1")]
    assert once.fetch([("t", 10)], 10) == []
    other.release([("orders/t", "1/1")])
    rest = eventually(lambda: once.fetch([("t", 10)], 10))
    assert [place_of(one) for one in rest] == [("1", "1"), ("1", "2")]
    once.ack([*first, *rest])
    assert desk.depths() == []
    once.close()
    desk.close()
