"""The floor and the two peers that are on PyPI, each at the settings that suit it best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.contender import FLOOD_LOG, Workload


@dataclass(frozen=True, slots=True)
class Floor:
    """bench/programs/floor.py, under the same interpreter as the peers."""

    python: Path
    name: str = "floor"

    def prepare(self, workload: Workload, folder: Path) -> list[str]:
        """Give the command; there is nothing to configure."""
        words = [f"{kind}={count}" for kind, count in workload.jobs]
        preload = ["--preload", ",".join(workload.preload)] if workload.preload else []
        return [str(self.python), str(folder / "floor.py"), *preload, *words]

    def status(self, folder: Path) -> list[str] | None:
        """Give the bare interpreter: what any command in Python costs."""
        return [str(self.python), "-c", "pass"]


@dataclass(frozen=True, slots=True)
class Supervisord:
    """PyPI's Supervisor; `startsecs = 0`, so that a death is answered at its next look."""

    python: Path
    name: str = "supervisord"

    def prepare(self, workload: Workload, folder: Path) -> list[str]:
        """Write its INI file. One program with `numprocs`: separate programs stop in turn."""
        text = _SUPERVISORD.format(folder=folder)
        for kind, count in workload.jobs:
            log = folder / FLOOD_LOG if kind == "flood" else "NONE"
            command = f"{self.python} {folder}/child.py {kind}"
            text += _PROGRAM.format(kind=kind, count=count, command=command, log=log)
        (folder / "supervisord.conf").write_text(text)
        program = self.python.parent / "supervisord"
        return [str(program), "-n", "-c", f"{folder}/supervisord.conf"]

    def status(self, folder: Path) -> list[str] | None:
        """Give supervisorctl."""
        program = self.python.parent / "supervisorctl"
        return [str(program), "-c", f"{folder}/supervisord.conf", "status"]


@dataclass(frozen=True, slots=True)
class Circus:
    """Circus, looking after its children ten times a second (its default is every 5 s)."""

    python: Path
    name: str = "circus"

    def prepare(self, workload: Workload, folder: Path) -> list[str]:
        """Write its INI file."""
        text = _CIRCUS.format(folder=folder)
        for kind, count in workload.jobs:
            command = f"{self.python} {folder}/child.py {kind}"
            text += _WATCHER.format(kind=kind, count=count, command=command)
            if kind == "flood":
                text += _WATCHER_LOG.format(log=folder / FLOOD_LOG)
        (folder / "circus.ini").write_text(text)
        return [str(self.python.parent / "circusd"), f"{folder}/circus.ini"]

    def status(self, folder: Path) -> list[str] | None:
        """Give circusctl."""
        program = self.python.parent / "circusctl"
        return [str(program), "--endpoint", f"ipc://{folder}/control", "status"]


_SUPERVISORD = """\
[supervisord]
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
minfds = 4096
[unix_http_server]
file = {folder}/control
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{folder}/control
"""

_PROGRAM = """\
[program:{kind}]
command = {command}
process_name = %(program_name)s_%(process_num)d
numprocs = {count}
startsecs = 0
startretries = 1000000
autorestart = true
stopwaitsecs = 30
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 0
"""

_CIRCUS = """\
[circus]
check_delay = 0.1
endpoint = ipc://{folder}/control
pubsub_endpoint = ipc://{folder}/events
statsd = false
warmup_delay = 0
"""

_WATCHER = """\
[watcher:{kind}]
cmd = {command}
numprocesses = {count}
copy_env = true
warmup_delay = 0
graceful_timeout = 30
max_retry = -1
"""

_WATCHER_LOG = """\
stdout_stream.class = FileStream
stdout_stream.filename = {log}
"""
