"""What `start`, `stop` and `check` do when they mean the whole supervisor.

The command line's part before the loop begins and after the master is gone. Loaded by `cli` only
for these commands, as it brings the whole configuration with it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import kernel, pidfile, prerequisites, rights, signals
from supervisor.complaint import complain
from supervisor.config import Config, Job
from supervisor.errors import ConfigError, ControlError, NotRunning, Problem, SupervisorError
from supervisor.loading import load
from supervisor.location import Location

if TYPE_CHECKING:
    # Only for the reader: what the master has no need of it does not load.
    from supervisor import shapes
    from supervisor.daemonize import Daemon

PROBE_S = 60.0
"""How long `check` gives all imports together."""

LEAVE_S = 10.0
"""How long a master may take to end after it has said that everything is stopped."""

LEAVING_S = 1.5
"""How long a master that no longer listens may take to write the last of its log."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` has found; without a readable configuration only errors."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    jobs: tuple[Job, ...] = ()
    files: frozenset[str] = frozenset()
    config: Config | None = None


def start(path: Path, *, standalone: bool) -> int:
    """Run the supervisor here and now; returns its exit code. Raises: ConfigError and others."""

    def body(early: signals.Early) -> int:
        return _run(load(path), early, standalone=standalone, ready_fd=None)

    return _until_stopped(body)


def start_daemon(path: Path, slow: Callable[[], None], *, standalone: bool) -> tuple[int, str]:
    """Run the supervisor in the background; returns exit code and error once it is ready.

    `slow` is called once when that takes long.
    """
    from supervisor.daemonize import detached

    def body(daemon: Daemon) -> int:
        return _until_stopped(lambda early: serve(daemon, early))

    def serve(daemon: Daemon, early: signals.Early) -> int:
        config = load(path)
        _become_user(config)
        log_file = config.log_file or config.state_dir / f"{config.name}.log"
        try:
            daemon.log_to(log_file)
        except OSError as error:
            words = f"the log goes to {log_file}: set log_file or state_dir in [supervisor]"
            raise SupervisorError(f"{error.filename}: {error.strerror}; {words}") from None
        # The same file under its own name, so that it is rotated like any other.
        config = replace(config, log_file=log_file)
        code = _run(config, early, standalone=standalone, ready_fd=daemon.ready_fd)
        if code:
            daemon.end(code, f"the supervisor ended before it was ready; see {log_file}")
        return code

    return detached(body, slow)


def _become_user(config: Config) -> None:
    """Become the user of the whole supervisor, where it has one. Raises: ConfigError."""
    if problems := tuple(prerequisites.of_supervisor(config)):
        raise ConfigError(*problems)
    rights.become(config.user, config.group)


def stop(location: Location, timeout_s: float | None, hint: str) -> shapes.StopReport:
    """Drain everything and wait until master and tree are gone. Raises: NotRunning."""
    # Here: the master is no client.
    from supervisor.client import Client, ConnectionLost

    # What is left there is ended as its user: his folders must not lead root astray.
    rights.become(location.user, location.group)
    try:
        client = Client(location, hint=hint)
    except NotRunning:
        pid = _silent_master(location)
        report = _end_silent(pid, timeout_s) if pid else None
        left = _end_remains(location, timeout_s)
        if report is None and left is None:
            raise
        return _added(report, left)
    with client:
        # A short question first: a master that is stuck is told from one that drains.
        client.ping()
        try:
            report = client.shutdown(timeout_s)
        except ConnectionLost:
            report = {"drained": 0, "abandoned": 0, "killed": ["master"]}
        if not client.wait_gone(LEAVE_S):
            raise ControlError(f"everything is stopped, but the master (pid {client.pid}) stays")
    return _added(report, _end_remains(location, timeout_s))


def check(path: Path) -> Checked:
    """Read the configuration and import every handler; changes nothing."""
    # Here: `stop` has no use for it.
    from supervisor.probe import probe

    try:
        config = load(path)
        _become_user(config)
    except ConfigError as error:
        return Checked(errors=error.problems)
    errors = probe(config, PROBE_S)
    warnings = (*config.warnings, *prerequisites.missing_programs(config))
    return Checked(errors, warnings, config.jobs, frozenset(_files(config)), config)


