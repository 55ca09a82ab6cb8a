"""The main job: a queue whose consumers are killed with -9 all the time loses nothing.

Without the supervisor; the test does what it would do: it starts the next process of a slot and
tells it, or a sibling, who has fallen.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from supervisor.config import Job
from supervisor.secret import Secret
from tests.helpers.fire import held_by
from tests.helpers.forked import Forked, Nursery, queue_job
from workers import Context, Message, codec
from workers.sources.sqlite_desk import SqliteDesk

TOPICS = ("orders", "mails", "invoices")
PROCESSES = 3


class Journal:
    """Writes one line when a handler ends; its file is opened once a process."""

    def open(self, context: Context) -> None:
        self.file = Path(context.options["journal"]).open("ab", buffering=0)  # noqa: SIM115

    def handle(self, message: Message, context: Context) -> None:
        context.wait(0.005)
        self.file.write(f"{message.id}\n".encode())


class Batches(Journal):
    """The same for many at once."""

    def handle_batch(self, messages: list[Message], context: Context) -> None:
        context.wait(0.05)
        self.file.write("".join(f"{message.id}\n" for message in messages).encode())


def publish(path: Path, messages: int) -> int:
    """Publish about so many messages; give how many."""
    desk = SqliteDesk(path, io_timeout=30, create=True)
    each = messages // len(TOPICS)
    for topic in TOPICS:
        ids = [f"{topic}-{number}" for number in range(each)]
        bodies = [codec.encode(topic, {"n": one}, message_id=one) for one in ids]
        desk.publish(topic, bodies, 0)
    desk.close()
    return each * len(TOPICS)


def left(path: Path) -> tuple[int, int]:
    """Give how many messages are not done, and how many are dead."""
    desk = SqliteDesk(path, io_timeout=30, create=True)
    depths = desk.depths()
    desk.close()
    waiting = sum(depth.depth + depth.delayed + depth.in_flight for depth in depths)
    return waiting, sum(depth.dead for depth in depths)


def test_ten_thousand_messages_survive_a_kill_each_200_ms(nursery: Nursery, tmp_path: Path) -> None:
    total = publish(tmp_path / "q.db", 10_000)
    job = job_of(tmp_path, "Journal")
    in_flight = consume_under_fire(nursery, tmp_path, job, every_s=0.2, least=5)
    assert verify(tmp_path, total) <= in_flight, "only what was in flight is done twice"


def test_batches_of_a_growing_pool_survive_kills(nursery: Nursery, tmp_path: Path) -> None:
    total = publish(tmp_path / "q.db", 6_000)
    job = job_of(tmp_path, "Batches", batch=10, concurrency=1, min_concurrency=1, max_concurrency=6)
    # Few and far between: each leaves up to 60 suspects, and one that is killed alone three times
    # would be dead.
    in_flight = consume_under_fire(nursery, tmp_path, job, every_s=0.5, least=2, most=8)
    assert verify(tmp_path, total) <= in_flight, "only what was in flight is done twice"


def job_of(folder: Path, handler: str, **more: Any) -> Job:
    options = {"journal": Secret((str(folder / "journal"),))}
    return queue_job(
        f"sqlite:///{folder}/q.db", f"{__name__}:{handler}", TOPICS, options=options, **more
    )


def consume_under_fire(
    nursery: Nursery, folder: Path, job: Job, *, every_s: float, least: int, most: int = 10_000
) -> Counter[str]:
    """Consume all there is, killing a process now and then; give what each had in flight.

    That is what it had claimed and, on the disk, not settled when it was dead. There are `least`
    kills, though we may stand still while all is consumed.
    """
    in_flight: Counter[str] = Counter()
    living: dict[int, Forked] = {}
    for process in range(PROCESSES):
        living[process] = nursery.fork(job, process)
    for one in living.values():
        one.until_ready()
    kills, begun = 0, time.monotonic()
    done = dict.fromkeys(living, -1)
    while left(folder / "q.db")[0] or kills < least:
        _pass(living, every_s)
        assert time.monotonic() - begun < 120, "it does not come to an end"
        if kills == most:
            continue
        process = random.randrange(PROCESSES)
        # Who has finished nothing since its start may still run the first suspect, alone: one that
        # chance kills there three times in a row is dead, and rightly so.
        if left(folder / "q.db")[0] and living[process].page.read().done <= done[process]:
            continue
        sibling = living[(process + 1) % PROCESSES]
        victim = living[process]
        victim.kill()
        victim.until(victim.gone)
        in_flight.update(one["id"] for one in held_by(folder / "q.db", victim.slot.owner))
        living[process] = nursery.succeed(victim, sibling)
        done[process] = living[process].page.read().done
        kills += 1
    for one in living.values():
        one.order(b"stop stop")
    assert [one.wait() for one in living.values()] == [0] * PROCESSES
    return in_flight


def verify(folder: Path, total: int) -> Counter[str]:
    """See that nothing is lost; give how often each was done once more."""
    done = Counter((folder / "journal").read_text().split())
    assert len(done) == total, "lost"
    assert left(folder / "q.db") == (0, 0), "nothing is left, nothing is dead"
    return Counter({one: times - 1 for one, times in done.items() if times > 1})


def _pass(living: dict[int, Forked], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        for one in living.values():
            one.read(min(rest, 0.01))
