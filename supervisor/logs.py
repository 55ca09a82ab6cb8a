"""The log: what the master and its children say, as lines on stdout or in files.

Joins what `lines` renders, `sink` buffers and `ring` remembers. The master's own records come
through the standard library's `logging`; `capture` brings what the children print and report. One
thread, no waiting, and no exception out of here: a supervisor that cannot log still supervises.
The JSON of the master is our own, as python-json-logger costs 20 ms of import, a tenth of the time
in which the master starts two hundred children.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Final

from supervisor.lines import (
    LEVELS,
    JsonRenderer,
    Record,
    Renderer,
    Source,
    TextRenderer,
    escape,
    plain,
    read_record,
)
from supervisor.loop import Loop, now
from supervisor.outlet import File, standard
from supervisor.rate import QUIET_S, Throttle, first_lines
from supervisor.ring import Ring
from supervisor.sink import Hooks, Loss, Sink

MASTER: Final = "master"
"""The name of the master's own ring."""

_AFTER_THE_TURN_S: Final = 0.001

_STREAMS: Final = {"report": "logger"}
"""What the user calls a stream, where that is not our name for it."""

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def utc(seconds: float) -> str:
    """Give a time of the epoch as RFC 3339 in UTC, to the millisecond."""
    whole, thousandths = divmod(int(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{thousandths:03d}Z"


class Speaker:
    """One source with the way that its words take: its renderer, its sink, its ring."""

    def __init__(
        self,
        log: Log,
        source: Source,
        render: Callable[[Source], Renderer],
        sink: Sink,
        throttle: Throttle | None = None,
    ) -> None:
        self.source = source
        self.sink = sink
        self._log = log
        self._render = render
        self._name = source.name
        self._throttle = throttle

    @cached_property
    def _renderer(self) -> Renderer:
        """Made with the first line: most processes never use one of their streams."""
        return self._render(self.source)

    def say(self, lines: bytes, *, partial: bool = False) -> None:
        """Log captured lines, given without the last newline, as far as the rate allows."""
        admitted = lines if self._throttle is None else self._admitted(lines)
        if admitted is None:
            return
        self._log.catch_up()
        stamp = self._log.stamp()
        rendered = self._renderer.captured(stamp, admitted, partial=partial)
        self.sink.put(rendered, admitted.count(b"\n") + 1, self._name)
        self._log.remember(self._name, f"{stamp} {self.source.stream} | ".encode(), admitted)

    def report(self, line: bytes) -> None:
        """Log a record that the process has sent as JSON."""
        self._log.catch_up()
        record = read_record(line, self._log.stamp())
        if LEVELS[record.level] < self._log.level:
            return
        if self._throttle is None or self._admitted(b"") is not None:
            self.record(record)

    def record(self, record: Record, *, urgent: bool = False) -> None:
        """Log a structured record, unless its level is below the log's."""
        if LEVELS[record.level] < self._log.level:
            return
        self.sink.put(self._renderer.record(record), 1, self._name, urgent=urgent)
        self._remember(record)

    def finish(self) -> None:
        """Say what there is to say before the process is forgotten."""
        throttle = self._throttle
        if throttle is not None and throttle.dropped and not self._tell_dropped():
            self.sink.lose(throttle.dropped, self._name)

    def _remember(self, record: Record) -> None:
        shown = f"{record.time} {record.level.upper()} {plain(record)}"
        self._log.remember(self._name, b"", shown.encode())

    def _admitted(self, lines: bytes) -> bytes | None:
        """Give those lines that the rate allows; what is said of the others is said later."""
        throttle = self._throttle
        assert throttle is not None, "asked only where there is a rate"
        count = lines.count(b"\n") + 1
        begins = not throttle.dropped
        admitted = throttle.admit(count, now())
        if begins and throttle.dropped:
            self._log.remind(self._tell_when_over, throttle.tell_at())
        return lines if admitted == count else first_lines(lines, admitted)

    def _tell_when_over(self) -> None:
        throttle = self._throttle
        assert throttle is not None, "reminded only where there is a rate"
        if not throttle.dropped:
            return  # told with the end of the process
        if throttle.tell_at() <= now() and self._tell_dropped():
            self._log.flush()
            return
        self._log.remind(self._tell_when_over, max(throttle.tell_at(), now() + QUIET_S))

    def _tell_dropped(self) -> bool:
        """Say how many lines were above the rate; False when the log itself takes nothing.

        In the master's name, as the process could say it of itself; where its lines are missed.
        """
        throttle, source = self._throttle, self.source
        assert throttle is not None, "told only where there is a rate"
        count = throttle.dropped
        words = (
            f"dropped {count} lines of {self._name} {_STREAMS.get(source.stream, source.stream)},"
            f" above log_rate = {throttle.rate} a second"
        )
        record = Record(self._log.stamp(), "warning", __name__, words, {"dropped": count})
        master = Source(MASTER, source.job, source.process, os.getpid())
        line = self._render(master).record(record)
        if not self.sink.put(line, 1, self._name, urgent=True):
            return False
        throttle.told(count)
        self._remember(record)
        return True


class Log:
    """All sinks and rings of a supervisor. Runs in: supervisor."""

    def __init__(
        self,
        sink: Sink,
        *,
        text: bool = False,
        level: str = "info",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.level = LEVELS[level]
        self.on_room: Callable[[], None] = lambda: None
        self.on_lines: Callable[[str, bytes, bytes], None] = lambda _name, _prefix, _lines: None
        self._render: Callable[[Source], Renderer] = TextRenderer if text else JsonRenderer
        self._wall_clock = wall_clock
        self._loop: Loop | None = None
        self._main = sink
        self._files: dict[Path, Sink] = {}
        self._routes: dict[str, Sink] = {}
        self._rates: dict[str, int] = {}
        self._rings: dict[str, Ring] = {}
        self._about: dict[Source, Speaker] = {}
        self._waiting: list[Callable[[], None]] = []
        self._hook(sink, "log")
        self._master = self.speaker(Source(MASTER, MASTER, 0, os.getpid()))

    @classmethod
    def open(
        cls, path: Path | None, max_bytes: int, backups: int, *, text: bool, level: str
    ) -> Log:
        """Make the log of a supervisor; `path` None is stdout.

        Raises: OSError when the file cannot be opened.
        """
        outlet = standard() if path is None else File(path, max_bytes, backups)
        return cls(Sink(outlet), text=text, level=level)

    def attach(self, loop: Loop) -> None:
        """Let the loop write what a slow outlet does not take at once."""
        self._loop = loop
        for sink in self._all():
            sink.attach(loop)

    def install(self) -> LogHandler:
        """Make this the only handler of the standard library's root logger."""
        handler = LogHandler(self)
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(self.level)
        return handler

    def route(self, job: str, path: Path | None, max_bytes: int, backups: int) -> None:
        """Give a job a log file of its own, or none, for the speakers made from now on.

        Jobs that name the same file share it. Raises: OSError when it cannot be opened.
        """
        if path is None:
            self._routes.pop(job, None)
            return
        self.open_file(path, max_bytes, backups)
        self._routes[job] = self._files[path]

    def open_file(self, path: Path, max_bytes: int, backups: int) -> None:
        """Have a log file open before it is needed. Raises: OSError when it cannot be opened."""
        if path in self._files:
            return
        sink = Sink(File(path, max_bytes, backups))
        self._hook(sink, str(path))
        if self._loop is not None:
            sink.attach(self._loop)
        self._files[path] = sink

    def forget_routes(self, known: Collection[str]) -> None:
        """Forget where jobs log that are not known any more."""
        for table in (self._routes, self._rates):
            for job in [job for job in table if job not in known]:
                del table[job]

    def close_unused(self) -> None:
        """Close the log files that no job has any more."""
        used = set(map(id, self._routes.values()))
        for path, sink in list(self._files.items()):
            if id(sink) not in used:
                sink.close()
                del self._files[path]

    def set_level(self, level: str) -> None:
        """Log from this level on."""
        self.level = LEVELS[level]
        logging.getLogger().setLevel(self.level)

    def limit(self, job: str, rate: int | None) -> None:
        """Let each stream of a job's processes log so many lines a second; None: all of them.

        Holds for the speakers made from now on.
        """
        if rate is None:
            self._rates.pop(job, None)
        else:
            self._rates[job] = rate

    def speaker(self, source: Source) -> Speaker:
        """Make the speaker of one source."""
        rate = self._rates.get(source.job) if source.stream else None
        throttle = Throttle(rate, now()) if rate is not None else None
        sink = self._routes.get(source.job, self._main)
        return Speaker(self, source, self._render, sink, throttle)

    def master(self, record: Record, source: Source | None = None) -> None:
        """Log a record of the master itself; `source` when it names a process of a job."""
        speaker = self._master
        if source is not None:
            speaker = self._about.get(source) or self._speaker_about(source)
        speaker.record(record, urgent=True)
        if self._loop is None:
            self._main.flush()

    def _speaker_about(self, source: Source) -> Speaker:
        """Make the one who tells of a process, once for each: in the main log, and in our ring."""
        speaker = self._about[source] = Speaker(self, source, self._render, self._main)
        return speaker

    def later(self, write: Callable[[], None]) -> None:
        """Have the master's record written at the end of this turn of the loop, in its order.

        What the record is about (a fork, a kill) goes first: rendering three lines takes as long
        as a fork. Whatever else is to be written or shown brings in first what still waits.
        """
        if self._loop is None:
            write()
            return
        if not self._waiting:
            self._loop.at(self, now() + _AFTER_THE_TURN_S, self.flush)
        self._waiting.append(write)

    def catch_up(self) -> None:
        """Write what `later` has put off: what caused a line stands before it."""
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            write()

    def tail(self, name: str, count: int, since: int = 0) -> list[str]:
        """Give the last lines of `master` or of a process like `orders:0`; none of an unknown.

        `since`: a mark, before which nothing is given.
        """
        self.catch_up()
        ring = self._rings.get(name)
        return ring.last(count, since) if ring is not None else []

    def mark(self, name: str) -> int:
        """Give a mark behind the last line of a process, for `tail`."""
        ring = self._rings.get(name)
        return ring.written if ring is not None else 0

    def remember(self, name: str, prefix: bytes, lines: bytes) -> None:
        """Keep lines of a process for who asks later, each behind the prefix."""
        with suppress(MemoryError):  # it is written; who asks later is shown less
            self._rings.setdefault(name, Ring()).add(prefix, lines)
            self.on_lines(name, prefix, lines)

    def remind(self, remember: Callable[[], None], when: float) -> None:
        """Call back at a moment of the loop's clock, where there is a loop."""
        if self._loop is not None:
            self._loop.at(remember, when, remember)

    def forget(self, name: str) -> None:
        """Drop the ring of a process that is not coming back."""
        self._rings.pop(name, None)
        for source in [source for source in self._about if source.name == name]:
            del self._about[source]

    def stamp(self) -> str:
        """Give the time of now."""
        return utc(self._wall_clock())

    @property
    def lost(self) -> int:
        """Count the lines that were dropped since the start."""
        return sum(sink.lost for sink in self._all())

    def flush(self) -> None:
        """Write what the outlets take now."""
        self.catch_up()
        for sink in self._all():
            sink.flush()

    def reopen(self) -> None:
        """Open all files anew by their names (SIGUSR1)."""
        for sink in self._all():
            sink.reopen()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what is left, waiting no longer than that for slow readers, and close."""
        self.catch_up()
        deadline = now() + patience_s
        for sink in self._all():
            _drain(sink, deadline)
            sink.close()

    def _all(self) -> list[Sink]:
        return [self._main, *self._files.values()]

    def _hook(self, sink: Sink, name: str) -> None:
        def say(level: str, message: str, **extras: object) -> None:
            self.master(Record(self.stamp(), level, __name__, message, extras))
            if self._loop is not None:
                # Nobody else may have anything to write for hours.
                self._loop.at(self, now() + _AFTER_THE_TURN_S, self.flush)

        def say_loss(loss: Loss) -> None:
            after = f" after: {loss.error}" if loss.error else ""
            said = f"dropped {loss.lines} lines" if loss.lines else "no line was lost"
            extras = {"dropped": dict(loss.dropped)} if loss.dropped else {}
            say("warning", f"{said}, {name} is written again{after}", **extras)

        def say_failure(error: str) -> None:
            words = f"cannot write {name}: {error}"
            if sink is not self._main:
                say("error", words)
            else:
                # There is nowhere to write it, but `logs master` shows it.
                shown = f"{self.stamp()} ERROR {__name__} | {escape(words)}"
                self.remember(MASTER, b"", shown.encode())

        sink.hooks = Hooks(on_room=lambda: self.on_room(), on_loss=say_loss, on_failure=say_failure)


def _drain(sink: Sink, deadline: float) -> None:
    """Wait for a slow outlet to take what is pending, until the deadline."""
    sink.flush()
    poll = select.poll()
    if sink.pending() and sink.fileno() >= 0:
        poll.register(sink.fileno(), select.POLLOUT)
    while sink.pending() and (left := deadline - now()) > 0:
        if not poll.poll(left * 1000):
            return
        before = sink.pending()
        sink.flush()
        if sink.pending() == before:
            return  # broken: it is ready for ever and takes nothing


class LogHandler(logging.Handler):
    """Brings the records of `logging` in the master into the log.

    A record about a process names it by `extra={"job": "orders", "slot": 0}`, as `logging` keeps
    the name `process` for itself; other extras become keys of the line.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._pid = os.getpid()
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record. In a forked child it does nothing: the descriptors are not its own."""
        if os.getpid() != self._pid:
            return
        self._log.later(partial(self._write, record))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._log.master(self._record(record), self._source(record))
        except Exception:  # what a bad argument raises must not reach the one who logs
            self.handleError(record)

    def _record(self, record: logging.LogRecord) -> Record:
        extras = {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD_ATTRIBUTES and key not in ("job", "slot")
        }
        if record.exc_info:
            extras["exc_info"] = self._formatter.formatException(record.exc_info)
        level = record.levelname.lower()
        return Record(
            time=utc(record.created),
            level=level if level in LEVELS else "info",
            logger=record.name,
            message=record.getMessage(),
            extras=extras,
        )

    def _source(self, record: logging.LogRecord) -> Source | None:
        job = getattr(record, "job", None)
        if job is None:
            return None
        process = getattr(record, "slot", 0)
        return Source(MASTER, str(job), process if isinstance(process, int) else 0, self._pid)