def job_shape(job: Job) -> dict[str, object]:
    """Give a job as `check --json` shows it."""
    return {
        "name": job.name,
        "kind": job.kind,
        "type": job.type,
        "processes": job.processes,
        "required": job.required,
    }


def _files(config: Config) -> set[str]:
    origins = [(str(config.path), 0), *config.origins.values()]
    for job in config.jobs:
        origins += [job.section_origin, *job.origins.values()]
    # By real path: the same file may have been named in two ways.
    return {os.path.realpath(file) for file, _ in origins if file}


def _until_stopped(body: Callable[[signals.Early], int]) -> int:
    """Run a supervisor; a TERM or INT before there is anything to drain ends it with 0."""
    early = signals.Early()
    try:
        return body(early)
    except BaseException:
        if not early.asked:
            raise
        # Whatever it was that the signal has broken off.
        complain("asked to stop before anything was started")
        return 0
    finally:
        early.close()


def _run(config: Config, early: signals.Early, *, standalone: bool, ready_fd: int | None) -> int:
    if not config.worker_enable:
        _skip(config)
        return 0
    if config.worker_mode == "embedded" and not standalone:
        file, line = config.origin("worker_mode")
        words = (
            "embedded: an application starts this supervisor; to run it by itself: "
            "supervisor start --mode standalone"
        )
        raise ConfigError(Problem(file, line, "worker", "mode", words))
    # Here: the master's own modules, of no use to a configuration that does not start.
    from supervisor.supervisor import run

    _become_user(config)
    return run(config, early, ready_fd=ready_fd)


def _skip(config: Config) -> None:
    """Say that the file has switched the worker off, to the log and to systemd."""
    from supervisor.logs import Log
    from supervisor.notify import Notifier

    log = Log.open(
        config.log_file,
        config.log_max_bytes,
        config.log_backups,
        text=config.log_format == "text",
        level=config.log_level,
    )
    log.install()
    logging.getLogger("supervisor").info("worker is disabled, skipping worker startup")
    log.close()
    # A unit of Type=notify would fail if it ended without a word. In one datagram systemd would
    # hear the last of the two only.
    notifier = Notifier.from_environment()
    notifier.send("READY=1")
    notifier.send("STOPPING=1")


def _end_remains(location: Location, timeout_s: float | None) -> shapes.StopReport | None:
    # Here: it reads the whole process table, and most stops have a master to ask.
    from supervisor.remains import end

    return end(location, timeout_s)


def _silent_master(location: Location) -> int | None:
    """Give the pid of a living master that listens nowhere.

    It is on its way in or out, or somebody has removed its run_dir. Without a look at its locks
    it would be taken for a dead one, and its children for leftovers.
    Raises: ControlError when the state_dir is that of another supervisor.
    """
    pid = pidfile.holder(pidfile.of_run_dir(location))
    if pid is not None:
        return pid
    pid = pidfile.holder(pidfile.of_state_dir(location))
    if pid is not None and f" master [{location.name}] " not in kernel.title_of(pid):
        raise ControlError(
            f"{location.name} is not running, and its state_dir is that of pid {pid}, another "
            "supervisor; nothing was done"
        )
    return pid


def _end_silent(pid: int, timeout_s: float | None) -> shapes.StopReport | None:
    """End a master by signals and wait until it is gone; None when it left by itself."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    killed = []
    try:
        if poll.poll(LEAVING_S * 1000):
            return None
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            killed.append("master")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.poll(LEAVE_S * 1000)
    except ProcessLookupError:
        return None
    finally:
        os.close(pidfd)
    return {"drained": 0, "abandoned": 0, "killed": killed}


def _added(*reports: shapes.StopReport | None) -> shapes.StopReport:
    told = [report for report in reports if report is not None]
    return {
        "drained": sum(report["drained"] for report in told),
        "abandoned": sum(report["abandoned"] for report in told),
        "killed": [name for report in told for name in report["killed"]],
    }
