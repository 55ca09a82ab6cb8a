"""The configuration as the rest of the program sees it: frozen, checked and complete.

`load` turns a file into a Config or raises a ConfigError that carries every problem of all files
at once. What a key means and which values it takes is said in `supervisor.settings`; here the
values meet: defaults of a kind, keys that a type needs, and pairs that must fit together.
Handlers are not imported here; `supervisor.probe` does that, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.errors import Problem
from supervisor.location import Location, locate
from supervisor.values import Preload, Secret, Topic

__all__ = ["Config", "Job", "Location", "Preload", "Secret", "Topic", "load", "locate"]

Origin = tuple[str, int]
"""The file, as the user named it, and the line where a value stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job to run; a field has the name of its key (README, "Configuration").

    Times are seconds. A field that does not belong to the job's type holds its default.
    """

    name: str
    kind: str
    type: str
    required: bool = True
    processes: int = 1
    restart: str = "always"
    expected_exits: frozenset[int] = frozenset({0})
    backoff: float = 1.0
    backoff_max: float = 30.0
    stable_after: float = 10.0
    max_failures: int = 10
    failure_window: float = 600.0
    fatal_retry: float | None = 300.0
    on_fatal: str = "keep"
    ready_timeout: float = 30.0
    heartbeat_timeout: float = 60.0
    stop_timeout: float = 30.0
    stop_signal: int = 15
    directory: Path | None = None
    environment: Mapping[str, Secret] = field(default_factory=dict)
    log_file: Path | None = None
    log_max_bytes: int = 50 * 1024 * 1024
    log_backups: int = 5
    options: Mapping[str, Secret] = field(default_factory=dict)
    # type = worker
    target: str | None = None
    health_interval: float = 30.0
    # type = program
    command: tuple[str, ...] = ()
    notify: bool = False
    # type = scheduled
    interval: float = 300.0
    jitter: float = 0.0
    run_at_start: bool = False
    # type = queue
    url: Secret | None = None
    topics: tuple[Topic, ...] = ()
    order_topics: str = "weighted"
    handler: str | None = None
    handlers: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 10
    queue_size: int = 100
    batch: int = 1
    retries: int = 3
    retry_backoff: float = 1.0
    retry_backoff_max: float = 30.0
    dead_letter: str = "on"
    lease: float = 30.0
    io_timeout: float = 5.0
    progress_timeout: float = 300.0
    latency_limit: float | None = None
    section_origin: Origin = field(default=("", 0), compare=False, repr=False)
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    def origin(self, key: str) -> Origin:
        """Give file and line of a key; of the section's head when the key has its default."""
        return self.origins.get(key, self.section_origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration; `jobs` holds those to run, in the order of the file.

    `path`, `run_dir`, `state_dir`, `log_file` and `pythonpath` are absolute. `log_format` and
    `stop_timeout` (seconds) are resolved. `log_file` is None for the standard output.
    """

    name: str
    path: Path
    run_dir: Path
    state_dir: Path
    log_level: str = "info"
    log_format: str = "json"
    log_file: Path | None = None
    log_max_bytes: int = 50 * 1024 * 1024
    log_backups: int = 5
    stop_timeout: float = 35.0
    preload: Preload = Preload()
    socket_mode: int = 0o600
    pythonpath: tuple[Path, ...] = ()
    worker_enable: bool = True
    worker_mode: str = "standalone"
    jobs: tuple[Job, ...] = ()
    warnings: tuple[Problem, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    def origin(self, key: str) -> Origin:
        """Give file and line of a key of [supervisor]; line 0 when it has its default."""
        return self.origins.get(key, (str(self.path), 0))


def load(path: Path) -> Config:
    """Read and check a configuration."""
    raise NotImplementedError(path)
