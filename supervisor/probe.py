"""The check that needs an import: are the handlers there, and are they what their jobs need?

Importing runs the user's code, so it happens in a short-lived child of its own: what a module
does at import (hang, crash, print, start threads) ends with that child, and the caller never
holds user code. Called by `check`, `start` and `reload`, from a process with a single thread.
Not a promise: an import that works here may fail later in the child of the job, which is then an
ordinary failure of that job.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import envfile, kernel, prerequisites, rights, signals, trust, values
from supervisor.child import SYSTEMD_VARIABLES
from supervisor.config import Config, Job
from supervisor.errors import Problem, SpawnError, SupervisorError
from supervisor.secret import mask

_LONGEST: Final = 400
"""Characters of an error of the user's code that a problem quotes."""

_CALLS: Final = {
    "target": ("context",),
    "scheduled": ("context",),
    "handler": ("message", "context"),
    "batch": ("messages", "context"),
}
"""What a function is called with, by its place."""

_METHODS: Final = {
    "scheduled": ("execute",),
    "handler": ("handle", "handle_batch"),
    "batch": ("handle_batch",),
}
"""The methods of which a class needs one, by its place."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A `module:attr` of the configuration, the key that names it and the place that it takes."""

    job: Job
    key: str
    text: str
    place: str

    def problem(self, message: str) -> Problem:
        """Say what is wrong with it, at its own line."""
        file, line = self.job.origin(self.key)
        return Problem(file, line, f"{self.job.kind}:{self.job.name}", self.key, message)


def probe(config: Config, timeout_s: float) -> tuple[Problem, ...]:
    """Import every target and handler of the jobs; give what is wrong, sorted by file and line.

    Before anything is imported, what the configuration needs of this machine and of us is looked
    at: nothing that we may not trust is ever run. Takes at most `timeout_s` seconds in all. The
    caller must have one thread only; it keeps no descriptor, no child and no user code.
    Raises: SpawnError when the kernel gives no process.
    """
    waiting = tuple(references(config))
    problems = [*prerequisites.problems(config), *_distrusted(config, waiting)]
    if not problems:
        deadline = time.monotonic() + timeout_s
        for user in dict.fromkeys(map(_user_of, waiting)):
            same = [one for one in waiting if _user_of(one) == user]
            problems += _probe(config, same, deadline, timeout_s)
    return tuple(sorted(problems, key=lambda problem: (problem.file, problem.line)))


def _user_of(reference: Reference) -> tuple[object, object]:
    """Tell those who run as the same user, and can be checked by one process, from others."""
    return reference.job.user, reference.job.group


def _probe(
    config: Config, waiting: list[Reference], deadline: float, timeout_s: float
) -> list[Problem]:
    problems: list[Problem] = []
    while waiting:
        told = _Told(waiting)
        with _Child(config, waiting, timeout_s) as child:
            end = child.listen(told, deadline, timeout_s)
        problems += told.problems
        if end is None:
            break
        # The module that was being imported took its process with it; go on after that one.
        problems.append(waiting[told.at].problem(end))
        if time.monotonic() >= deadline:
            break
        waiting = waiting[told.at + 1 :]
    return problems


def _distrusted(config: Config, waiting: Sequence[Reference]) -> Iterator[Problem]:
    """Name the files of handlers that root may not run."""
    if os.geteuid() != 0:
        return
    search = search_path(config.pythonpath)
    known: dict[str, str] = {}
    for reference in waiting:
        module = reference.text.partition(":")[0]
        if reference.place == "env_file":
            continue
        if module not in known:
            faults = map(trust.distrust, trust.module_files(module, search))
            known[module] = next(filter(None, faults), "")
        if known[module]:
            yield reference.problem(known[module])


def references(config: Config) -> Iterator[Reference]:
    """Give every `module:attr` of the jobs and the file of its variables, in the file's order."""
    for job in config.jobs:
        messages = "batch" if job.batch > 1 else "handler"
        if job.env_file is not None:
            yield Reference(job, "env_file", str(job.env_file), "env_file")
        if job.target is not None:
            yield Reference(job, "target", job.target, "target")
        if job.handler is not None:
            place = "scheduled" if job.type == "scheduled" else messages
            yield Reference(job, "handler", job.handler, place)
        for topic, text in job.handlers.items():
            yield Reference(job, f"handler.{topic}", text, messages)


def search_path(pythonpath: Sequence[Path]) -> list[str]:
    """Give `sys.path` with the configured folders first and without the current directory.

    The current directory stays where this very package was found in it (a checkout that is not
    installed): without it nothing could be imported at all.
    """
    first = [str(path) for path in pythonpath]
    here = os.getcwd()
    unwanted = {"", *first}
    if Path(__file__).parents[1] != Path(here):
        unwanted.add(here)
    return first + [entry for entry in sys.path if entry not in unwanted]


