"""Every message twice, and consumers killed with -9 all the time: each key is handled, and what was
written down as done is never handled again."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from supervisor.secret import Secret
from tests.helpers.fire import held_by
from tests.helpers.forked import Nursery, queue_job
from workers import Context, Message, codec
from workers.sources.sqlite_desk import SqliteDesk

KEYS = 2000
PROCESSES = 3
KILLS = 12


class Journal:
    """Writes one line when a handler ends; its file is opened once a process."""

    def open(self, context: Context) -> None:
        self.file = Path(context.options["journal"]).open("ab", buffering=0)  # noqa: SIM115

    def handle(self, message: Message, context: Context) -> None:
        context.wait(0.005)
        if random.random() < 0.02:
            raise OSError("a bad day")
        self.file.write(f"{message.data['order']}\n".encode())


def publish(desk: SqliteDesk) -> None:
    orders = [*range(KEYS), *range(KEYS)]
    random.shuffle(orders)
    bodies = [codec.encode("t", {"order": n}, message_id=codec.new_id()) for n in orders]
    desk.publish("t", bodies, 0)


def left(desk: SqliteDesk) -> tuple[int, int]:
    """Give how many messages are not done, and how many are dead."""
    depths = desk.depths()
    return sum(one.depth + one.delayed + one.in_flight for one in depths), sum(
        one.dead for one in depths
    )


def test_keys_are_handled_once_whatever_dies(nursery: Nursery, tmp_path: Path) -> None:
    path, journal = tmp_path / "q.db", tmp_path / "journal"
    desk = SqliteDesk(path, io_timeout=30, create=True)
    publish(desk)
    desk.close()
    job = queue_job(
        f"sqlite:///{path}",
        f"{__name__}:Journal",
        retries=1000,
        retry_backoff=0.05,
        options={"journal": Secret((str(journal),))},
        idempotency=Secret((f"sqlite:///{tmp_path}/keys.db",)),
        idempotency_key="data.order",
    )
    living = {process: nursery.fork(job, process) for process in range(PROCESSES)}
    for one in living.values():
        one.until_ready()
    in_flight: Counter[str] = Counter()
    for kill in range(KILLS):
        done = _lines(journal)
        # Each kill finds work under way, for as long as there is any.
        living[0].until(lambda done=done: _lines(journal) >= done + 100 or _is_empty(path))
        process, sibling = kill % PROCESSES, living[(kill + 1) % PROCESSES]
        victim = living[process]
        victim.kill()
        victim.until(victim.gone)
        in_flight.update({str(one["data"]["order"]) for one in held_by(path, victim.slot.owner)})
        living[process] = nursery.succeed(victim, sibling)
    living[0].until(lambda: _is_empty(path), 120)
    handled = Counter(journal.read_text().split())
    assert sorted(map(int, handled)) == list(range(KEYS)), "lost"
    # In a handler, or ended and not yet written down: each was in flight at a kill.
    again = handled - Counter(map(str, range(KEYS)))
    beyond = again - in_flight
    assert not beyond
    desk = SqliteDesk(path, io_timeout=30, create=False)
    assert left(desk) == (0, 0)
    publish(desk)
    desk.close()
    living[0].until(lambda: _is_empty(path), 120)
    assert Counter(journal.read_text().split()) == handled, "all of them are done, and stay so"
    for one in living.values():
        one.order(b"stop stop")
    assert [one.wait() for one in living.values()] == [0] * PROCESSES


def _is_empty(path: Path) -> bool:
    desk = SqliteDesk(path, io_timeout=30, create=False)
    waiting, _ = left(desk)
    desk.close()
    return not waiting


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
