"""A supervisor whose queue is on a Redis: used, looked at, and met when it is not as it should."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.redis_server import RedisServer
from tests.helpers.sections import section
from tests.integration.test_preload import imports, sockets

HANDLERS = """
import threading
from ledger import is_open, note
from workers import Reject

def handle(message, context):
    note("begin", message.id, message.data)
    if message.data == "bad" and not is_open("mended"):
        raise Reject("it is bad")
    while message.data == "slow" and not is_open("gate"):
        threading.Event().wait(0.01)
    note("end", message.id)

def run(context):
    note("works")
    context.wait(1e6)
"""

MODULES = {"shop": HANDLERS, "ledger": SOURCE}

OTHER = section("other", target="shop:run")

PASSWORD = "hunter2"


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    """Give an empty Redis."""
    redis_server.empty()
    return redis_server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a Redis that may be stopped; to be asked for after `supervise`, as it ends before."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with closing(RedisServer(folder)) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """Give a connection of somebody who knows nothing of us."""
    with server.client() as client:
        yield client


@pytest.fixture
def locked(client: redis.Redis, server: RedisServer) -> Iterator[str]:
    """Give the URL of a user who has a password, without the password."""
    client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    yield f"redis://shop:{{}}@127.0.0.1:{server.port}/0"
    client.execute_command("ACL", "DELUSER", "shop")


def orders(url: str, **more: object) -> str:
    keys = {"type": "queue", "topics": "orders, mails", "handler": "shop:handle", "io_timeout": 30}
    return section("orders", url=url, **keys, **more)


def row(supervisor: Supervisor, topic: str = "orders") -> Line:
    rows: list[Line] = supervisor.json("queue", "list")
    return next(one for one in rows if one["topic"] == topic)


def put(client: redis.Redis, topic: str, *messages: object) -> None:
    client.lpush(f"mq:{topic}", *map(json.dumps, messages))


# --- messages ------------------------------------------------------------------------------------


def test_what_others_push_is_handled_and_the_length_of_the_list_is_the_backlog(
    supervise: Supervise, server: RedisServer, client: redis.Redis
) -> None:
    supervisor = supervise(orders(server.url, concurrency=1, queue_size=1), MODULES)
    ledger = Ledger(supervisor)
    put(client, "orders", {"id": "first", "data": "slow"})
    ledger.wait("begin", "first", "slow")
    # Quiet gives back what was fetched and not begun: the list is all that waits.
    assert supervisor.cli("quiet", "orders").returncode == 0
    put(client, "orders", *({"id": f"later-{number}", "data": number} for number in range(5)))
    eventually(lambda: client.llen("mq:orders") == 5)
    found = row(supervisor)
    assert (found["depth"], found["in_flight"], found["url"]) == (5, 1, server.url)
    ledger.open("gate")
    assert supervisor.cli("resume", "orders").returncode == 0
    for number in range(5):
        ledger.wait("end", f"later-{number}")
    # One thread, and from the right: the first in is the first out.
    assert list(ledger.counts("begin")) == ["first", *(f"later-{number}" for number in range(5))]
    eventually(lambda: supervisor.left() == (0, 0))
    assert client.keys() == []


def test_plain_text_of_others_is_data(
    supervise: Supervise, server: RedisServer, client: redis.Redis
) -> None:
    supervisor = supervise(orders(server.url), MODULES)
    client.lpush("mq:orders", "no-json", '"text"', "17")
    ledger = Ledger(supervisor)
    wanted = {"no-json", "text", "17"}
    eventually(lambda: {words[2] for words in ledger.lines() if words[0] == "begin"} == wanted)


def test_publish_now_and_later(
    supervise: Supervise, server: RedisServer, client: redis.Redis
) -> None:
    supervisor = supervise(orders(server.url), MODULES)
    ledger = Ledger(supervisor)
    later = supervisor.cli("publish", "orders", "1", "--delay", "2s", "--id", "later")
    far = supervisor.cli("publish", "orders", "1", "--delay", "1h", "--id", "far")
    soon = supervisor.cli("publish", "orders", "1", "--id", "soon")
    assert (later.returncode, far.returncode, soon.returncode) == (0, 0, 0)
    ledger.wait("end", "soon")
    ledger.wait("end", "later")
    eventually(lambda: row(supervisor)["in_flight"] == 0)
    assert (row(supervisor)["depth"], row(supervisor)["delayed"]) == (0, 1)
    assert client.zcard("mq:orders:delayed") == 1
    assert "far" not in ledger.counts("begin")


def test_a_pause_holds_for_one_topic_until_it_is_resumed(
    supervise: Supervise, server: RedisServer
) -> None:
    supervisor = supervise(orders(server.url), MODULES)
    ledger = Ledger(supervisor)
    assert supervisor.cli("queue", "pause", "orders").returncode == 0
    supervisor.wait_process("orders:0", lambda found: found["paused"] == ["orders"])
    for topic in ("orders", "mails"):
        assert supervisor.cli("publish", topic, "1", "--id", topic).returncode == 0
    ledger.wait("end", "mails")
    assert (row(supervisor)["depth"], row(supervisor)["paused"]) == (1, True)
    assert "orders" not in ledger.counts("begin")
    assert supervisor.cli("queue", "resume", "orders").returncode == 0
    ledger.wait("end", "orders")


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_dead_letters_are_looked_at_put_back_and_deleted(
    supervise: Supervise, server: RedisServer, up: bool
) -> None:
    supervisor = supervise(orders(server.url), MODULES)
    ledger = Ledger(supervisor)
    for name in ("one", "two", "three"):
        assert supervisor.cli("publish", "orders", '"bad"', "--id", name).returncode == 0
    eventually(lambda: supervisor.left() == (0, 3))
    if not up:
        assert supervisor.stop() == 0
    letters = supervisor.json("dead", "list", "orders")
    assert {letter["id"] for letter in letters} == {"one", "two", "three"}
    assert {letter["error"] for letter in letters} == {"it is bad"}
    shown = supervisor.json("dead", "show", "orders", "--id", "two")
    assert (shown["id"], shown["data"], shown["origin"]) == ("two", "bad", "orders:0")
    ledger.open("mended")
    assert supervisor.json("dead", "replay", "orders", "--id", "two")["replayed"] == 1
    if up:
        ledger.wait("end", "two")
    eventually(lambda: supervisor.left() == (0 if up else 1, 2))
    assert supervisor.json("dead", "purge", "orders", "--where", "is bad", "--yes")["purged"] == 2
    assert supervisor.json("dead", "list", "orders") == []
    if not up:
        supervisor.start()
        ledger.wait("end", "two")


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_purge_deletes_what_waits(supervise: Supervise, server: RedisServer, up: bool) -> None:
    supervisor = supervise(orders(server.url), MODULES, start=up)
    assert supervisor.cli("queue", "pause", "orders").returncode == 0
    if up:
        supervisor.wait_process("orders:0", lambda found: found["paused"] == ["orders"])
    supervisor.publish("orders", 3)
    assert supervisor.cli("publish", "orders", "1", "--delay", "1h").returncode == 0
    assert supervisor.cli("publish", "mails", "1", "--delay", "1h").returncode == 0
    assert (row(supervisor)["depth"], row(supervisor)["delayed"]) == (3, 1)
    assert supervisor.json("queue", "purge", "orders", "--yes")["purged"] == 4
    assert (row(supervisor)["depth"], row(supervisor)["delayed"]) == (0, 0)
    assert row(supervisor, "mails")["delayed"] == 1


def test_the_death_of_a_child_gives_its_messages_back_at_once(
    supervise: Supervise, server: RedisServer, client: redis.Redis
) -> None:
    supervisor = supervise(orders(server.url, lease="1h", backoff=0), MODULES)
    ledger = Ledger(supervisor)
    put(client, "orders", {"id": "one", "data": "slow"})
    [first] = ledger.wait("begin", "one")
    os.kill(first, signal.SIGKILL)
    # Its lease has an hour to go.
    _, second = ledger.wait("begin", "one", count=2)
    assert second != first
    ledger.open("gate")
    ledger.wait("end", "one")
    eventually(lambda: supervisor.left() == (0, 0))


# --- a server that is not as it should be --------------------------------------------------------


def one_line(supervisor: Supervisor, *wanted: str) -> None:
    """See that `check` says what is wrong in one line, without the password."""
    done = supervisor.cli("check")
    assert done.returncode == 69, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{supervisor.conf}:"), "with its place"
    assert "[daemon:orders] url: " in line
    for words in wanted:
        assert words in line
    assert PASSWORD not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def others_work(supervisor: Supervisor, *wanted: str) -> Line:
    """See that the rest works, and that the consumer says what it lacks; give its line."""
    supervisor.start(wait=False)
    Ledger(supervisor).wait("works")
    supervisor.wait_process("other:0", lambda found: found["ready"])
    found = supervisor.wait_process("orders:0", lambda found: "cannot be used" in found["why"])
    assert (found["state"], found["ready"]) == ("RUNNING", False)
    for words in wanted:
        assert words in found["why"]
    assert not supervisor.status()["master"]["ready"]
    assert PASSWORD not in supervisor.log_path.read_text() + supervisor.errors()
    return found


def test_a_wrong_password(supervise: Supervise, locked: str) -> None:
    wrong = "x".join(PASSWORD)
    supervisor = supervise(orders(locked.format(wrong)) + OTHER, MODULES, start=False)
    one_line(supervisor, "invalid username-password pair", "shop:***@127.0.0.1")
    others_work(supervisor, "invalid username-password pair")
    assert wrong not in supervisor.log_path.read_text() + supervisor.cli("check").stderr


def test_nobody_listens_until_somebody_does(supervise: Supervise, own: RedisServer) -> None:
    own.stop()
    supervisor = supervise(orders(own.url) + OTHER, MODULES, start=False)
    one_line(supervisor, "Connection refused", f"127.0.0.1:{own.port}")
    pid = others_work(supervisor, "Connection refused")["pid"]
    assert supervisor.cli("publish", "orders", "1").returncode == 69
    assert supervisor.cli("queue", "list").returncode == 69
    assert supervisor.cli("status", "--check").returncode == 1
    own.start()
    supervisor.wait_ready()
    assert supervisor.process("orders:0")["pid"] == pid, "it was never killed for it"
    own.stop()
    supervisor.wait_process("orders:0", lambda found: not found["ready"])
    own.start()
    supervisor.wait_ready()
    assert supervisor.cli("publish", "orders", "1", "--id", "one").returncode == 0
    Ledger(supervisor).wait("end", "one")
    assert supervisor.process("orders:0")["restarts"] == 0


@pytest.mark.parametrize("key", ["mq:orders", "mq:mails:delayed", "mq:orders:lease"])
def test_a_key_that_another_program_uses_in_its_own_way(
    supervise: Supervise, server: RedisServer, client: redis.Redis, key: str
) -> None:
    client.hset(key, "a", "b")
    supervisor = supervise(orders(server.url) + OTHER, MODULES, start=False)
    one_line(supervisor, f"{key} is a hash, and no ")
    others_work(supervisor, f"{key} is a hash, and no ")
    assert client.hgetall(key) == {b"a": b"b"}
    client.delete(key)
    supervisor.wait_ready()


def test_a_database_that_is_not_there(supervise: Supervise, server: RedisServer) -> None:
    url = server.url.removesuffix("/0") + "/9999"
    supervisor = supervise(orders(url) + OTHER, MODULES, start=False)
    one_line(supervisor, "DB index is out of range")
    others_work(supervisor, "DB index is out of range")


def test_a_replica_that_cannot_be_written_to(
    supervise: Supervise, server: RedisServer, client: redis.Redis
) -> None:
    # Of a master that is not there: it keeps what it has, and takes nothing.
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        supervisor = supervise(orders(server.url) + OTHER, MODULES, start=False)
        one_line(supervisor, "it is a replica")
        others_work(supervisor, "it is a replica")
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    supervisor.wait_ready()
    client.lpush("mq:orders", '{"id": "one", "data": 1}')
    Ledger(supervisor).wait("end", "one")


def test_a_user_with_no_more_rights_than_it_needs(
    supervise: Supervise, client: redis.Redis, locked: str
) -> None:
    client.execute_command("ACL", "SETUSER", "shop", "resetkeys", "~mq:*", "-@admin", "-@dangerous")
    supervisor = supervise(orders(locked.format(PASSWORD)), MODULES, start=False)
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    assert supervisor.cli("publish", "orders", "1", "--id", "one").returncode == 0
    Ledger(supervisor).wait("end", "one")


def test_a_password_in_a_file(supervise: Supervise, locked: str) -> None:
    url = locked.format("${file:password}")
    supervisor = supervise(orders(url), MODULES, start=False)
    supervisor.write("password", PASSWORD + "\n").chmod(0o600)
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    assert supervisor.cli("publish", "orders", "1", "--id", "one").returncode == 0
    Ledger(supervisor).wait("end", "one")
    assert PASSWORD not in json.dumps(supervisor.json("queue", "list"))
    assert PASSWORD not in supervisor.log_path.read_text()
    supervisor.write("password", "wrong\n")
    one_line(supervisor, "invalid username-password pair")
    (supervisor.folder / "password").unlink()
    for command in (("check",), ("queue", "list"), ("publish", "orders", "1")):
        done = supervisor.cli(*command)
        assert done.returncode == 78
        [line] = done.stderr.splitlines()
        place = f"{supervisor.conf}:9: [daemon:orders] url: "
        assert line == f"{place}cannot read {supervisor.folder}/password: No such file or directory"


# --- what the master has of it -------------------------------------------------------------------


@pytest.mark.parametrize("preload", ["none", "libraries"])
def test_the_master_has_the_library_and_no_connection(
    supervise: Supervise, server: RedisServer, client: redis.Redis, preload: str
) -> None:
    supervisor = supervise(
        orders(server.url),
        MODULES,
        settings={"preload": preload},
        environment={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    put(client, "orders", {"id": "one", "data": 1})
    Ledger(supervisor).wait("end", "one")
    assert os.listdir(f"/proc/{supervisor.pid}/task") == [str(supervisor.pid)]
    eventually(lambda: sockets(supervisor.pid) == [str(supervisor.run_dir / "test.sock")])
    found = imports(supervisor) & {"redis", "workers", "sqlite3"}
    assert found == ({"redis", "workers"} if preload == "libraries" else set())
