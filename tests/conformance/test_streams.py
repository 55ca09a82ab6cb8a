"""What only streams of Redis have: groups, entries of strangers, trimming, consumers."""

from __future__ import annotations

import json
import select
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from supervisor.config import Config
from supervisor.errors import UsageError
from supervisor.letters import Choice
from supervisor.loading import load
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.redis_server import RedisServer
from workers import codec, commands, publishing
from workers.sources.redis_server import RedisServer as Server
from workers.sources.redis_stream import StreamSource
from workers.sources.redis_stream_desk import StreamDesk
from workers.sources.source import Burial, Delivery, Return, SourceTrouble

LONG_S = 3600.0


INI = """
[daemon:shop]
type = stream
url = {url}
topics = t
group = shop
handler = workers.gateway:unhandled

[daemon:audit]
type = stream
url = {url}
topics = t
group = audit & more
handler = workers.gateway:unhandled

[daemon:elsewhere]
type = queue
url = sqlite:///q.db
topics = other
handler = workers.gateway:unhandled
"""


class Streams:
    """A server with the stream `t`, and everybody who has to do with it."""

    def __init__(self, server: RedisServer) -> None:
        server.empty()
        self.url = server.url
        self._open = ExitStack()
        self.client: redis.Redis = self._open.enter_context(server.client())

    def source(
        self, group: str = "g", owner: str = "i/a:0/1", lease_s: float = LONG_S
    ) -> StreamSource:
        source = StreamSource(self.url, owner, group, ["t"], lease_s=lease_s, io_timeout=PATIENCE_S)
        self._open.callback(source.close)
        source.open()
        return source

    def desk(self, group: str = "g") -> StreamDesk:
        desk = StreamDesk(self.url, ["t"], group=group, io_timeout=PATIENCE_S)
        self._open.callback(desk.close)
        return desk

    def add(self, *data: object) -> None:
        for one in data:
            self.client.xadd("t", {"body": json.dumps(one)})

    def length(self) -> int:
        return int(self.client.xlen("t"))

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def config(streams: Streams, tmp_path: Path) -> Iterator[Config]:
    """Give a configuration with two groups on the stream."""
    (tmp_path / "w.ini").write_text(INI.format(url=streams.url))
    yield load(tmp_path / "w.ini")
    for desk in publishing._here.desks.values():
        desk.close()


@pytest.fixture
def streams(redis_server: RedisServer) -> Iterator[Streams]:
    with closing(Streams(redis_server)) as streams:
        yield streams


def fetch(source: StreamSource, limit: int = 100) -> list[Delivery]:
    return source.fetch([("t", limit)], limit)


def data(deliveries: Sequence[Delivery]) -> list[object]:
    return [codec.message_of(one).data for one in deliveries]


def test_an_entry_of_a_stranger_has_the_id_and_the_time_of_the_stream(streams: Streams) -> None:
    streams.client.xadd("t", {"job": "sync-user", "data": "{}"}, id="1700000000123-7")
    [message] = map(codec.message_of, fetch(streams.source()))
    assert message.data == {"job": "sync-user", "data": "{}"}
    assert (message.id, message.topic) == ("1700000000123-7", "t")
    assert message.published_at == datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)


def test_what_was_there_before_the_group_is_handled_too(streams: Streams) -> None:
    streams.add(1, 2)
    assert data(fetch(streams.source())) == [1, 2]


def test_a_group_that_was_there_goes_on_where_it_was(streams: Streams) -> None:
    streams.add(1)
    streams.client.xgroup_create("t", "g", id="$")
    streams.add(2)
    assert data(fetch(streams.source())) == [2]


def test_what_a_group_alone_has_settled_is_deleted(streams: Streams) -> None:
    streams.add(1, 2, 3)
    source = streams.source()
    one, two, three = fetch(source)
    source.ack([one])
    source.dead([Burial(two, "t", "2", "no", "", "a:0")])
    assert streams.length() == 1
    source.nack([Return(three, LONG_S)])
    source.tend()
    assert streams.length() == 1


def test_an_entry_stays_until_every_group_has_settled_it(streams: Streams) -> None:
    mine, other = streams.source("mine"), streams.source("other")
    streams.add(1, 2, 3)
    mine.ack(fetch(mine))
    mine.tend()
    assert streams.length() == 3
    one, two, three = fetch(other)
    other.ack([one, three])
    other.tend()
    assert [json.loads(fields[b"body"]) for _, fields in streams.client.xrange("t")] == [2, 3]
    other.ack([two])
    mine.tend()
    assert streams.length() == 0


