"""The control server in the real loop, over real sockets, with clients that mean harm."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor import control, protocol, selection
from supervisor.client import Client, ConnectionLost
from supervisor.control import ControlServer, Reply
from supervisor.errors import ConfigError, ControlError, NoSuchJob, NotRunning, UsageError
from supervisor.loop import READ, Loop
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.fork import fork, reap

LARGE = "x" * (6 * 1024 * 1024)


@dataclass(frozen=True)
class Location:
    """Where the toy master lives."""

    name: str
    run_dir: Path


@dataclass
class Master:
    """A loop with a control server and nothing else, in a thread of its own."""

    location: Location
    calls: list[str] = field(default_factory=list)
    kept: list[Reply] = field(default_factory=list)
    turns: int = 0

    def __post_init__(self) -> None:
        """Start it."""
        self.loop = Loop()
        self._jobs: list[Callable[[], None]] = []
        self._running = True
        self.path = protocol.socket_path(self.location.run_dir, self.location.name)
        self.server = ControlServer(
            self.loop, self.path, 0o600, self._verbs(), allowed_uids={os.getuid()}
        )
        self._stop_read, self._stop_write = os.pipe()
        self.loop.watch(self._stop_read, READ, self._poked)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def within(self, job: Callable[[], None]) -> None:
        """Run something inside the loop and wait for it."""
        done = threading.Event()
        self._jobs.append(lambda: (job(), done.set())[1])
        os.write(self._stop_write, b"j")
        assert done.wait(PATIENCE_S)

    def stop(self) -> None:
        self.within(self._end)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        for fd in (self._stop_read, self._stop_write):
            os.close(fd)

    def clients(self) -> int:
        return len(self.server._clients)

    def unread(self) -> int:
        """Ask inside the loop, which changes it."""
        found: list[int] = []
        self.within(lambda: found.append(self.server.unread()))
        return found[0]

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.settimeout(PATIENCE_S)
        return connection

    def _end(self) -> None:
        self._running = False
        self.server.close()

    def _run(self) -> None:
        while self._running:
            self.loop.turn()
            self.turns += 1
        self.loop.close()

    def _poked(self, _mask: int) -> None:
        os.read(self._stop_read, 1)
        self._jobs.pop(0)()

    def _verbs(self) -> dict[str, control.Verb]:
        def ping(request: protocol.Request, reply: Reply) -> None:
            self.calls.append("ping")
            reply.send({"pid": os.getpid(), "version": "9.9", "name": "toy", "new_key": 1})

        def status(request: protocol.Request, reply: Reply) -> None:
            self.calls.append("status")
            reply.send(list(selection.select(protocol.names(request), {"a": ["a:0"]})))

        def large(request: protocol.Request, reply: Reply) -> None:
            reply.send(LARGE)

        def too_large(request: protocol.Request, reply: Reply) -> None:
            reply.send("x" * protocol.REPLY_BYTES)

        def broken(request: protocol.Request, reply: Reply) -> None:
            raise ZeroDivisionError("a bug")

        def unspeakable(request: protocol.Request, reply: Reply) -> None:
            reply.send({1, 2})

        def wait(request: protocol.Request, reply: Reply) -> None:
            self.calls.append("wait")
            self.kept.append(reply)

        functions = (ping, status, large, too_large, broken, unspeakable, wait)
        return {function.__name__: function for function in functions}


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    running = Master(Location("toy", tmp_path))
    try:
        yield running
    finally:
        running.stop()


def answer(connection: socket.socket) -> dict[str, object]:
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            raise EOFError(line)
        line += piece
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_question_is_answered(master: Master) -> None:
    with Client(master.location) as client:
        assert client.ping()["name"] == "toy"
        assert client.call("status", names=["a"]) == ["a:0"]
        assert client.pid == os.getpid()


def test_why_a_master_hangs_up_is_heard_though_it_did_not_listen(tmp_path: Path) -> None:
    path = tmp_path / "toy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with Client(Location("toy", tmp_path)) as client:

            def turn_away() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1, socket.MSG_PEEK)  # the question is there, and stays unread
                    connection.sendall(b'{"ok": false, "error": "not you", "code": 1}\n')

            master = threading.Thread(target=turn_away)
            master.start()
            with pytest.raises(ControlError, match="not you"):
                client.ping()
            master.join()


def test_the_socket_has_its_mode_and_goes_with_the_master(tmp_path: Path) -> None:
    before = os.umask(0)
    os.umask(before)
    master = Master(Location("toy", tmp_path))
    assert stat.S_IMODE(master.path.stat().st_mode) == 0o600
    assert os.umask(before) == before
    master.stop()
    assert not master.path.exists()
    with pytest.raises(NotRunning, match="toy is not running"):
        Client(master.location)


def test_a_dead_masters_socket_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "toy.sock"))
    stale.close()
    with pytest.raises(NotRunning):
        Client(Location("toy", tmp_path))
    master = Master(Location("toy", tmp_path))
    with Client(master.location) as client:
        client.ping()
    master.stop()


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "toy.sock").write_text("precious")
    with pytest.raises(ConfigError, match="run_dir"):
        Master(Location("toy", tmp_path))
    assert (tmp_path / "toy.sock").read_text() == "precious"


def test_errors_of_verbs_come_back_with_their_code(master: Master) -> None:
    with Client(master.location) as client:
        with pytest.raises(NoSuchJob, match="no such job: b"):
            client.call("status", names=["b"])
        with pytest.raises(UsageError, match="list of strings"):
            client.call("status", names="a")
        with pytest.raises(UsageError, match="unknown verb '__class__'; known: broken"):
            client.call("__class__")
        client.ping()


def test_a_bug_in_a_verb_is_logged_and_the_master_lives_on(
    master: Master, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(master.location) as client:
        for verb in ("broken", "unspeakable"):
            with pytest.raises(ControlError, match="internal error"):
                client.call(verb)
        client.ping()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all(record.exc_info for record in caplog.records)


def test_a_verb_may_answer_later_and_only_once(master: Master) -> None:
    with Client(master.location) as patient, Client(master.location) as other:
        thread = threading.Thread(
            target=lambda: master.calls.append(str(patient.call("wait", limit_s=None)))
        )
        thread.start()
        while not master.kept:
            other.ping()
        master.within(lambda: [master.kept[0].send("now"), master.kept[0].send("again")][0])
        thread.join(PATIENCE_S)
        assert master.calls[-1] == "now"
        assert patient.ping()["name"] == "toy"


def test_a_client_that_left_does_not_matter(master: Master) -> None:
    connection = master.connect()
    connection.sendall(b'{"verb": "wait"}\n')
    with Client(master.location) as other:
        while not master.kept:
            other.ping()
        connection.close()
        while master.kept[0].peer is not None:
            other.ping()
        master.within(lambda: master.kept[0].send("nobody listens"))
        other.ping()


def test_a_dead_master_is_told_from_a_slow_one(master: Master) -> None:
    late = pytest.raises(ControlError, match=r"has not answered 'wait' in 0.05 s")
    with Client(master.location) as client, late:
        client.call("wait", limit_s=0.05)
    with Client(master.location) as client:
        thread = threading.Thread(target=lambda: master.within(master.server.close))
        thread.start()
        with pytest.raises(ConnectionLost):
            client.call("wait")
        thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"\x00\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"verb": ["status"]}\n',
        b'{"verb": "status", "names": {"a": 1}}\n',
    ],
)
def test_garbage_gets_one_clear_answer_and_changes_nothing(master: Master, garbage: bytes) -> None:
    with master.connect() as connection:
        connection.sendall(garbage)
        reply = answer(connection)
        assert reply["ok"] is False
        assert reply["code"] == 2
        connection.sendall(b'{"verb": "ping"}\n')
        assert answer(connection)["ok"] is True
    assert master.calls in (["ping"], ["status", "ping"])


def test_a_line_without_end_is_refused_at_64_kib(master: Master) -> None:
    with master.connect() as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(160):
                connection.sendall(b"x" * 65536)
            pytest.fail("the master took ten megabytes")
        assert "65536 bytes at most" in str(answer(connection)["error"])
        assert is_closed(connection)
    with Client(master.location) as client:
        client.ping()


def test_half_a_line_has_ten_seconds(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.connection.LINE_S", 0.05)
    with master.connect() as connection, master.connect() as dripping:
        connection.sendall(b'{"verb": "pi')
        dripping.sendall(b"{")
        assert "complete within" in str(answer(connection)["error"])
        assert is_closed(connection)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # Slowly, as the line has a limit of bytes too.
            while not select.select([dripping], [], [], 0.001)[0]:
                dripping.sendall(b" ")
        assert "complete within" in str(answer(dripping)["error"])


def test_silence_has_a_minute(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.connection.SILENCE_S", 0.05)
    with master.connect() as connection:
        assert is_closed(connection)


def test_who_is_owed_an_answer_is_not_hung_up_on(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    with master.connect() as patient:
        patient.sendall(b'{"verb": "wait"}\n')
        eventually(lambda: master.kept)
        monkeypatch.setattr("supervisor.connection.SILENCE_S", 0.02)
        with master.connect() as silent:
            assert is_closed(silent)
        master.within(lambda: master.kept[0].send("thanks"))
        assert answer(patient)["result"] == "thanks"


def test_requests_sent_at_once_are_answered_in_order(master: Master) -> None:
    with master.connect() as connection:
        connection.sendall(b'{"verb": "status"}\nnonsense\n{"verb": "ping"}\n' * 20)
        connection.shutdown(socket.SHUT_WR)
        assert [answer(connection)["ok"] for _ in range(60)] == [True, False, True] * 20
        assert is_closed(connection)


def test_an_answer_comes_after_the_end_of_the_question(master: Master) -> None:
    with master.connect() as connection:
        connection.sendall(b'{"verb": "wait"}\n')
        connection.shutdown(socket.SHUT_WR)
        with Client(master.location) as other:
            while not master.kept:
                other.ping()
            other.ping()
        before = master.turns
        master.within(lambda: master.kept[0].send("late"))
        assert answer(connection)["result"] == "late"
        assert is_closed(connection)
        assert master.turns - before < 20, "the loop spun on a half-closed client"


def test_a_large_answer_arrives_whole(master: Master) -> None:
    with Client(master.location) as client:
        assert client.call("large") == LARGE
        with pytest.raises(ControlError, match="too large"):
            client.call("too_large")
        client.ping()


def test_clients_that_never_read_cost_bounded_memory(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(master.connect()) for _ in range(20)]
        for connection in deaf:
            connection.sendall(b'{"verb": "large"}\n' * 100)
        with Client(master.location) as client:
            client.ping()
            held = eventually(master.unread)
            assert held <= control.UNREAD_BYTES
            client.ping()


def test_a_client_that_never_reads_is_let_go(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.connection.LINE_S", 0.05)
    with master.connect() as deaf, Client(master.location) as other:
        deaf.sendall(b'{"verb": "large"}\n')
        other.ping()  # who is let in after the deaf one
        while master.clients() == 2:
            other.ping()
        assert master.unread() == 0


def test_the_sixty_fifth_client_waits_for_a_seat(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CROWDED_S", 600.0)  # nobody is idle, however slow we are
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(master.connect()) for _ in range(100)]
        for connection in crowd:
            connection.sendall(b'{"verb": "ping"}\n')
        for number, connection in enumerate(crowd):
            assert answer(connection)["ok"] is True, number
            assert master.clients() <= control.CLIENTS
            connection.close()


def test_idle_clients_cannot_keep_the_operator_out(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CROWDED_S", 0.05)
    with contextlib.ExitStack() as stack:
        for _ in range(160):
            stack.enter_context(master.connect())
        # An operator so slow as to be idle for 50 ms is let go too, and comes again.
        assert eventually(lambda: _name(master)) == "toy"
        assert master.clients() <= control.CLIENTS


def _name(master: Master) -> str:
    with contextlib.suppress(ControlError), Client(master.location) as operator:
        return operator.ping()["name"]
    return ""


def test_strangers_are_turned_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be a stranger")
    master = Master(Location("toy", tmp_path))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
        if folder == Path("/tmp"):
            break
    master.path.chmod(0o666)
    read_fd, write_fd = os.pipe()

    def work() -> None:
        os.setuid(65534)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(master.path))
        os.write(write_fd, connection.recv(1000))

    assert reap(fork(work)) == 0
    os.close(write_fd)
    assert "65534 may not speak" in os.read(read_fd, 1000).decode()
    os.close(read_fd)
    master.stop()
    assert master.calls == []


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    running = Master(Location("toy", tmp_path_factory.mktemp("run")))
    try:
        yield running
    finally:
        running.stop()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.binary(max_size=80).map(lambda raw: raw.replace(b"\n", b"")), max_size=8))
def test_random_bytes_call_no_verb_and_leave_no_traceback(
    lasting: Master, caplog: pytest.LogCaptureFixture, lines: list[bytes]
) -> None:
    with lasting.connect() as connection:
        connection.sendall(b"".join(line + b"\n" for line in lines) + b"unfinished")
        connection.shutdown(socket.SHUT_WR)
        for _ in lines:
            assert answer(connection)["ok"] is False
        assert is_closed(connection)
    assert lasting.calls == []
    assert caplog.records == []


def test_a_client_costs_an_idle_master_nothing(master: Master) -> None:
    with master.connect() as connection:
        connection.sendall(b'{"verb": "ping"}\n')
        answer(connection)
        with Client(master.location) as other:
            other.ping()
            before = master.turns
            other.ping()
        assert master.turns - before < 10


def test_who_asks_nothing_but_nonsense_is_hung_up_on(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.connection.FAULTS", 3)
    with master.connect() as connection:
        for _ in range(2):
            connection.sendall(b"nonsense\n")
            assert answer(connection)["ok"] is False
        connection.sendall(b'{"verb": "ping"}\n')
        assert answer(connection)["ok"] is True
        connection.sendall(b"nonsense\n")
        assert answer(connection)["ok"] is False, "the last one is answered too"
        assert is_closed(connection)


def test_clients_that_never_pause_cannot_keep_the_operator_out(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [master.connect() for _ in range(3)]
    try:
        for number, connection in enumerate(waiting):
            # Owed an answer, they are not idle; the second has asked the most.
            connection.sendall(b'{"verb": "ping"}\n' * (5 if number == 1 else 1))
            for _ in range(5 if number == 1 else 1):
                answer(connection)
            connection.sendall(b'{"verb": "wait"}\n')
        eventually(lambda: len(master.kept) == 3)
        # Not before: whoever of them was slow to ask would be idle in a crowd.
        monkeypatch.setattr(control, "CROWDED_S", 0.05)
        monkeypatch.setattr(control, "CLIENTS", 3)
        assert eventually(lambda: _name(master)) == "toy"
        assert answer(waiting[1])["ok"] is False
        assert is_closed(waiting[1])
    finally:
        for connection in waiting:
            connection.close()


def test_a_master_without_descriptors_does_not_spin(
    master: Master, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Dry:
        """The listener of a process that has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.asked = 0

        def accept(self) -> None:
            self.asked += 1
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            return self.real.fileno()

        def close(self) -> None:
            self.real.close()

    monkeypatch.setattr(control, "CROWDED_S", 0.05)
    dry = Dry(master.server._listener)
    master.within(lambda: setattr(master.server, "_listener", dry))
    with master.connect() as connection:
        before = master.turns
        eventually(lambda: dry.asked >= 5)
        # Each try is a turn that found it, and one in which it is tried again.
        assert master.turns - before < 5 * dry.asked
        master.within(lambda: setattr(master.server, "_listener", dry.real))
        connection.sendall(b'{"verb": "ping"}\n')
        assert answer(connection)["ok"] is True
    assert "no new clients for a second" in caplog.text


def test_a_client_that_cannot_be_listened_to_is_hung_up_on(master: Master) -> None:
    class Full:
        """An epoll that takes nobody more."""

        def __init__(self, real: select.epoll) -> None:
            self.real = real

        def register(self, _fd: int, _mask: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> object:
            found: object = getattr(self.real, name)
            return found

    full = Full(master.server._epoll)
    master.within(lambda: setattr(master.server, "_epoll", full))
    with master.connect() as connection:
        assert is_closed(connection)
    master.within(lambda: setattr(master.server, "_epoll", full.real))
    assert _name(master) == "toy"
