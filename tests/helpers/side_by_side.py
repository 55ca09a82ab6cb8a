"""`pytest --processes=N`: the tests shared by N processes of pytest, side by side.

A hook of pytest's, in two processes. The first one collects, runs no test, starts N workers and
reports what they report, so that all of pytest's output is as ever. A worker is a whole pytest of
its own, with the same arguments; it takes the next few tests from a pipe that all share whenever it
is free. Its servers, its folders and its look for leaks are its own.

pytest-xdist is not used: its workers have a second thread, and talk over descriptors 0 and 1. The
tests fork, look for threads, and close what they inherit; four workers of it died at that.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from multiprocessing.connection import Connection, wait
from typing import IO, Any, Final

import pytest

_PLACE: Final = struct.Struct("=I")
"""What the shared pipe holds: places in the list of runs. A read of so few bytes is never split."""

_RUN: Final = 8
"""Tests of one file that a worker takes at once, so that the fixtures of a file are kept."""

_WORKER: Final = pytest.StashKey["Connection[Any, Any]"]()
"""Where a worker keeps its way to the first process."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the number of processes, and the descriptors that a worker is told. A hook."""
    group = parser.getgroup("side by side")
    group.addoption("--processes", type=int, default=1, metavar="N", help="share the tests by N")
    group.addoption("--worker", nargs=2, type=int, metavar="FD", help="(for a worker)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the tests, here or in workers. A hook."""
    options = session.config.option
    if options.collectonly or session.testsfailed:
        return None
    runs = list(_runs(session.items))
    if options.worker:
        return _work(session, runs, *options.worker)
    if min(options.processes, len(runs)) > 1:
        return _share(session, runs)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Have a worker report to the first process. A hook."""
    if config.option.worker:
        config.pluginmanager.register(_Reporter(config))


def _runs(items: Sequence[pytest.Item]) -> Iterator[list[pytest.Item]]:
    for _, found in groupby(items, lambda item: item.path):
        file = list(found)
        for first in range(0, len(file), _RUN):
            yield file[first : first + _RUN]


def _names(session: pytest.Session) -> list[str]:
    return [item.nodeid for item in session.items]


# In the first process


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    reports: Connection[Any, Any]
    output: IO[bytes]
    test: str = "its first test"


def _share(session: pytest.Session, runs: list[list[pytest.Item]]) -> bool:
    queue, filling = os.pipe()
    os.write(filling, b"".join(map(_PLACE.pack, range(len(runs)))))
    os.close(filling)
    workers = {}
    try:
        for _ in range(min(session.config.option.processes, len(runs))):
            worker = _start(session.config, queue)
            workers[worker.reports] = worker
        _collect(session, workers, queue)
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.wait()
        os.close(queue)
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    return True


def _start(config: pytest.Config, queue: int) -> _Worker:
    ours, theirs = os.pipe()
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _part
    arguments = [*config.invocation_params.args, "--worker", str(queue), str(theirs)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        pass_fds=(queue, theirs),
        stdin=subprocess.DEVNULL,
        stdout=output,
    )
    os.close(theirs)
    return _Worker(process, Connection(ours, writable=False), output)


def _collect(
    session: pytest.Session, workers: dict[Connection[Any, Any], _Worker], queue: int
) -> None:
    living = set(workers)
    while living:
        for reports in wait(living):
            worker = workers[reports]
            try:
                _heed(session, worker, reports.recv())
            except EOFError:
                living.remove(reports)
                _part(session, worker)
        if session.shouldfail:
            os.read(queue, 1 << 16)  # the workers find nothing more to do


def _heed(session: pytest.Session, worker: _Worker, word: Any) -> None:
    hook = session.config.hook
    if isinstance(word, list):
        if word != _names(session):  # else a test would run twice, and another not at all
            raise session.Failed("a worker has collected other tests, or in another order")
    elif isinstance(word, str):
        worker.test = word
    else:
        report = hook.pytest_report_from_serializable(config=session.config, data=word)
        hook.pytest_runtest_logreport(report=report)


def _part(session: pytest.Session, worker: _Worker) -> None:
    """Close what has ended; a worker that did not come to its end failed the test it was in."""
    code = worker.process.wait()
    worker.reports.close()
    worker.output.seek(0)
    output = worker.output.read().decode(errors="replace")
    worker.output.close()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        words = f"its worker ended with {code}, after this output:\n{output}"
        where = ("", None, worker.test)
        report = pytest.TestReport(worker.test, where, {}, "failed", words, "call")
        session.config.hook.pytest_runtest_logreport(report=report)


# In a worker


class _Reporter:
    """Hands each report to the first process."""

    def __init__(self, config: pytest.Config) -> None:
        _, reports = config.option.worker
        self._config = config
        config.stash[_WORKER] = Connection(reports, readable=False)
        for descriptor in config.option.worker:
            os.set_inheritable(descriptor, False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand it over. A hook."""
        hook = self._config.hook
        word = hook.pytest_report_to_serializable(config=self._config, report=report)
        self._config.stash[_WORKER].send(word)


def _work(session: pytest.Session, runs: list[list[pytest.Item]], queue: int, _fd: int) -> bool:
    session.config.stash[_WORKER].send(_names(session))
    # One test ahead: pytest has to know the next one to see which fixtures are needed on.
    ahead = chain.from_iterable(_taken(runs, queue))
    for item, following in pairwise(chain(ahead, [None])):
        assert item is not None
        session.config.stash[_WORKER].send(item.nodeid)
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
    return True


def _taken(runs: list[list[pytest.Item]], queue: int) -> Iterator[list[pytest.Item]]:
    while place := os.read(queue, _PLACE.size):
        yield runs[_PLACE.unpack(place)[0]]
