"""The configuration as the rest of the program sees it: frozen, checked and complete.

Pure data. `supervisor.loading` makes it of a file; what a key means is said in
`supervisor.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.dependencies import Dependency
from supervisor.errors import Problem
from supervisor.identity import Group, User
from supervisor.rights import Rights
from supervisor.secret import Secret
from supervisor.values import Preload, Topic

__all__ = ["Config", "Dependency", "Job", "Preload", "Secret", "Topic"]

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
    depends_on: tuple[Dependency, ...] = ()
    max_memory: int | None = None
    max_lifetime: float | None = None
    max_messages: int | None = None
    user: User | None = None
    group: Group | None = None
    umask: int | None = None
    nice: int | None = None
    cpu_affinity: frozenset[int] | None = None
    directory: Path | None = None
    limit_nofile: int | None = None
    limit_core: int | None = None
    limit_memory: int | None = None
    environment: Mapping[str, Secret] = field(default_factory=dict)
    env_file: Path | None = None
    inherit_environment: bool = True
    log_file: Path | None = None
    log_max_bytes: int = 50 * 1024 * 1024
    log_backups: int = 5
    log_rate: int | None = None
    options: Mapping[str, Secret] = field(default_factory=dict)
    # type = worker
    target: str | None = None
    health_interval: float = 30.0
    # type = program
    command: tuple[str, ...] = ()
    notify: bool | str = False
    # type = scheduled
    interval: float = 300.0
    jitter: float = 0.0
    run_at_start: bool = False
    # type = queue
    url: Secret | None = None
    topics: tuple[Topic, ...] = ()
    order_topics: str = "weighted"
    # type = stream; what other jobs have on the same streams, as topic and group
    consumer_group: str = ""
    other_groups: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    # type = kafka, which has topics, order_topics and a group too
    brokers: tuple[str, ...] = ()
    order: str = "partition"
    auto_offset_reset: str = "earliest"
    client: Mapping[str, Secret] = field(default_factory=dict)
    # where the supervisor keeps what a broker has no place for
    state_dir: Path | None = field(default=None, compare=False, repr=False)
    # all consumers
    handler: str | None = None
    handlers: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 10
    min_concurrency: int | None = None
    max_concurrency: int | None = None
    queue_size: int = 100
    batch: int = 1
    retries: int = 3
    retry_backoff: float = 1.0
    retry_backoff_max: float = 30.0
    handler_timeout: float | None = None
    dead_letter: str = "on"
    lease: float = 30.0
    io_timeout: float = 5.0
    progress_timeout: float = 300.0
    pool_size: int = 10
    rate_limit: float | None = None
    idempotency: Secret | None = None
    idempotency_key: str = "id"
    idempotency_ttl: float = 86400.0
    # type = table
    table: str = ""
    key: str = "id"
    status: str = "status"
    pending: str = "pending"
    done: str = "done"
    failed: str = "failed"
    order_by: str | None = None
    where: str | None = None
    batch_size: int = 100
    poll_interval: float = 1.0
    claim: str = "lease"
    attempts_column: str | None = None
    error_column: str | None = None
    section_origin: Origin = field(default=("", 0), compare=False, repr=False)
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    def origin(self, key: str) -> Origin:
        """Give file and line of a key; of the section's head when the key has its default."""
        return self.origins.get(key, self.section_origin)

    def problem(self, key: str, message: str) -> Problem:
        """Say what is wrong with a key, at its line."""
        return Problem(*self.origin(key), f"{self.kind}:{self.name}", key, message)

    @property
    def rights(self) -> Rights:
        """Give what its processes may do and use."""
        return Rights(
            self.user,
            self.group,
            self.umask,
            self.nice,
            self.cpu_affinity,
            self.limit_core,
            self.limit_memory,
        )


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
    preload: Preload = field(default_factory=Preload)
    socket_mode: int = 0o600
    socket_group: Group | None = None
    user: User | None = None
    group: Group | None = None
    pythonpath: tuple[Path, ...] = ()
    worker_enable: bool = True
    worker_mode: str = "standalone"
    jobs: tuple[Job, ...] = ()
    warnings: tuple[Problem, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    def origin(self, key: str) -> Origin:
        """Give file and line of a field that was set; line 0 when it has its default."""
        return self.origins.get(key, (str(self.path), 0))