def test_groups_have_dead_letters_of_their_own_and_replay_them_for_themselves(
    streams: Streams,
) -> None:
    mine, other = streams.source("mine"), streams.source("other")
    streams.add({"n": 1})
    for source in (mine, other):
        [one] = fetch(source)
        source.dead([Burial(one, "t", "1", f"of {one.number}", "", "a:0")])
    [letter] = streams.desk("mine").walk("t")
    assert streams.desk("mine").replay([letter.number]) == 1
    assert list(streams.desk("mine").walk("t")) == []
    assert len(list(streams.desk("other").walk("t"))) == 1
    assert fetch(other) == []
    [again] = fetch(mine)
    assert data([again]) == [{"n": 1}]
    assert (again.attempts, again.failures) == (0, 0)


def test_many_entries_for_another_group_hide_none_of_our_own(streams: Streams) -> None:
    source = streams.source()
    with streams.client.pipeline() as pipeline:
        for number in range(2500):
            pipeline.xadd("t", {"body": number, "for": "other"})
        pipeline.execute()
    streams.add("mine")
    found = [delivery for _ in range(4) for delivery in fetch(source)]
    assert data(found) == ["mine"]


def test_a_purge_is_that_of_one_group(streams: Streams) -> None:
    mine, other = streams.source("mine"), streams.source("other")
    streams.add(*range(6))
    fetch(other, 1)
    one, two, *_ = fetch(mine, 3)
    mine.nack([Return(one), Return(two, LONG_S)])
    assert streams.desk("mine").purge("t") == 5
    depth = streams.desk("mine").depths()[0]
    assert (depth.depth, depth.delayed, depth.in_flight) == (0, 0, 1)
    assert fetch(mine) == []
    assert data(fetch(other)) == [1, 2, 3, 4, 5]


def test_what_others_have_deleted_is_forgotten(streams: Streams) -> None:
    source = streams.source()
    streams.add(*range(6))
    held, *back = fetch(source, 3)
    source.nack([Return(one) for one in back])
    streams.client.xtrim("t", maxlen=0)
    assert fetch(source) == []
    source.ack([held])
    assert source.backlog(["t"]) == 0
    depth = streams.desk().depths()[0]
    assert (depth.depth, depth.delayed, depth.in_flight) == (0, 0, 0)
    assert set(streams.client.keys()) == {b"t"}


def test_entries_deleted_before_anybody_read_them_are_no_backlog(streams: Streams) -> None:
    source = streams.source()
    assert fetch(source) == []
    streams.add(*range(5))
    for entry, _ in streams.client.xrange("t")[1:]:
        streams.client.xdel("t", entry)
    assert source.backlog(["t"]) == 1
    assert data(fetch(source)) == [0]
    assert source.backlog(["t"]) == 0


def test_a_group_that_is_lost_is_made_again(streams: Streams) -> None:
    source = streams.source()
    streams.add(1)
    taken = fetch(source)
    streams.client.flushall()
    assert source.extend(taken) == {taken[0].number}
    streams.client.flushall()
    source.ack(taken)
    source.nack([])
    assert source.tend() == ()
    streams.client.flushall()
    assert source.release("i/a:1/1", [5]) == source.backlog(["t"]) == 0
    streams.add(2)
    assert data(fetch(source)) == [2]


def test_what_a_stranger_in_the_group_leaves_pending_is_taken_over(streams: Streams) -> None:
    source = streams.source(lease_s=0.05)
    streams.add(1)
    streams.client.xreadgroup("g", "somebody", {"t": ">"})
    assert data(eventually(lambda: source.tend() or fetch(source))) == [1]


def test_all_that_is_pending_is_looked_through(streams: Streams) -> None:
    """The cursor goes on from where the last look has ended."""
    source = streams.source(lease_s=0.05)
    streams.add(*range(350))
    streams.client.xreadgroup("g", "somebody", {"t": ">"})
    found: list[object] = []

    def look() -> bool:
        source.tend()
        taken = fetch(source)
        found.extend(data(taken))
        source.ack(taken)
        return len(found) >= 350

    eventually(look)
    assert sorted(map(str, found)) == sorted(map(str, range(350)))


def test_consumers_of_processes_that_are_gone_are_deleted(streams: Streams) -> None:
    streams.add(1)
    first = streams.source(owner="i/a:0/1")
    first.ack(fetch(first))
    streams.add(2)
    second = streams.source(owner="i/a:0/2")
    fetch(second)
    second.release_seat("i/a:0/")
    names = [known["name"] for known in streams.client.xinfo_consumers("t", "g")]
    assert names == [b"i/a:0/2 3600000ms"]


