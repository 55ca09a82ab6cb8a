"""The main job: a queue whose consumers are killed with -9 all the time loses nothing.

Without the supervisor; the test does what it would do: it starts the next process of a slot and
tells it, or a sibling, who has fallen.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.slot import FALLEN, Fallen
from tests.helpers.forked import Forked, Nursery, queue_job
from workers import Context, Message, codec
from workers.sources.sqlite_desk import SqliteDesk

MESSAGES = 10_000
TOPICS = ("orders", "mails", "invoices")
PROCESSES = 3
EVERY_S = 0.2


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as nursery:
        yield nursery


class Journal:
    """Writes one line when a handler ends; its file is opened once a process."""

    def open(self, context: Context) -> None:
        self.file = Path(context.options["journal"]).open("ab", buffering=0)  # noqa: SIM115

    def handle(self, message: Message, context: Context) -> None:
        context.wait(0.005)
        self.file.write(f"{message.id}\n".encode())


def publish(path: Path) -> None:
    desk = SqliteDesk(path, io_timeout=5, create=True)
    for topic in TOPICS:
        ids = [f"{topic}-{number}" for number in range(MESSAGES // len(TOPICS))]
        bodies = [codec.encode(topic, {"n": one}, message_id=one) for one in ids]
        desk.publish(topic, bodies, 0)
    desk.close()


def left(path: Path) -> tuple[int, int]:
    """Give how many messages are not done, and how many are dead."""
    desk = SqliteDesk(path, io_timeout=5, create=True)
    depths = desk.depths()
    desk.close()
    waiting = sum(depth.depth + depth.delayed + depth.in_flight for depth in depths)
    return waiting, sum(depth.dead for depth in depths)


def test_ten_thousand_messages_survive_a_kill_each_200_ms(nursery: Nursery, tmp_path: Path) -> None:
    from supervisor.secret import Secret

    path, journal = tmp_path / "q.db", tmp_path / "journal"
    publish(path)
    total = MESSAGES // len(TOPICS) * len(TOPICS)
    job = queue_job(
        f"sqlite:///{path}",
        f"{__name__}:Journal",
        TOPICS,
        options={"journal": Secret((str(journal),))},
    )
    living: dict[int, Forked] = {}
    for process in range(PROCESSES):
        living[process] = nursery.fork(job, process)
    for one in living.values():
        one.until_ready()
    kills, begun = 0, time.monotonic()
    while left(path)[0]:
        _pass(living, EVERY_S)
        process = random.randrange(PROCESSES)
        victim = living[process]
        victim.kill()
        victim.until(victim.gone)
        kills += 1
        fallen = Fallen(victim.slot.owner, victim.page.suspects())
        sibling = living[(process + 1) % PROCESSES]
        sibling.order(FALLEN + b" " + fallen.encode())
        living[process] = nursery.fork(job, process, (fallen,))
        assert time.monotonic() - begun < 120, "it does not come to an end"
    for one in living.values():
        one.order(b"stop stop")
    assert [one.wait() for one in living.values()] == [0] * PROCESSES
    done = Counter(journal.read_text().split())
    assert len(done) == total, "lost"
    assert left(path) == (0, 0), "nothing is left, nothing is dead"
    twice = sum(done.values()) - total
    # In a handler, or finished and not yet written: as many of these as there are threads.
    assert twice <= kills * 2 * job.concurrency, "only what was in flight is done twice"
    assert kills >= 5


def _pass(living: dict[int, Forked], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        for one in living.values():
            one.read(min(rest, 0.01))
