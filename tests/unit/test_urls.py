"""The URLs of queues and stores: what is taken, what is refused, and with which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor import urls
from supervisor.secret import FileReference, Given, Secret, plain


def given(*parts: str | FileReference) -> Given:
    return Given((Secret(parts),), Path("/etc"))


def test_relative_sqlite_url_is_made_absolute() -> None:
    assert urls.queue_url(given("sqlite:///var/q.db")).reveal() == "sqlite:////etc/var/q.db"
    assert urls.queue_url(given("sqlite:////var/q.db")).reveal() == "sqlite:////var/q.db"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://127.0.0.1:6379/0",
        "redis://:hush@h:7/15",
        "rediss://me:hush@[::1]:6380/2?ssl_cert_reqs=none",
    ],
)
def test_the_url_of_a_server_stays_as_it_is(url: str) -> None:
    assert urls.queue_url(given(url)) == plain(url)
    assert urls.store_url(given(url)) == plain(url)
    assert urls.is_redis(plain(url))


@pytest.mark.parametrize(
    "url", ["postgresql://me:hush@h:5432/shop", "postgres:///shop", "sqlite:////var/shop.db"]
)
def test_the_url_of_a_database_stays_as_it_is(url: str) -> None:
    assert urls.table_url(given(url)) == plain(url)
    assert urls.is_postgres(plain(url)) == url.startswith("postgres")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://h", "is no database; write postgresql://USER@HOST:PORT/DATABASE or sqlite:///"),
        ("shop.db", "is no database; write"),
        ("postgresql://h/a b", "write it in one line, without blanks"),
        ("sqlite://shop.db", "write sqlite:///PATH (relative to this file) or sqlite:////PATH"),
    ],
)
def test_what_is_no_database_of_a_table_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        urls.table_url(given(url))


def test_a_password_in_a_file_is_not_read(tmp_path: Path) -> None:
    password = FileReference("pw", tmp_path / "nowhere")
    url = urls.queue_url(given("redis://:", password, "@h:6379/0"))
    assert url.shown == "redis://:***@h:6379/0"
    assert not url.is_plain
    assert urls.queue_url(given(password)).parts == (password,), "only the child can know"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("postgresql://h/d", "postgresql:// is not in this release; write redis://"),
        ("sqlite://rel", "write sqlite:///PATH"),
        ("sqlite:///", "write sqlite:///PATH"),
        ("sqlite:///:memory:", "ends with its process"),
        ("ftp://u:hush@h", r'"ftp://u:\*\*\*@h" is no queue; write redis://HOST:PORT/DATABASE or'),
        ("reddis://h", "did you mean redis://"),
        ("queue.db", "is no queue; write redis://"),
        ("redis://", "write redis://HOST:PORT/DATABASE"),
        ("redis://:6379/0", "write redis://HOST:PORT/DATABASE"),
        ("redis://h:0/0", "write redis://HOST:PORT/DATABASE"),
        ("redis://h:99999/0", "a port up to 65535"),
        ("redis://h:six/0", "a port up to 65535"),
        ("redis://[::1/0", "a port up to 65535"),
        ("redis://h/orders", "DATABASE is a number"),
        ("redis://h /0", "without blanks"),
    ],
)
def test_no_queue_url(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        urls.queue_url(given(url))
    assert "hush" not in str(caught.value)


def test_streams_are_on_a_redis() -> None:
    assert urls.stream_url(given("redis://h/1")) == plain("redis://h/1")
    with pytest.raises(ValueError, match="has no streams; write redis://"):
        urls.stream_url(given("sqlite:///q.db"))


def test_by_hand_a_stream_says_so() -> None:
    url = "rediss+stream://me:hush@h:6380/0"
    assert urls.by_hand(url) == url
    assert urls.is_of_stream(url)
    assert urls.of_server(url) == "rediss://me:hush@h:6380/0"
    assert urls.of_stream(urls.of_server(url)) == url
    assert not urls.is_of_stream("redis://h/0")
    assert not urls.is_of_stream("sqlite+stream:///q.db")
    with pytest.raises(ValueError, match="DATABASE is a number"):
        urls.by_hand("redis+stream://h/x")


def test_none_is_no_store() -> None:
    assert urls.store_url(given("none")) is None


@pytest.mark.parametrize("word", ["yes", "redis", "postgres"])
def test_a_word_is_no_store(word: str) -> None:
    with pytest.raises(ValueError, match="is no store"):
        urls.store_url(given(word))
