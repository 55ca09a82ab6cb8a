"""What every test gets: a look at what it leaves behind, and supervisors to drive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from supervisor import kernel
from tests.helpers.driver import Supervisor
from tests.helpers.forked import Nursery
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.lacks import pytest_runtest_makereport
from tests.helpers.leaks import Traces, end_leaked_processes, leaks
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer
from tests.helpers.side_by_side import pytest_addoption, pytest_configure, pytest_runtestloop

# Hooks: pytest finds them here.
__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_runtestloop",
]

# A busy machine is no failure: what hangs is stopped elsewhere.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


class Supervise(Protocol):
    """Makes a supervisor with `driver.Supervisor`'s arguments; started unless `start=False`."""

    def __call__(
        self, jobs: str, modules: dict[str, str] | None = None, *, start: bool = True, **more: Any
    ) -> Supervisor: ...


@pytest.fixture(scope="session", autouse=True)
def adopted_orphans() -> None:
    """See daemonised grandchildren too: they become children of pytest."""
    kernel.adopt_orphans()


@pytest.fixture(autouse=True)
def nothing_left_behind(adopted_orphans: None) -> Iterator[None]:
    """Fail a test that leaves a process, a descriptor, a thread or a signal handler behind."""
    before = Traces.now()
    yield
    found = leaks(before)
    end_leaked_processes(before)
    assert not found, "left behind: " + "; ".join(found)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """Give a maker of children without a supervisor, all of which are ended with the test."""
    with Nursery(tmp_path) as nursery:
        yield nursery


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    """Give a maker of supervisors, all ended with the test, which fails by what they leave."""
    made: list[Supervisor] = []

    def make(
        jobs: str, modules: dict[str, str] | None = None, *, start: bool = True, **more: Any
    ) -> Supervisor:
        supervisor = Supervisor(jobs, modules, **more)
        made.append(supervisor)
        return supervisor.start() if start else supervisor

    yield make
    wrong = [what for supervisor in made for what in supervisor.close()]
    assert not wrong, "left behind: " + "; ".join(wrong)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Give a Redis of our own, the same to all tests; who uses it empties it first."""
    with closing(RedisServer(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Give a PostgreSQL of our own, the same to all tests; who uses it empties it first."""
    with closing(PostgresServer()) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Give a broker of our own, the same to all tests; each has topics and groups of its own."""
    with closing(KafkaServer(tmp_path_factory.mktemp("kafka"))) as server:
        yield server
