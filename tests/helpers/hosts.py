"""Hosts with a network between them: namespaces, a server's and one for each supervisor.

Nothing of the machine's own network changes, and all is gone with the processes that hold the
namespaces: so names and addresses are the same in every test. A test asks the servers over sockets
of Unix, which no network parts.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.eventually import PATIENCE_S
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.lacks import MachineLacks
from tests.helpers.local_server import LocalServer
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer

ADDRESS = "10.77.0.1"
"""Of the servers, the same for all hosts."""


def _missing() -> str:
    """Say in one line what this machine lacks; empty when nothing is missing."""
    if os.geteuid() != 0:
        return "a network of namespaces needs root"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"a network of namespaces needs: apt-get install {package}"
    return ""


def _cannot() -> str:
    """Say in one line why the kernel makes no such network; empty when it does."""
    probe = "ip link add one type veth peer name two"
    done = subprocess.run(
        ["unshare", "--net", *probe.split()], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode != 0 else ""


def _enter(namespace: int) -> None:
    """Go to another network namespace, as the thread that we are. Source: setns(2)."""
    clone_newnet = 0x40000000
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, clone_newnet) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Place:
    """A network namespace, held by a process that does nothing."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"there\n")
        self._holder.stdin.flush()
        assert self._holder.stdout.readline() == b"there\n"

    @property
    def pid(self) -> int:
        """Give who holds it."""
        return self._holder.pid

    @property
    def within(self) -> tuple[str, ...]:
        """Give the words that run those after them in here, as the same process."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be there, with all connections and threads that are made meanwhile."""
        with open("/proc/thread-self/ns/net") as home, open(f"/proc/{self.pid}/ns/net") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def ip(self, words: str) -> None:
        """Change something of its network."""
        done = subprocess.run(
            [*self.within, "ip", *words.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ip {words}: {done.stderr}"

    def close(self) -> None:
        """Let it go, with all its links."""
        self._holder.communicate(timeout=PATIENCE_S)  # the end of its input is its own


class Host(Place):
    """The place of one supervisor, which reaches the server's over one link."""

    _server: Place
    _link: str

    def connect(self, server: Place, number: int) -> None:
        """Lay the link."""
        self._server = server
        self._link = f"host{number}"
        network = f"10.77.{number}"
        server.ip(f"link add {self._link} type veth peer name eth0 netns {self.pid}")
        server.ip(f"address add {network}.1/24 dev {self._link}")
        self.ip(f"address add {network}.2/24 dev eth0")
        self.ip("link set eth0 up")
        self.mend()
        self.ip(f"route add {ADDRESS} via {network}.1")

    def cut(self) -> None:
        """Take its network away: no packet comes through, and nobody is told."""
        self._server.ip(f"link set {self._link} down")

    def mend(self) -> None:
        """Give it back."""
        self._server.ip(f"link set {self._link} up")


@dataclass(frozen=True)
class Network:
    """The place of the servers, and the hosts."""

    server: Place
    hosts: tuple[Host, ...]


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """Give a network. Skips the test where none can be had."""
    if lack := _missing():
        pytest.skip(lack)
    if reason := _cannot():
        raise MachineLacks(f"a network of namespaces cannot be had here: {reason}")
    with ExitStack() as stack:
        server = stack.enter_context(closing(Place()))
        server.ip(f"address add {ADDRESS}/32 dev lo")
        server.ip("link set lo up")
        made = [stack.enter_context(closing(Host())) for _ in range(hosts)]
        for number, host in enumerate(made, 1):
            host.connect(server, number)
        yield Network(server, tuple(made))


class _Far(LocalServer):
    """A server in a place of its own; `url` is how a test reaches it, `far_url` how a host does."""

    place: Place

    def launched(self, words: Sequence[str | Path], **more: Any) -> subprocess.Popen[bytes]:
        """Start it there; only root may enter."""
        user = pwd.getpwnam(self.user) if self.user else pwd.getpwuid(0)
        as_user = (f"--setuid={user.pw_uid}", f"--setgid={user.pw_gid}")
        return subprocess.Popen([*self.place.within, *as_user, *words], **more)


class FarRedis(_Far, RedisServer):
    """A Redis that has on its disk what it has said yes to."""

    def __init__(self, place: Place) -> None:
        self.place = place
        super().__init__(Path(tempfile.mkdtemp(prefix="redis-")), fsync="always")

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket?db=0"

    @property
    def far_url(self) -> str:
        return f"redis://{ADDRESS}:{self.port}/0"

    def command(self, port: int) -> list[str | Path]:
        listens = ("--bind", ADDRESS, "--protected-mode", "no", "--unixsocket")
        return [*super().command(port), *listens, self.folder / "socket"]

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.folder)


class FarPostgres(_Far, PostgresServer):
    """A PostgreSQL that lets everybody in."""

    def __init__(self, place: Place) -> None:
        self.place = place
        super().__init__()

    @property
    def url(self) -> str:
        return f"postgresql://tests@/postgres?host={self.folder}&port={self.port}"

    @property
    def far_url(self) -> str:
        return f"postgresql://tests@{ADDRESS}:{self.port}/postgres"

    def command(self, port: int) -> list[str | Path]:
        rules = self.folder / "hba"
        rules.write_text("local all all trust\nhost all all 10.77.0.0/16 trust\n")
        listens = {
            "listen_addresses": ADDRESS,
            "unix_socket_directories": self.folder,
            "hba_file": rules,
        }
        options = [word for key, value in listens.items() for word in ("-c", f"{key}={value}")]
        return [*super().command(port), *options]


class FarKafka(_Far, KafkaServer):
    """A broker that only those reach who have entered a place."""

    ADDRESS = ADDRESS

    def __init__(self, place: Place) -> None:
        self.place = place
        super().__init__(Path(tempfile.mkdtemp(prefix="kafka-")))

    def answers(self) -> bool:
        """Ask from there."""
        with self.place.entered():
            return super().answers()

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.folder)