class _Told:
    """What the child has told so far: where it is, and what it found."""

    def __init__(self, waiting: Sequence[Reference]) -> None:
        self.at = 0
        self.done = False
        self.problems: list[Problem] = []
        self._waiting = waiting
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        """Take one line. User code shares the pipe's process: nonsense is stepped over."""
        try:
            word = json.loads(line)
        except ValueError:
            return
        match word:
            case {"at": int(at)} if 0 <= at < len(self._waiting):
                self.at = at
            case {"wrong": str(message)}:
                self.problems.append(self._waiting[self.at].problem(message))
            case {"done": True}:
                self.done = True


class _Child:
    """The child from its fork to its end; leaving the block kills and reaps it with its group."""

    def __init__(self, config: Config, waiting: Sequence[Reference], timeout_s: float) -> None:
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with signals.blocked():
                self._pid = os.fork()
                if self._pid == 0:
                    _run(config, waiting, write_fd, timeout_s)
            self._pidfd = kernel.pidfd_of_child(self._pid)
        except OSError as error:
            os.close(self._read_fd)
            raise SpawnError(f"no process to check the handlers in: {error}") from error
        finally:
            os.close(write_fd)

    def __enter__(self) -> _Child:
        return self

    def listen(self, told: _Told, deadline: float, timeout_s: float) -> str | None:
        """Hear the child out; give how it ended if that was not well.

        The end is the process's, not the pipe's: a grandchild may hold the pipe for ever.
        """
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while not told.done:
            left_ms = math.ceil((deadline - time.monotonic()) * 1000)
            ready = dict(poll.poll(left_ms)) if left_ms > 0 else {}
            if not ready:
                limit = values.show_duration(timeout_s)
                return f"import took longer than {limit}: a module must not wait at import"
            if self._pidfd in ready:
                self._drain(told)
                return None if told.done else _ending(self._pidfd)
            if not self._drain(told):
                poll.unregister(self._read_fd)  # closed by the module; its end will tell
        return None

    def _drain(self, told: _Told) -> bool:
        """Take what lies in the pipe; False at its end."""
        try:
            while data := os.read(self._read_fd, 65536):
                told.take(data)
        except BlockingIOError:
            return True
        return False

    def __exit__(self, *_: object) -> None:
        # Until it is reaped the number is its own. It may be dead, or not yet lead its group.
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # the caller ignores SIGCHLD: the kernel has reaped it
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        os.close(self._read_fd)