def test_a_claim_whose_answer_was_lost_is_given_back(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams.add(*range(4))
    source = streams.source()
    [held] = fetch(source, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Server, "run", _without_answer(Server.run))
        with pytest.raises(SourceTrouble):
            fetch(source, 2)
    assert streams.desk().depths()[0].in_flight == 3
    assert data(fetch(source)) == [1, 2, 3]
    assert source.extend([held]) == set()


def _without_answer(run: object) -> object:
    def lost(*arguments: object) -> None:
        run(*arguments)  # type: ignore[operator]
        raise SourceTrouble("timed out")

    return lost


def test_an_idle_consumer_is_woken(streams: Streams) -> None:
    source, sibling = streams.source(), streams.source(owner="i/a:1/1")
    assert fetch(source) == []
    streams.add(1)
    assert _rings(source)
    [one] = fetch(sibling)
    assert fetch(source) == []
    sibling.nack([Return(one)])
    assert _rings(source)
    [one] = fetch(sibling)
    assert fetch(source) == []
    streams.desk().publish("t", [b"2"], 60)
    assert _rings(source)


def _rings(source: StreamSource) -> bool:
    poll = select.poll()
    for fd in source.bells():
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def test_a_key_that_is_no_stream_is_said(streams: Streams) -> None:
    streams.client.lpush("t", 1)
    with pytest.raises(
        SourceTrouble, match=r"^t is a list, and no stream: another program uses that name$"
    ):
        streams.desk().look()
    with pytest.raises(
        SourceTrouble, match=r"^t is a list, and no stream: another program uses that name$"
    ):
        streams.source()


def test_groups_of_other_jobs_are_made_before_anything_is_taken(
    streams: Streams, config: Config
) -> None:
    shop, audit, _ = config.jobs
    assert shop.other_groups == (("t", "audit & more"),)
    assert audit.other_groups == (("t", "shop"),)
    streams.add(1)
    first = StreamSource(
        streams.url, "i/a:0/1", "shop", ["t"], lease_s=9, io_timeout=9, others=shop.other_groups
    )
    with closing(first):
        first.open()
        first.ack(fetch(first))
        first.tend()
    assert data(fetch(streams.source("audit & more"))) == [1]


def test_the_commands_know_a_stream_and_its_groups(streams: Streams, config: Config) -> None:
    path = config.path
    publishing.publish_all(path, "t", [1, 2], 0, None, None)
    publishing.publish_all(path, "t", [3], 3600, None, None)
    assert streams.length() == 2
    streams.source("audit & more")
    mine = streams.source("shop")
    [one] = fetch(mine, 1)
    mine.dead([Burial(one, "t", "1", "no", "", "shop:0")])

    def seen() -> list[tuple[object, ...]]:
        names = ("group", "depth", "delayed", "in_flight", "paused")
        rows = commands.queue_list(config)
        return [tuple(row[name] for name in names) for row in rows if row["topic"] == "t"]

    assert seen() == [("shop", 1, 1, 0, False), ("audit & more", 2, 1, 0, False)]
    assert [row["paused"] for row in commands.queue_pause(config, "t")] == [True, True]
    assert fetch(mine) == []
    commands.queue_resume(config, "t")
    [letter] = commands.dead_list(config, Choice("t"))
    assert (letter["id"], letter["data"]) == ("1", 1)
    assert commands.dead_replay(config, Choice("t")) == {"topic": "t", "replayed": 1}
    assert data(fetch(mine)) == [2, 1]


def test_a_topic_without_a_job_needs_the_url_of_a_stream(
    streams: Streams, config: Config, tmp_path: Path
) -> None:
    url = streams.url.replace("redis:", "redis+stream:")
    publishing.publish_all(config.path, "new", [1], 0, None, url)
    assert streams.client.xlen("new") == 1
    text = INI.format(url=streams.url) + INI.format(url=streams.url[:-1] + "1").replace("]", ".b]")
    (tmp_path / "two.ini").write_text(text)
    with pytest.raises(UsageError, match=r"redis\+stream://127.0.0.1:\d+/1 \(audit.b\)"):
        publishing.publish_all(tmp_path / "two.ini", "t", [1], 0, None, None)


def test_work_goes_on_where_the_server_is_full(streams: Streams) -> None:
    source = streams.source()
    streams.add(*range(5))
    streams.desk().publish("t", [b'"later"'], 0.001)
    eventually(lambda: source.backlog(["t"]) == 6)
    streams.client.config_set("maxmemory", 1)
    try:
        found = fetch(source)
        assert data(found) == [0, 1, 2, 3, 4, "later"]
        done, back, later, dead, *_ = found
        assert source.extend(found) == set()
        source.ack([done])
        source.nack([Return(back), Return(later, LONG_S)])
        source.dead([Burial(dead, "t", "4", "no", "", "a:0")])
        assert source.tend() == ()
        assert source.release("i/a:0/1", ()) == 2
        assert data(fetch(source)) == [1, 4, "later"]
    finally:
        streams.client.config_set("maxmemory", 0)
    assert len(list(streams.desk().walk("t"))) == 1
