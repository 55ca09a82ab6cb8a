"""What a configuration needs of the machine and of who starts it, beyond being right in itself.

Rights that only root can give, processors, limits, files that must be root's alone: asked where
jobs are about to run (`start`, `check`, `reload`), by the process that would run them. Not a part
of reading the file: a handler that publishes reads it too, as its own user on its own processors,
and needs none of this. Looks only.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supervisor import kernel, trust
from supervisor.config import Config, Job
from supervisor.errors import Problem
from supervisor.rights import UNLIMITED

_LOWEST_NICE: Final = 20
"""RLIMIT_NICE counts from here downwards. Source: getrlimit(2)"""


def problems(config: Config) -> tuple[Problem, ...]:
    """Give what is missing; a line that many jobs inherit is told once."""
    found: dict[tuple[str, int, str], Problem] = {}
    for problem in _all(config):
        found.setdefault((problem.file, problem.line, problem.message), problem)
    return tuple(found.values())


def of_supervisor(config: Config) -> Iterator[Problem]:
    """Give why we cannot become the user of the whole supervisor."""
    for key, message in _identity(config):
        yield Problem(*config.origin(key), "supervisor", key, message)


def missing_programs(config: Config) -> Iterator[Problem]:
    """Give the commands that could not be executed as things are; that may change until a start.

    Nothing is said of a command whose PATH or folder only its own process will know.
    """
    for job in config.jobs:
        if not job.command or "PATH" in job.environment or job.env_file is not None:
            continue
        name = job.command[0]
        if "/" not in name:
            # Here: it brings three compressors, whose mappings each fork would copy.
            import shutil

            if shutil.which(name) is None:
                yield job.problem(
                    "command", f"no program {name} in PATH; install it, or correct it"
                )
        elif job.directory is not None or name.startswith("/"):
            path = (job.directory or Path("/")) / name
            if not _may_be_there(path):
                yield job.problem("command", f"no file {path}; make it, or correct the path")


def _may_be_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        # Its own user may see more than we do.
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def _all(config: Config) -> Iterator[Problem]:
    for folder in config.pythonpath:
        if fault := trust.distrust(folder):
            yield Problem(*config.origin("pythonpath"), "supervisor", "pythonpath", fault)
    group = config.socket_group
    if group is not None and os.geteuid() != 0 and group.gid not in (os.getegid(), *os.getgroups()):
        words = f"we are not in group {group.name}; start as root or as one of its members"
        yield Problem(*config.origin("socket_group"), "supervisor", "socket_group", words)
    if group is not None and not config.socket_mode & 0o020:
        words = f"{config.socket_mode:04o} keeps socket_group out; make it 0660, or leave it out"
        yield Problem(*config.origin("socket_mode"), "supervisor", "socket_mode", words)
    for job in config.jobs:
        for key, message in _of(job):
            yield job.problem(key, message)


def _of(job: Job) -> Iterator[tuple[str, str]]:
    yield from _identity(job)
    if job.nice is not None and job.nice < _least_nice():
        words = f"below {_least_nice()} needs root"
        yield "nice", words + _lacking(os.geteuid(), "CAP_SYS_NICE")
    if job.cpu_affinity is not None:
        ours = os.sched_getaffinity(0)
        if missing := sorted(job.cpu_affinity - ours):
            words = ", ".join(map(str, missing))
            there = ", ".join(map(str, sorted(ours)))
            yield "cpu_affinity", f"processor {words} is not there for us; {there} is"
    yield from _limits(job)
    if job.env_file is not None:
        if not job.env_file.is_file():
            yield "env_file", f"{job.env_file} is no file; make it, or correct the path"
        elif fault := trust.distrust(job.env_file):
            yield "env_file", fault


def _identity(job: Job | Config) -> Iterator[tuple[str, str]]:
    own = os.geteuid()
    user, group = job.user, job.group
    may = own == 0 and kernel.may(kernel.CAP_SETUID) and kernel.may(kernel.CAP_SETGID)
    if user is not None and user.uid != own and not may:
        words = f"to run as {user.name} needs root{_lacking(own, 'CAP_SETUID and CAP_SETGID')}"
        yield "user", f"{words}; start the supervisor as root or as him"
    if group is not None and group.gid != os.getegid() and not may:
        words = f"to run in group {group.name} needs root{_lacking(own, 'CAP_SETGID')}"
        yield "group", f"{words}; leave it out"


def _lacking(uid: int, capabilities: str) -> str:
    """Say what a root needs that has not all of root's power, as in a container."""
    return f" with {capabilities}" if uid == 0 else ""


def _least_nice() -> int:
    """Give the lowest nice value that we may take."""
    if kernel.may(kernel.CAP_SYS_NICE):
        return -_LOWEST_NICE
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    allowed = -_LOWEST_NICE if soft == UNLIMITED else _LOWEST_NICE - soft
    return min(os.getpriority(os.PRIO_PROCESS, 0), allowed)


def _limits(job: Job) -> Iterator[tuple[str, str]]:
    may_raise = kernel.may(kernel.CAP_SYS_RESOURCE)
    for key, wanted, kind in (
        ("limit_nofile", job.limit_nofile, resource.RLIMIT_NOFILE),
        ("limit_core", job.limit_core, resource.RLIMIT_CORE),
        ("limit_memory", job.limit_memory, resource.RLIMIT_AS),
    ):
        _, hard = resource.getrlimit(kind)
        is_more = hard != UNLIMITED and (wanted == UNLIMITED or (wanted or 0) > hard)
        if wanted is not None and is_more and not may_raise:
            words = f"more than {hard}, the hard limit here, needs root"
            yield key, words + _lacking(os.geteuid(), "CAP_SYS_RESOURCE")
    most = int(Path("/proc/sys/fs/nr_open").read_text(encoding="ascii"))
    if job.limit_nofile is not None and job.limit_nofile > most and may_raise:
        yield "limit_nofile", f"more than {most}, the most that this machine allows (fs.nr_open)"
