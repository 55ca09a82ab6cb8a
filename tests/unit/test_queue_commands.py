"""What operators do with queues and dead letters: pause, purge, choose, put back, delete."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor import entry, kernel
from supervisor.config import Config
from supervisor.errors import NoSuchJob, SupervisorError
from supervisor.letters import Choice
from supervisor.loading import load
from tests.helpers.eventually import eventually
from tests.helpers.fork import fork
from workers import codec, commands
from workers.sources.source import Burial, Delivery
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk

INI = """
[daemon:orders]
type = queue
url = sqlite:///data/q.db
topics = orders, mail
dead_letter = graves
handler = workers.gateway:unhandled

[daemon:elsewhere]
type = queue
url = sqlite:///other.db
topics = orders
handler = workers.gateway:unhandled
"""

IO_S = 30.0


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "shop.ini"
    path.write_text(INI)
    return path


@pytest.fixture
def config(conf: Path) -> Config:
    return load(conf)


class Shop:
    """The two queue files of the configuration, filled by hand."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "data/q.db"
        self.there = folder / "other.db"

    def publish(self, topic: str, *data: object, path: Path | None = None, delay: int = 0) -> None:
        desk = SqliteDesk(path or self.here, io_timeout=IO_S, create=True)
        bodies = [codec.encode(topic, one, message_id=_id_of(one)) for one in data]
        desk.publish(topic, bodies, delay)
        desk.close()

    def claim(self, topic: str, path: Path | None = None) -> list[Delivery]:
        source = self._source(path)
        found = source.fetch([(topic, 1000)], 1000)
        source.close()
        return found

    def bury(
        self, topic: str, *data: object, error: str = "ValueError", path: Path | None = None
    ) -> None:
        self.publish(topic, *data, path=path)
        source = self._source(path)
        for one in source.fetch([(topic, 10_000)], 10_000):
            message = codec.decode(topic, one.body, fallback_id="", attempt=1)
            source.dead([Burial(one, "graves", message.id, error, "", "orders:0")])
        source.close()

    def waiting(self, topic: str, path: Path | None = None) -> list[object]:
        """Claim all that waits; give the data, which has to be as if never tried."""
        found = self.claim(topic, path)
        assert {(one.attempts, one.failures, one.crashes, one.suspect) for one in found} <= {
            (0, 0, 0, False)
        }
        decoded = [codec.decode(topic, one.body, fallback_id="", attempt=1) for one in found]
        assert all(one.id == _id_of(one.data) for one in decoded)
        return [one.data for one in decoded]

    def _source(self, path: Path | None) -> SqliteSource:
        source = SqliteSource(path or self.here, "i/a:0/1", lease_s=600, io_timeout=IO_S)
        source.open()
        return source


def _id_of(data: object) -> str:
    return json.dumps(data)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], conf: Path
) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["supervisor", *words, "-c", str(conf)])
        code = entry.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def listed(config: Config, topic: str, **choice: Any) -> list[object]:
    return [letter["data"] for letter in commands.dead_list(config, Choice(topic, **choice))]


# --- queues


def test_a_pause_is_in_every_queue_that_has_the_topic_and_before_the_first_message(
    config: Config, shop: Shop
) -> None:
    rows = commands.queue_pause(config, "orders")
    assert [(row["topic"], row["paused"]) for row in rows] == [("orders", True)] * 2
    for path in (shop.here, shop.there):
        shop.publish("orders", 1, path=path)
        assert shop.claim("orders", path) == []
    shop.publish("mail", 2)
    assert shop.waiting("mail") == [2]
    commands.queue_pause(config, "orders")
    assert [row["paused"] for row in commands.queue_resume(config, "orders")] == [False, False]
    assert shop.waiting("orders") == [1]


def test_a_purge_takes_ready_and_delayed_and_leaves_what_is_in_flight_or_dead(
    config: Config, shop: Shop
) -> None:
    shop.bury("orders", 1)
    shop.publish("orders", 2)
    shop.claim("orders")
    shop.publish("orders", *range(3, 10))
    shop.publish("orders", 10, delay=600)
    shop.publish("orders", 11, path=shop.there)
    shop.publish("mail", 12)
    assert commands.queue_waiting(config, "orders") == 9
    assert commands.queue_purge(config, "orders") == {"topic": "orders", "purged": 9}
    rows = {(row["url"], row["topic"]): row for row in commands.queue_list(config)}
    here, there = (f"sqlite:///{path}" for path in (shop.here, shop.there))
    row = rows[here, "orders"]
    assert (row["depth"], row["delayed"], row["in_flight"]) == (0, 0, 1)
    assert rows[here, "graves"]["dead"] == 1
    assert rows[there, "orders"]["depth"] == 0
    assert rows[here, "mail"]["depth"] == 1


