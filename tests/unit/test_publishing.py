"""Publishing, looking at queues and dead letters, and the helpers for tests of handlers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from supervisor.config import Config
from supervisor.errors import (
    ConfigError,
    NoSuchJob,
    ServiceUnavailable,
    SupervisorError,
    UsageError,
)
from supervisor.letters import Choice
from supervisor.loading import load
from workers import (
    Context,
    Message,
    Reject,
    Retry,
    Skip,
    commands,
    publish,
    publishing,
)
from workers.sources.source import Burial
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_file import QueueFile, path_of
from workers.testing import run

INI = """
[daemon:orders]
type = queue
url = sqlite:///data/q.db
topics = order.reminder, mail
handler = workers.gateway:unhandled

[daemon:more]
type = queue
url = sqlite:///data/q.db
topics = mail
handler = workers.gateway:unhandled

[daemon:elsewhere]
type = queue
url = sqlite:///other.db
topics = both, only.there
handler = workers.gateway:unhandled

[daemon:here]
type = queue
url = sqlite:///data/q.db
topics = both
handler = workers.gateway:unhandled
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.ini"
    path.write_text(INI)
    monkeypatch.setenv("SUPERVISOR_CONF", str(path))
    return path


@pytest.fixture(autouse=True)
def no_connection_stays() -> object:
    yield
    for desk in publishing._here.desks.values():
        desk.close()
    publishing._here.desks.clear()


def rows(config: Config) -> dict[str, dict[str, object]]:
    return {str(row["topic"]): row for row in commands.queue_list(config)}


def test_a_message_goes_to_the_queue_of_the_job_that_lists_its_topic(conf: Path) -> None:
    message_id = publish("order.reminder", {"order_id": 1})
    assert publish("mail", "x", id="my-own") == "my-own"
    publish("mail", "later", delay=60)
    listed = rows(load(conf))
    assert len(message_id) == 32
    assert (listed["order.reminder"]["depth"], listed["order.reminder"]["delayed"]) == (1, 0)
    assert (listed["mail"]["depth"], listed["mail"]["delayed"]) == (1, 1)
    assert listed["only.there"]["depth"] == 0
    assert not (conf.parent / "other.db").exists()


def test_an_unknown_topic_names_the_known_ones(conf: Path) -> None:
    with pytest.raises(NoSuchJob, match=r"order\.reminder") as caught:
        publish("order.remainder", 1)
    assert caught.value.code == 4


def test_a_topic_of_several_queues_needs_a_choice(conf: Path) -> None:
    with pytest.raises(UsageError, match=r"--url") as caught:
        publish("both", 1)
    assert "other.db" in str(caught.value)
    publish("both", 1, url=f"sqlite:///{conf.parent}/other.db")


def test_without_a_configuration_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPERVISOR_CONF", raising=False)
    with pytest.raises(UsageError, match="SUPERVISOR_CONF"):
        publish("t", 1)


def test_many_are_published_all_or_none(conf: Path) -> None:
    with pytest.raises(TypeError):
        commands.publish(conf, "mail", [1, {"a set": {1}}], 0.0, None, None)
    assert rows(load(conf))["mail"]["depth"] == 0
    assert len(set(commands.publish(conf, "mail", [1, 2, 3], 0.0, None, None))) == 3
    assert rows(load(conf))["mail"]["depth"] == 3


def test_a_queue_that_cannot_be_reached_is_69(conf: Path) -> None:
    (conf.parent / "data").write_text("a file where the folder should be")
    with pytest.raises(ServiceUnavailable) as caught:
        publish("mail", 1)
    assert caught.value.code == 69


def test_topics_that_no_job_lists_are_shown_when_they_hold_something(conf: Path) -> None:
    publish("stranded", 1, url=f"sqlite:///{conf.parent}/data/q.db")
    assert rows(load(conf))["stranded"]["depth"] == 1


def test_dead_letters_are_listed_and_shown(conf: Path) -> None:
    publish("mail", {"to": "you"}, id="m1", key="k", headers={"h": "1"})
    source = SqliteSource(conf.parent / "data/q.db", "i/a:0/1", lease_s=30, io_timeout=30)
    source.open()
    [one] = source.fetch([("mail", 1)], 1)
    source.dead([Burial(one, "mail", "m1", "ValueError: no", "Traceback", "a:0")])
    source.close()
    config = load(conf)
    [letter] = commands.dead_list(config, Choice("mail"))
    assert (letter["id"], letter["error"], letter["data"]) == (
        "m1",
        "ValueError: no",
        {"to": "you"},
    )
    [shown] = commands.dead_show(config, Choice("mail", message_id="m1"))
    assert (shown["traceback"], shown["key"], shown["origin"]) == ("Traceback", "k", "a:0")
    assert commands.dead_list(config, Choice("order.reminder")) == []
    with pytest.raises(SupervisorError, match="no dead letter"):
        commands.dead_show(config, Choice("mail", message_id="m2"))
    with pytest.raises(NoSuchJob):
        commands.dead_list(config, Choice("nothing"))


@pytest.mark.parametrize("url", ["sqlite://x", "sqlite:///", "redis://h/0", "q.db"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        path_of(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://me:secret@h/0", "^postgresql:// is not in this release; write redis://"),
        ("redis://me:secret@h/x", r'^"redis://me:\*\*\*@h/x" is no queue; write redis://'),
        ("q.db", '^"q.db" is no queue; write redis://HOST:PORT/DATABASE or sqlite:///PATH$'),
    ],
)
def test_publishing_to_another_url_says_what_would_be_right(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        publish("t", 1, url=url)


# --- the file itself


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(ConfigError, match="not a database of SQLite"):
        QueueFile(path, io_timeout=30, durable=True).open()


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE users (name)")
    database.close()
    with pytest.raises(ConfigError, match="something else"):
        QueueFile(path, io_timeout=30, durable=True).open()


def test_a_queue_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    file = QueueFile(path, io_timeout=30, durable=True)
    file.open()
    with file.change() as change:
        change.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(ConfigError, match="newer release"):
        file.open()


def test_a_file_that_is_moved_away_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    file = QueueFile(path, io_timeout=30, durable=True)
    file.open()
    assert not file.is_gone()
    path.rename(tmp_path / "moved.db")
    assert file.is_gone()
    file.close()


# --- workers.testing


def test_outcomes() -> None:
    def handle(message: Message, context: Context) -> None:
        context.wait(0)
        if message.data:
            raise {"skip": Skip("s"), "reject": Reject("r"), "retry": Retry(after=9)}.get(
                message.data, ValueError("v")
            )

    assert run(handle, None).ok
    assert run(handle, "skip").status == "skipped"
    assert (run(handle, "reject").status, run(handle, "reject").reason) == ("dead", "r")
    assert (run(handle, "retry").status, run(handle, "retry").after) == ("retried", 9)
    assert run(handle, "other").status == "retried"
    last = run(handle, "other", attempt=4)
    assert (last.status, last.reason) == ("dead", "v")
    assert "ValueError" in last.traceback
    assert isinstance(last.error, ValueError)


def test_a_class_is_opened_and_closed_around_the_call() -> None:
    done: list[str] = []

    class Handler:
        def open(self) -> None:
            done.append("open")

        def handle(self, message: Message, context: Context) -> None:
            done.append(context.options["colour"] + message.topic + message.id)

        def close(self, context: Context) -> None:
            done.append("close")

    assert run(Handler, 1, options={"colour": "red"}, topic="t", id="7").ok
    assert done == ["open", "redt7", "close"]
