"""The runtime of a child, in real processes that the test forks: life, stop, errors, logs."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from supervisor.config import Job
from supervisor.errors import configuration_fault
from tests.helpers.eventually import PATIENCE_S
from tests.helpers.forked import Nursery
from workers import Context, Worker, runtime


def worker(target: object, **more: object) -> Job:
    name = f"{__name__}:{getattr(target, '__name__', target)}"
    return Job(name="w", kind="daemon", type="worker", target=name, **more)  # type: ignore[arg-type]


def waits(context: Context) -> None:
    context.logger.info("begun", extra={"order": 7, "time": "mine"})
    while not context.wait(60):
        raise AssertionError("nobody asked it to stop")


def test_function_is_ready_and_a_stop_ends_it_with_0(nursery: Nursery) -> None:
    one = nursery.fork(worker(waits))
    one.until_ready()
    one.order(b"stop stop")
    assert one.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_stop(nursery: Nursery, number: int) -> None:
    one = nursery.fork(worker(waits))
    one.until_ready()
    one.kill(number)
    assert one.wait() == 0


def test_its_own_stop_signal_is_a_stop(nursery: Nursery) -> None:
    one = nursery.fork(worker(waits, stop_signal=signal.SIGQUIT))
    one.until_ready()
    one.kill(signal.SIGQUIT)
    assert one.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_for_the_master_does_no_harm(nursery: Nursery, number: int) -> None:
    one = nursery.fork(worker(waits))
    one.until_ready()
    one.kill(number)
    one.order(b"stop stop")
    assert one.wait() == 0


def closes_everything(context: Context) -> None:
    os.closerange(3, 4096)
    context.wait(60)


def test_a_process_that_can_hear_no_order_leaves(nursery: Nursery) -> None:
    one = nursery.fork(worker(closes_everything))
    one.until_ready()
    with suppress(BrokenPipeError):  # it may have noticed by itself
        one.order(b"stop stop")
    assert one.wait() == 70


def test_death_of_the_master_is_a_stop(nursery: Nursery) -> None:
    one = nursery.fork(worker(waits))
    one.until_ready()
    one.cut()
    assert one.wait() == 0


def takes_all_descriptors(context: Context) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with suppress(OSError):
        while True:
            os.dup(0)
    context.logger.info("took all")
    raise SystemExit(0 if context.wait(60) else 1)


def test_death_of_the_master_is_a_stop_also_where_no_descriptor_is_free(nursery: Nursery) -> None:
    one = nursery.fork(worker(takes_all_descriptors))
    one.until(lambda: one.said("took all"))
    one.cut()
    assert one.wait() == 0


def test_records_carry_our_keys_and_the_extras(nursery: Nursery) -> None:
    one = nursery.fork(worker(waits))
    one.until(lambda: one.said("begun"))
    record = one.logged()[-1]
    assert record["order"] == 7
    assert record["level"] == "info"
    assert record["logger"] == "w"
    assert record["time"].endswith("Z")
    assert record["fields"] == {"time": "mine"}


class Shy:
    def __str__(self) -> str:
        raise ValueError("do not look")


def logs_what_is_no_json(context: Context) -> None:
    context.logger.error("not a number", extra={"ratio": float("nan"), "n": 3})
    context.logger.error("shy", extra={"who": Shy(), "whom": {(1, 2): Shy()}})


def test_a_record_keeps_its_level_and_its_words_whatever_its_extras(nursery: Nursery) -> None:
    one = nursery.fork(worker(logs_what_is_no_json))
    assert one.wait() == 0
    first, second = one.logged()
    assert (first["level"], first["message"]) == ("error", "not a number")
    assert (first["ratio"], first["n"]) == ("nan", 3)
    assert (second["level"], second["message"]) == ("error", "shy")
    assert second["who"] == "<Shy>"


def fails(_context: Context) -> None:
    raise ValueError("no luck today")


def test_an_exception_is_logged_with_its_traceback_and_gives_1(nursery: Nursery) -> None:
    one = nursery.fork(worker(fails))
    assert one.wait() == 1
    record = one.logged()[-1]
    assert "no luck today" in record["message"]
    assert "ValueError" in record["exc_info"]
    assert record["level"] == "error"


def fails_without_a_word(_context: Context) -> None:
    raise LookupError


def test_an_error_without_words_is_called_by_its_name(nursery: Nursery) -> None:
    one = nursery.fork(worker(fails_without_a_word))
    assert one.wait() == 1
    assert one.logged()[-1]["message"] == "w:0 stopped with error: LookupError"


def misconfigured(_context: Context) -> None:
    raise configuration_fault("my.ini", "the shop is closed")


def test_a_configuration_error_gives_78(nursery: Nursery) -> None:
    assert nursery.fork(worker(misconfigured)).wait() == 78


def exits(_context: Context) -> None:
    sys.exit(9)


def test_sys_exit_keeps_its_code(nursery: Nursery) -> None:
    assert nursery.fork(worker(exits)).wait() == 9


def stuck_in_a_call(_context: Context) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    subprocess.run(["sleep", "600"], check=False)


def test_fast_stop_ends_what_does_not_listen(nursery: Nursery) -> None:
    one = nursery.fork(worker(stuck_in_a_call))
    one.until_ready()
    one.order(b"fast")
    assert one.wait() == 1


def test_stuck_child_of_a_dead_master_is_gone_after_stop_timeout(nursery: Nursery) -> None:
    one = nursery.fork(worker(stuck_in_a_call, stop_timeout=0.5))
    one.until_ready()
    one.cut()
    assert one.wait() == 1


def holds_the_gil(_context: Context) -> None:
    # A read of the pipe lets the lifeline arm the alarm; then nothing of Python runs any more.
    sys.setswitchinterval(1e-5)
    while not _context.stopping:
        pass
    sum(iter(int, 1))


def test_child_stuck_with_the_gil_dies_by_the_alarm(nursery: Nursery) -> None:
    one = nursery.fork(worker(holds_the_gil, stop_timeout=0.5))
    one.until_ready()
    one.cut()
    assert one.wait() in (1, -signal.SIGALRM)


class Listener(Worker):
    def setup(self) -> None:
        self.pipe = os.pipe()

    def run(self, context: Context) -> None:
        os.read(self.pipe[0], 1)
        context.logger.info("run ended as %s", self.name)

    def stop(self) -> None:
        logging.getLogger("listener").info("stop called")
        os.write(self.pipe[1], b"x")

    def close(self) -> None:
        logging.getLogger("listener").info("close called")


def test_class_lives_from_setup_to_close_and_stop_wakes_its_run(nursery: Nursery) -> None:
    one = nursery.fork(worker(Listener))
    one.until_ready()
    one.order(b"stop recycle")
    one.order(b"stop recycle")
    assert one.wait() == 0
    said = [record["message"] for record in one.logged()]
    assert said == ["stop called", "run ended as w:0", "close called"]


class Broken(Worker):
    def setup(self) -> None:
        raise OSError("no such server")

    def close(self) -> None:
        logging.getLogger().info("close called")


def test_a_failed_setup_is_never_ready_and_is_closed(nursery: Nursery) -> None:
    one = nursery.fork(worker(Broken))
    assert one.wait() == 1
    assert b"ready" not in one.lines
    assert one.said("close called")


class Sick(Worker):
    def run(self, context: Context) -> None:
        context.wait(60)

    def health_check(self) -> bool:
        return False


def test_a_failed_health_check_ends_the_process_with_1(nursery: Nursery) -> None:
    one = nursery.fork(worker(Sick, health_interval=0.05))
    assert one.wait() == 1
    assert one.said("health check failed")


def beats(context: Context) -> None:
    context.beat()
    context.wait(600)


def test_waiting_is_parked(nursery: Nursery) -> None:
    one = nursery.fork(worker(beats))
    one.until(lambda: one.page.read().parked_until_ns)
    assert one.page.read().beat_ns > 0
    one.order(b"stop stop")
    assert one.wait() == 0
    assert one.page.read().parked_until_ns == 0


def never_beats(context: Context) -> None:
    context.wait(0.01)
    context.logger.info("waited")
    context.wait(600)


def test_without_a_beat_nothing_is_watched(nursery: Nursery) -> None:
    one = nursery.fork(worker(never_beats))
    one.until(lambda: one.said("waited"))
    assert one.page.read().beat_ns == 0


def _sleeps() -> None:
    signal.pause()


def forks(context: Context) -> None:
    helper = multiprocessing.get_context("fork").Process(target=_sleeps)
    helper.start()
    helper.terminate()
    helper.join(PATIENCE_S)
    context.logger.info("helper ended with %s, stopping=%s", helper.exitcode, context.stopping)


def test_a_fork_of_a_handler_is_an_ordinary_process(nursery: Nursery) -> None:
    one = nursery.fork(worker(forks))
    assert one.wait() == 0
    assert one.said("helper ended with -15, stopping=False")


def leaves_hooks(_context: Context) -> None:
    atexit.register(logging.getLogger("hook").info, "hook ran")


def hangs_in_a_hook(_context: Context) -> None:
    atexit.register(signal.pause)


def test_exit_hooks_run(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_EXIT_HOOKS_S", PATIENCE_S)
    one = nursery.fork(worker(leaves_hooks))
    assert one.wait() == 0
    assert one.said("hook ran")


def test_exit_hooks_have_one_second(nursery: Nursery) -> None:
    assert nursery.fork(worker(hangs_in_a_hook)).wait() == 0


def test_stacks_are_dumped_on_demand_and_the_process_lives(nursery: Nursery) -> None:
    reader, writer = os.pipe()
    one = nursery.fork(worker(waits), stdout=writer)
    os.close(writer)
    one.until(lambda: one.said("begun"))
    one.kill(signal.SIGUSR2)
    dump = b""
    while b"in waits" not in dump:
        assert select.select([reader], [], [], PATIENCE_S)[0], dump
        dump += os.read(reader, 65536)
    os.close(reader)
    one.order(b"stop stop")
    assert one.wait() == 0


def prints_until_it_is_told(context: Context) -> None:
    context.wait(60)
    print("the master is dead, and this must not raise", flush=True)
    sys.stderr.write("nor this\n")


def test_output_of_an_orphan_is_no_error(nursery: Nursery) -> None:
    reader, writer = os.pipe()
    one = nursery.fork(worker(prints_until_it_is_told), stdout=writer)
    os.close(writer)
    one.until_ready()
    os.close(reader)
    one.cut()
    assert one.wait() == 0


async def asynchronous(_context: Context) -> None: ...


def test_async_function_is_refused_with_the_cure(nursery: Nursery) -> None:
    one = nursery.fork(worker(asynchronous))
    assert one.wait() == 1
    assert one.said("asyncio.run")


class Tick:
    def open(self, context: Context) -> None:
        context.logger.info("opened")

    def execute(self, context: Context) -> None:
        context.logger.info("run", extra={"slot": str(context.scheduled_at)})
        raise ValueError("this one fails")

    def close(self) -> None:
        logging.getLogger().info("closed")


def forks_and_fails(context: Context) -> None:
    pid = os.fork()
    if not pid:
        raise ValueError("in the fork")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    context.logger.info("the fork ended with %d", code)


def test_a_fork_that_comes_back_from_a_run_keeps_no_rhythm_of_its_own(nursery: Nursery) -> None:
    handler = f"{__name__}:forks_and_fails"
    one = nursery.fork(
        Job(name="s", kind="daemon", type="scheduled", handler=handler, run_at_start=True)
    )
    one.until(lambda: one.page.read().done)
    one.order(b"stop stop")
    assert one.wait() == 0
    assert one.said("the fork ended with 1")
    assert one.page.read().failed == 0


def test_scheduled_goes_on_after_a_failed_run(nursery: Nursery) -> None:
    job = Job(
        name="s", kind="daemon", type="scheduled", handler=f"{__name__}:Tick",
        interval=0.05, run_at_start=True,
    )  # fmt: skip
    one = nursery.fork(job)
    one.until(lambda: one.page.read().failed >= 3)
    one.order(b"stop stop")
    assert one.wait() == 0
    assert one.said("opened")
    assert one.said("closed")
    assert one.said("run failed: this one fails")
    assert one.page.read().beat_ns == 0
