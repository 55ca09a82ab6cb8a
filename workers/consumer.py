"""The one consume loop: fetch, handle in threads, settle, renew, drain; over any Source.

One turn of the main thread does what is due and then sleeps until something else is: a result, a
stop, a fallen sibling, or a time. The beat comes from these turns, and from nowhere else.

What keeps "at least once, and hardly ever twice" true:

* a message is acknowledged after its handler returned, at most 10 ms later, in a batch;
* what was fetched and not begun when the process stops, or dies, was not tried: it goes back
  uncounted, and at once;
* after a crash the messages that were in a handler are suspects. A process that gets one gives
  everything else back that it has not begun, waits for what runs, and runs the suspect alone. So
  only a message that kills a process while alone is counted, and its neighbours never are.

Whether something is fetched is decided in one place, `Consumer.gate` (workers/gate.py): drain and
suspects, backpressure and the pause after an empty look meet there, with whatever comes to them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor.board import Phase
from supervisor.errors import ExitCode
from supervisor.slot import OVERDUE, Fallen
from workers import supply
from workers.autoscale import Scale
from workers.backlog import Backlog
from workers.base import Unavailable
from workers.batches import Intake, width_of
from workers.breaker import Breaker, Fate, Ruling
from workers.calls import Caller
from workers.gate import FREE, Gate, Leave
from workers.handlers import TopicHandlers
from workers.judge import Judge
from workers.leases import Leases, Legacy
from workers.lifeline import FAST_S
from workers.overdue import Overdue
from workers.pool import Doorbell, Pool, Task
from workers.retry import FINAL, called
from workers.settlement import Settlement
from workers.sleep import Sleep
from workers.sources.source import Delivery, Source
from workers.suspects import sort_out
from workers.title import work
from workers.topics import Appetite, Turns
from workers.trouble import Trouble

if TYPE_CHECKING:
    from workers.runtime import Child

_TURN_S: Final = 1.0
"""The longest sleep of the loop, and so the longest time between two beats of a sound process."""

_GIVING_BACK_S: Final = 0.1
"""What a fast stop keeps of its second to give back what is not finished."""

_DRAIN: Final = "drain"
_QUIET: Final = "quiet"
_SUSPECT: Final = "suspect"
"""Bars of the gate; the second one from the fetch of a suspect until it has run."""

_log = logging.getLogger(__name__)


def run(child: Child) -> int:
    """Consume until the process has to stop. Gives the exit code. Runs in: child, main thread."""
    consumer = Consumer(child, supply.source_of(child.slot))
    return consumer.run()


class Consumer:
    """The loop of one process. Everything but the handlers runs in the main thread."""

    def __init__(self, child: Child, source: Source) -> None:
        job = child.slot.job
        self._child = child
        self._job = job
        self._page = child.slot.page
        self._source = supply.guarded(source, child, self._refuse)
        self._context = child.context()
        self._handlers = TopicHandlers(job)
        self._judge = Judge(job, child.slot.name, self._context.logger)
        self._backlog = Backlog(self._source, self._page, [topic.name for topic in job.topics])
        self._turns = Turns(job.topics, job.order_topics)
        width, self._scale = width_of(job), Scale.of(job)
        threads, most = self._scale.size, self._scale.most
        # What a rate lets through begins at once: nothing may wait here, to begin in a crowd.
        # Nor what is locked: nobody else can have it, whatever this process has to do before.
        ahead = job.queue_size if job.rate_limit is None and job.claim != "lock" else 0
        self._appetite = Appetite(threads * width, ahead)
        self._doorbell = Doorbell()
        call = Caller(self._handlers, self._context, child.connections, job.handler_timeout)
        self._pool = Pool(threads, call, self._page, self._doorbell, most=most, width=width)
        self._intake = Intake(self._pool, width)
        self._overdue = Overdue(self._pool, job.handler_timeout)
        self._breaker = Breaker(job.retry_backoff_max, job.retry_backoff)
        self._outage = self._complaint = ""
        self._leases = Leases(self._source, job.lease)
        self._settlement = Settlement(self._page, threads * width, self._leases.forget)
        self._suspect: Task | None = None
        self._told: BaseException | None = None
        self._legacy = Legacy(self._source, child.slot.fallen)
        self._trouble = Trouble()
        self._next_fetch = 0.0
        self._draining = False
        self._give_up_at: float | None = None
        self.gate = Gate()
        self.gate.add(self._pace)
        self.gate.add(self._backpressure)
        self.gate.add(self._breaker.brake)
        self._sleeper = Sleep(self._doorbell, self._source)

    def run(self) -> int:
        """Open, consume, drain, close."""
        child = self._child
        self._handlers.open(self._context)
        try:
            child.lifeline.fallen = self._on_fallen
            child.stop.on_stop(self._doorbell.ring)
            child.stop.on_hurry(self._doorbell.ring)
            child.stop.on_lull(self._doorbell.ring)
            if not self._open_source():
                return ExitCode.OK
            self._pool.start()
            self._beat()  # from READY on it is missed, whatever the first turn does
            child.ready()
            code = self._loop()
            self._pool.close()
            self._page.set_in_flight(self._intake.outstanding)
            self._page.enter(Phase.CLOSING)
            return code
        finally:
            self._source.close()
            self._handlers.close(self._context)

    def _open_source(self) -> bool:
        """Open the source, however long that takes. Gives False when the stop came first."""
        while not self._attempt([self._open_and_release]):
            self._beat()
            self._complain()
            if self._child.stop.wait(min(_TURN_S, self._trouble.until - time.monotonic())):
                return False
        self._complaint = ""  # READY says that it is over
        return not self._child.stop.stopping

    def _open_and_release(self) -> None:
        self._source.open()
        self._release_fallen()
        self._source.release_seat(self._child.slot.seat)

    def _loop(self) -> int:
        while True:
            self._doorbell.answer()
            now = time.monotonic()
            self._collect(now)
            self._watch_calls(now)
            if self._child.stop.stopping and not self._draining:
                self._begin_drain(now)
            if self._child.stop.quiet != self.gate.is_barred(_QUIET):
                self._follow_lull(now)
            self._attempt_due(now)
            self._complain()
            if self._draining and (code := self._ended(now)) is not None:
                return code
            self._begin_suspect()
            self._intake.feed()
            self._rescale(now)
            self._show(now)
            self._sleep()

    def _attempt_due(self, now: float) -> None:
        """Do all that is due with the source, unless it is in trouble."""
        if now >= self._trouble.until:
            self._attempt(self._due(now))

    def _due(self, now: float) -> Iterator[Callable[[], None]]:
        if self._legacy:
            yield self._release_fallen
        if now >= self._leases.next_renewal:
            yield self._leases.renew
        if now >= self._leases.next_look:
            yield self._leases.tend
        wanted = min(self._job.batch_size, self.gate.leave(now).room)
        if self._is_time_to_settle(now, hungry=wanted > 0):
            yield partial(self._settlement.write, self._source)
        if wanted:
            yield partial(self._fetch, wanted)
        if now >= self._backlog.next_count and not self._draining:
            yield self._backlog.count

    def _attempt(self, steps: Iterable[Callable[[], None]]) -> bool:
        """Do things with the source; give False when it got in trouble."""
        if self._trouble.passes(steps):
            return True
        self._backlog.lose_sight()
        return False

    # --- fetching

    def _pace(self, now: float) -> Leave:
        """Brake: the source has said how long nothing is to be expected of it."""
        return Leave(0, self._next_fetch) if now < self._next_fetch else FREE

    def _backpressure(self, _now: float) -> Leave:
        """Brake: enough is here; a full pool rings when it has room."""
        return Leave(self._appetite.room(self._intake.outstanding), math.inf)

    def _fetch(self, wanted: int) -> None:
        begun = time.monotonic()
        deliveries = self._source.fetch(self._turns.shares(wanted), wanted)
        self._sleeper.fetched()
        full = len(deliveries) >= wanted
        self._next_fetch = 0.0 if full else time.monotonic() + self._source.patience()
        tasks = self._leases.hold(deliveries, begun)
        if any(task.delivery.suspect for task in tasks):
            self._isolate(tasks, begun)
            return
        if tasks:
            self._breaker.fetched(tasks[0].delivery.number)
        for task in tasks:
            self._intake.submit(task)
        self._pool.low = self._appetite.ahead // 2

    def _isolate(self, tasks: Sequence[Task], now: float) -> None:
        """Keep one suspect, bury those that have killed enough, give all the rest back.

        What comes before it in its lane is not given back: it has to be done before.
        """
        found = sort_out(tasks)
        for task in found.deadly:
            self._settlement.add(*self._judge.condemn(task), now)
        for task in found.ahead:
            self._breaker.fetched(task.delivery.number)
            self._intake.submit(task)
        if found.chosen is not None:
            self._suspect = found.chosen
            self._breaker.fetched(found.chosen.delivery.number)
            self.gate.bar(_SUSPECT)
            found.others.extend(self._intake.take_back(spared=found.lane))
        for task in found.others:
            self._give_back(task, now)
        self._next_fetch = 0.0

    def _begin_suspect(self) -> None:
        if self._suspect is None or self._intake.outstanding or self._draining:
            return
        if self._suspect.delivery.lane in self._intake.lanes:
            return  # one before it is not decided yet
        task, self._suspect = self._suspect, None
        self._intake.submit(task)

    # --- handling

    def _collect(self, now: float) -> None:
        tasks = self._intake.collect()
        times = [task.seconds for task in tasks if not task.expired]
        self._page.observe(times)
        self._appetite.observe(times)
        done: list[Delivery] = []
        for task in tasks:
            if task.expired:
                self._give_back(task, now)  # it may be ours once more; otherwise this does nothing
                self._give_up_lane(task, now)
            elif task.error is None and self._breaker.is_idle:  # hardly ever otherwise
                done.append(called(task.delivery))
                if task.delivery.lane:
                    self._intake.lanes.decided(task)
            elif task.spoiled and not isinstance(task.error, Unavailable):
                self._call_alone(task, now)
            else:
                self._decide(self._breaker.rule(task, now), now)
        self._settlement.done(done, now)
        self._decide(self._breaker.due(now, all_of_them=self._draining), now)
        self._heed_breaker(now)
        if self._suspect is None and not self._intake.outstanding:
            self.gate.lift(_SUSPECT)

    def _decide(self, rulings: Iterable[Ruling], now: float) -> None:
        for task, fate in rulings:
            self._settle_later(task, fate, now)

    def _settle_later(self, task: Task, fate: Fate, now: float) -> None:
        if fate is not Fate.JUDGE:
            sentence = self._judge.spare(task, briefly=fate is Fate.AGAIN)
        else:
            sentence = self._judge.judge(task, stopping=self._child.stop.stopping)
        self._settlement.add(*sentence, now)
        if not task.delivery.lane:
            return
        if sentence[0].verdict in FINAL:
            self._intake.lanes.decided(task)
        else:
            self._give_up_lane(task, now)

    def _give_up_lane(self, task: Task, now: float) -> None:
        """Give back what comes after a task in its lane, as it is to come again itself."""
        lane = task.delivery.lane
        if not lane:
            return
        for other in self._intake.lanes.give_up(task):
            self._give_back(other, now)
        if self._suspect is not None and self._suspect.delivery.lane == lane:
            self._give_back_suspect(now)

    def _heed_breaker(self, now: float) -> None:
        """Tell when the system behind goes down, and when it is back; untried messages go back."""
        why = self._breaker.circuit.why
        if why and not self._outage:
            _log.error("%s; one message probes each %gs", why, self._job.retry_backoff_max)
            for task in self._intake.take_back():
                self._give_back(task, now)
        elif self._outage and not why:
            _log.info("available again, it was: %s", self._outage)
        self._outage = why

    def _complain(self) -> None:
        """Tell the master why there is no work done, or that there is again."""
        why = self._trouble.why or self._outage
        if why != self._complaint:
            self._complaint = why
            self._child.report.complain(why)

    def _call_alone(self, task: Task, now: float) -> None:
        """Call a message again whose batch has failed: only what it does alone is its own."""
        if self._child.stop.stopping:
            self._give_back(task, now)
            self._give_up_lane(task, now)
            return
        if task.error is not self._told:
            self._told = task.error
            self._judge.tell_batch(task)
        task.begin_anew()
        self._intake.again(task)

    def _give_back(self, task: Task, now: float) -> None:
        self._settlement.give_back(task.delivery, now)
        self._breaker.given_back(task.delivery.number, now)

    def _give_back_suspect(self, now: float) -> None:
        """Give back the suspect that waits to run alone, if there is one."""
        if self._suspect is not None:
            self._give_back(self._suspect, now)
            self._suspect = None

    def _watch_calls(self, now: float) -> None:
        """Leave as soon as all else is done, when a call of a handler does not come to its end."""
        if self._draining or not self._overdue.is_found(now):
            return
        child = self._child
        child.report.line(OVERDUE)
        child.stop.set("handler_timeout")
        child.lifeline.expire(self._job.stop_timeout, ExitCode.FAILED)

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        """Send a message to the dead letters whose handler is not called."""
        task = Task(delivery, 0.0)
        self._settlement.add(*self._judge.refuse(task, reason), time.monotonic())

    # --- settling

    def _is_time_to_settle(self, now: float, *, hungry: bool) -> bool:
        due = self._settlement.due_at()
        if due is None:
            return False
        return hungry or self._draining or not self._intake.outstanding or now >= due

    def _release_fallen(self) -> None:
        self._legacy.release()
        self._next_fetch = 0.0

    def _on_fallen(self, fallen: Fallen) -> None:
        """Take the news of a dead sibling. Runs in: the lifeline's thread."""
        self._legacy.add(fallen)
        self._doorbell.ring()

    # --- leaving

    def _begin_drain(self, now: float) -> None:
        """Take nothing new; what is not begun goes back at once, and counts as not tried."""
        self._draining = True
        self.gate.bar(_DRAIN)
        self._page.enter(Phase.DRAINING)
        self._give_back_unbegun(now)

    def _follow_lull(self, now: float) -> None:
        """Take nothing new while the operator wishes so, or new work again."""
        if self._child.stop.quiet:
            self.gate.bar(_QUIET, _QUIET)
            self._give_back_unbegun(now)
        else:
            self.gate.lift(_QUIET)
            self._next_fetch = 0.0
            # What waited meanwhile was not neglected.
            self._page.progressed(time.monotonic_ns())

    def _give_back_unbegun(self, now: float) -> None:
        # First, as a decision lets a lane go on.
        for task in self._intake.take_back():
            self._give_back(task, now)
        self._decide(self._breaker.due(now, all_of_them=True), now)
        self._give_back_suspect(now)

    def _ended(self, now: float) -> int | None:
        """Give the exit code when the drain is over, or its time is."""
        if self._pool.calls <= self._overdue.stuck(now) and not len(self._settlement):
            return ExitCode.FAILED if self._overdue.happened else ExitCode.OK
        if self._child.stop.fast.is_set() and self._give_up_at is None:
            self._give_up_at = now + FAST_S - _GIVING_BACK_S
        if self._give_up_at is None or now < self._give_up_at:
            return None
        self._abandon(now)
        return ExitCode.FAILED

    def _abandon(self, now: float) -> None:
        """Give back what still runs: a fast stop burns no retry and makes no suspects.

        Its numbers stay on the board: the master counts by them what was abandoned.
        """
        settled = self._settlement.numbers()
        for task in self._leases:
            if task.delivery.number not in settled:
                self._give_back(task, now)
        self._attempt([partial(self._settlement.write, self._source)])

    # --- being seen, and sleeping

    def _rescale(self, now: float) -> None:
        """Have more threads, or fewer, as the queue asks for."""
        if now < self._scale.look_at or self._scale.is_fixed or self._draining:
            return
        busy = self._pool.busy()
        waiting = self._intake.outstanding - busy + self._backlog.waiting
        # Threads that stand idle beside a queue wait for something else: a rate, or the GIL.
        size = self._pool.size
        held = self.gate.is_held(now) or busy * 2 < size
        self._scale = self._scale.seen(waiting / self._job.queue_size, now, held=held)
        if self._scale.size == size:
            return
        self._pool.resize(self._scale.size)
        size = self._pool.size  # the machine may have given fewer
        self._scale = replace(self._scale, size=size)
        self._appetite.resize(size * width_of(self._job))
        self._settlement.batch = size * width_of(self._job)

    def _beat(self) -> None:
        self._page.beat(time.monotonic_ns())

    def _show(self, now: float) -> None:
        self._beat()
        busy = self._pool.busy()
        self._page.set_in_flight(busy + self._settlement.called() + self._breaker.undecided)
        self._pool.eager = not len(self._settlement)
        if not self._child.title.is_due(now):
            return
        threads = 0 if self._scale.is_fixed else self._pool.size
        words = work(self._page.read(), busy, threads, draining=self._draining)
        why = self.gate.leave(now).why
        self._child.title.show(f"{words}, {why}" if why else words, now)

    def _sleep(self) -> None:
        now = time.monotonic()
        wake_at = min(now + _TURN_S, self._give_up_at or math.inf)
        if now < self._trouble.until:
            wake_at = min(wake_at, self._trouble.until)
        else:
            due = self._settlement.due_at()
            if due is not None:
                wake_at = min(wake_at, due)
            wake_at = min(wake_at, self._breaker.due_at())
            leave = self.gate.leave(now)
            wake_at = min(wake_at, now if leave.room else leave.again_at)
            wake_at = min(wake_at, self._leases.next_renewal)
        if not self._draining:
            wake_at = min(wake_at, self._overdue.look_at(now))
        if self._sleeper.until(max(0.0, wake_at - now) * 1000):
            self._next_fetch = 0.0