def test_a_large_queue_is_purged_to_the_end(config: Config, shop: Shop) -> None:
    shop.publish("mail", *range(12_345))
    assert commands.queue_purge(config, "mail")["purged"] == 12_345


def test_a_topic_that_no_job_lists_any_more_can_be_cleared(config: Config, shop: Shop) -> None:
    shop.publish("old", 1)
    commands.queue_pause(config, "old")
    assert commands.queue_purge(config, "old")["purged"] == 1
    commands.queue_resume(config, "old")


@pytest.mark.parametrize("do", ["queue_pause", "queue_resume", "queue_purge", "queue_waiting"])
def test_an_unknown_topic_changes_nothing(config: Config, shop: Shop, do: str) -> None:
    with pytest.raises(NoSuchJob, match=r"no job lists the topic ordres \(there is: mail, orders"):
        getattr(commands, do)(config, "ordres")
    assert not shop.here.exists()


# --- dead letters


def test_one_choice_serves_all_commands(config: Config, shop: Shop) -> None:
    shop.bury("orders", {"n": 1, "name": "Zoë"}, {"n": 2}, error="Timeout: too late")
    shop.bury("orders", {"n": 3}, "a text", error="ValueError: no")
    assert listed(config, "orders") == ["a text", {"n": 3}, {"n": 2}, {"n": 1, "name": "Zoë"}]
    assert listed(config, "orders", where="Timeout", limit=1) == [{"n": 2}]
    assert listed(config, "orders", where='"n": 3') == listed(config, "orders", where='{"n":3}')
    assert len(listed(config, "orders", where="Zoë")) == 1
    assert len(listed(config, "orders", where=r"Zo\u00eb")) == 1
    assert listed(config, "orders", where="text") == ["a text"]
    assert listed(config, "orders", where="%") == [], "plain text, no pattern"
    assert listed(config, "orders", message_id=_id_of({"n": 2})) == [{"n": 2}]
    assert len(commands.dead_show(config, Choice("orders", limit=3))) == 3
    with pytest.raises(SupervisorError, match="no dead letter of orders that holds 'nothing'"):
        commands.dead_show(config, Choice("orders", where="nothing"))


def test_a_replay_puts_back_what_list_shows_and_the_oldest_first(
    config: Config, shop: Shop
) -> None:
    shop.bury("orders", *range(5), error="Timeout")
    shop.bury("orders", 5)
    assert listed(config, "orders", where="Timeout", limit=3) == [4, 3, 2]
    replayed = commands.dead_replay(config, Choice("orders", where="Timeout", limit=3))
    assert replayed == {"topic": "orders", "replayed": 3}
    assert listed(config, "orders") == [5, 1, 0]
    assert shop.waiting("orders") == [2, 3, 4]


def test_letters_go_back_to_the_topic_that_they_came_from(config: Config, shop: Shop) -> None:
    shop.bury("orders", 1)
    shop.bury("mail", 2)
    shop.bury("orders", 3, path=shop.there)
    assert commands.dead_replay(config, Choice("graves"))["replayed"] == 3
    assert (shop.waiting("orders"), shop.waiting("mail")) == ([1], [2])
    assert shop.waiting("orders", shop.there) == [3]
    assert commands.dead_replay(config, Choice("graves"))["replayed"] == 0


def test_the_newest_of_several_queues_count_together(config: Config, shop: Shop) -> None:
    for number in range(4):
        shop.bury("orders", number, path=(shop.here, shop.there)[number % 2])
    shown = listed(config, "orders", limit=3)
    assert len(shown) == 3
    assert commands.dead_purge(config, Choice("orders", limit=3))["purged"] == 3
    assert listed(config, "orders") == [({0, 1, 2, 3} - set(shown)).pop()]


def test_a_purge_asks_before_and_deletes_what_it_has_told(config: Config, shop: Shop) -> None:
    shop.bury("orders", 1, 2)

    def refuse(count: int) -> None:
        assert count == 2
        raise SupervisorError("no")

    with pytest.raises(SupervisorError, match="no"):
        commands.dead_purge(config, Choice("orders"), confirm=refuse)
    assert len(listed(config, "orders")) == 2

    def agree(count: int) -> None:
        shop.bury("orders", 3)

    assert commands.dead_purge(config, Choice("orders"), confirm=agree)["purged"] == 2
    assert listed(config, "orders") == [3]