def _ending(pidfd: int) -> str:
    """Say how the child ended, without reaping it yet."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        result = None
    if result is None:
        return "the process ended at import"
    if result.si_code == os.CLD_EXITED:
        return f"the process ended at import with exit code {result.si_status}"
    return f"the process was killed by SIG{signals.name(result.si_status)} at import"


# What follows runs in the child.


def _run(config: Config, waiting: Sequence[Reference], write_fd: int, timeout_s: float) -> None:
    """Check one reference after the other and leave. Runs in: child; never returns."""
    code = 1
    try:
        shown = ", ".join(_shown_folder(path) for path in config.pythonpath)
        _settle(config, write_fd, timeout_s)
        refused = _become_user(waiting[0].job)
        base, start = dict(os.environ), os.getcwd()
        told: set[str] = set()
        for at, reference in enumerate(waiting):
            _tell(write_fd, {"at": at})
            name = reference.job.name
            if reference.place == "env_file" and (message := refused or _unreadable(reference)):
                told.add(name)  # once is enough: its handlers are not to be checked without it
            elif name in told:
                continue
            else:
                message = refused or _surroundings(reference.job, base, start)
                message = message or _check(reference, shown)
            if message:
                _tell(write_fd, {"wrong": message})
        _tell(write_fd, {"done": True})
        code = 0
    finally:
        os._exit(code)  # neither the caller's atexit hooks nor its stack are ours


def _settle(config: Config, write_fd: int, timeout_s: float) -> None:
    """Become a process of its own: session, signals, descriptors, search path."""
    os.setsid()
    signals.reset_in_child()
    kernel.die_with_parent(signal.SIGKILL)
    signal.alarm(math.ceil(timeout_s) + 1)  # should the caller die first of all
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, write_fd)
    os.closerange(write_fd + 1, os.sysconf("SC_OPEN_MAX"))
    # What stood here may write to a descriptor that is closed now.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    os.set_blocking(write_fd, True)
    signals.unblock()
    for name in SYSTEMD_VARIABLES:
        os.environ.pop(name, None)
    sys.path[:] = search_path(config.pythonpath)
    importlib.invalidate_caches()


def _become_user(job: Job) -> str:
    """Become the user of the jobs that are checked here; give why that was refused."""
    try:
        if rights.drop(job.rights):
            kernel.die_with_parent(signal.SIGKILL)
    except SupervisorError as error:
        return str(error)
    return ""


def _unreadable(reference: Reference) -> str:
    try:
        envfile.read(Path(reference.text))
    except OSError as error:
        return f"{reference.text}: {error.strerror}; the job's user has to read it"
    except ValueError as fault:
        return str(fault)
    return ""


def _surroundings(job: Job, base: Mapping[str, str], start: str) -> str:
    """Give the module the environment and the directory that the job will have."""
    try:
        wanted = dict(base)
        rights.clothe(wanted, job.user, inherit=job.inherit_environment)
        wanted |= {} if job.env_file is None else envfile.read(job.env_file)
        wanted |= {name: text.reveal() for name, text in job.environment.items()}
        os.environ.clear()
        os.environ.update(wanted)
        os.chdir(job.directory or start)
    except (OSError, ValueError) as error:
        return f"not checked, as its environment or directory is not to be had: {error}"
    return ""


def _check(reference: Reference, shown: str) -> str:
    """Import a reference and look at what it is; give what is wrong, or nothing."""
    if reference.place == "env_file":
        return ""
    module, _, attr = reference.text.partition(":")
    try:
        found: object = importlib.import_module(module)
        for name in attr.split("."):
            if not hasattr(found, name):
                near = values.nearest(name, dir(found))
                hint = f"; did you mean {near}?" if near else ""
                return f"{module} has no {attr}{hint}"
            found = getattr(found, name)
        return _unfit(found, reference)
    except BaseException as error:  # sys.exit() at import is as wrong as any other error
        return f"cannot import {module}: {_one_line(error)} (looked in: {shown})"


def _unfit(found: object, reference: Reference) -> str:
    """Say why this object cannot do the work of its place; nothing when it can."""
    text, place = reference.text, reference.place
    if not callable(found):
        return f"{text} is of type {type(found).__name__}; a function or a class is expected"
    if not isinstance(found, type):
        # An object with the method of its place, a @task for one, is called by that.
        mine = (getattr(found, method, None) for method in _METHODS.get(place, ()))
        own = next(filter(callable, mine), None)
        if place == "batch" and own is None and getattr(found, "__name__", "") != "handle_batch":
            return f"{text} would get a list of messages, as batch is above 1: call it handle_batch"
        return _lazy(own or found, text) or _miscalled(own or found, text, _CALLS[place])
    if missing := getattr(found, "__abstractmethods__", None):
        return f"{text} leaves out {', '.join(sorted(missing))}; define it"
    if place == "target":
        base = getattr(sys.modules.get("workers"), "Worker", None)
        if not (isinstance(base, type) and issubclass(found, base)):
            return f"{text} is a class, but no workers.Worker; derive it from that"
        return _lazy(getattr(found, "run", None), text)
    methods = _METHODS[place]
    work = next(filter(callable, (getattr(found, method, None) for method in methods)), None)
    if work is None:
        return f"{text} is a class without {' or '.join(methods)}; define it"
    return _lazy(work, text)


def _lazy(work: object, text: str) -> str:
    """Say whether a call would return at once with its work undone, as the child would find."""
    from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

    if iscoroutinefunction(work) or isasyncgenfunction(work):
        return f"{text} is async; write a plain function that calls asyncio.run on its work"
    if isgeneratorfunction(work):
        return f"{text} is a generator; write a plain function, without yield"
    return ""


def _miscalled(found: Callable[..., object], text: str, arguments: tuple[str, ...]) -> str:
    """Say whether a function does not take what it will be called with."""
    from inspect import signature

    try:
        wanted = signature(found)
    except (TypeError, ValueError):
        return ""  # written in C: it does not say
    try:
        wanted.bind(*arguments)
    except TypeError:
        return f"{text}{wanted} does not take ({', '.join(arguments)})"
    return ""


def _one_line(error: BaseException) -> str:
    words = " ".join(f"{type(error).__name__}: {error}".split())
    printable = "".join(c if c.isprintable() else "?" for c in mask(words))
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}..."


def _shown_folder(path: Path) -> str:
    """Name a folder as the user sees it: relative to where the command was given."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _tell(fd: int, word: Mapping[str, object]) -> None:
    """Write one line, whole. The caller reads all the time, so a full pipe is a short wait."""
    data = json.dumps(word).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]