@pytest.mark.parametrize("do", ["dead_replay", "dead_purge"])
def test_an_id_that_is_not_there_is_an_error(config: Config, shop: Shop, do: str) -> None:
    shop.bury("orders", 1)
    with pytest.raises(SupervisorError, match="no dead letter of orders has the id 2"):
        getattr(commands, do)(config, Choice("orders", message_id="2"))
    with pytest.raises(NoSuchJob):
        getattr(commands, do)(config, Choice("ordres"))
    assert getattr(commands, do)(config, Choice("orders", where="nowhere"))


def test_a_letter_is_put_back_once_whoever_else_tries(config: Config, shop: Shop) -> None:
    shop.bury("orders", *range(10))
    desk = SqliteDesk(shop.here, io_timeout=IO_S, create=False)
    numbers = [letter.number for letter in desk.walk("orders")]
    assert desk.forget(numbers[:4]) == 4
    assert desk.replay(numbers) == 6
    assert desk.replay(numbers) == 0
    desk.close()
    assert len(shop.waiting("orders")) == 6


def test_a_kill_in_a_replay_loses_nothing_and_doubles_nothing(config: Config, shop: Shop) -> None:
    total = 4000
    shop.bury("orders", *range(total))
    for least in (1, total // 2):
        pid = fork(lambda: commands.dead_replay(config, Choice("orders")))
        pidfd = kernel.pidfd_of_child(pid)
        eventually(lambda least=least: _counts(shop)[0] >= least)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)
        assert sum(_counts(shop)) == total
    commands.dead_replay(config, Choice("orders"))
    found: Counter[object] = Counter()
    while batch := shop.waiting("orders"):
        found.update(batch)
    assert found == Counter(range(total))


def _counts(shop: Shop) -> tuple[int, int]:
    desk = SqliteDesk(shop.here, io_timeout=IO_S, create=False)
    depths = {depth.topic: depth for depth in desk.depths()}
    desk.close()
    waiting = depths["orders"].depth if "orders" in depths else 0
    return waiting, depths["graves"].dead if "graves" in depths else 0


# --- the words of the command line


def test_the_commands_tell_what_they_did(
    run: Callable[..., tuple[int, str, str]], shop: Shop
) -> None:
    shop.bury("mail", {"n": 1}, {"n": 2})
    shop.publish("mail", 3)
    url = f"sqlite:///{shop.here}"
    assert run("queue", "pause", "mail")[1] == f"mail is paused: 1 wait, 0 in flight ({url})\n"
    [row] = json.loads(run("queue", "resume", "mail", "--json")[1])
    assert (row["topic"], row["paused"], row["dead"]) == ("mail", False, 0)
    assert run("dead", "replay", "mail", "--limit", "1")[1] == "put back 1 dead letter of mail\n"
    replayed = json.loads(run("dead", "replay", "mail", "--where", "{", "--json")[1])
    assert replayed == {"topic": "mail", "replayed": 1}
    shown = json.loads(run("queue", "purge", "mail", "--json")[1])
    assert shown == {"topic": "mail", "purged": 3}
    assert run("queue", "purge", "mail")[1] == "deleted 0 messages of mail\n"
    assert run("queue", "pause", "male")[0] == 4


def test_show_gives_one_letter_by_its_id_and_else_a_list(
    run: Callable[..., tuple[int, str, str]], shop: Shop
) -> None:
    shop.bury("mail", {"n": 1}, {"n": 2})
    one = json.loads(run("dead", "show", "mail", "--id", '{"n": 1}', "--json")[1])
    assert (one["data"], one["queue"]) == ({"n": 1}, "graves")
    several = json.loads(run("dead", "show", "mail", "--limit", "5", "--json")[1])
    assert [letter["data"] for letter in several] == [{"n": 2}, {"n": 1}]
    assert run("dead", "show", "mail")[1].count("data: ") == 1
    assert run("dead", "show", "mail", "--where", "x" * 9)[0] == 1


class Terminal(io.StringIO):
    """A standard input at which somebody sits."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize("words", [("dead", "purge", "mail"), ("queue", "purge", "mail")])
def test_on_a_terminal_a_purge_asks(
    run: Callable[..., tuple[int, str, str]],
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    shop.bury("mail", 1)
    shop.publish("mail", 1)
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "of mail for good? [y/N]" in err
    assert err.endswith("supervisor: nothing was changed\n")
    assert run(*words, "--yes")[1].startswith("deleted 1 ")
    assert run(*words)[0] == 0, "where there is nothing, there is no question"
