"""What `init DIR` writes: a configuration that works at once, its handlers, a systemd unit.

No file is ever overwritten, and an attempt that fails leaves nothing behind. Modes are given
whatever the umask says: as root, a file that a group may write is refused as a configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.errors import SupervisorError

_CONFIGURATION: Final = """\
# What runs here, and how. `supervisor check` reads it and changes nothing; README explains
# every key. Relative paths are relative to this file, and handlers are found beside it.

[supervisor]
name = {name}

# Defaults of all jobs below.
[daemon]
stop_timeout = 30s

# Messages of a queue. Put one on it with
#   supervisor publish order.created '{{"order_id": 1}}'
[daemon:orders]
type = queue
url = sqlite:///var/queue.db
topics = order.created
handler = handlers:order_created
concurrency = 4
retries = 3

# A function that is called in a fixed rhythm.
[daemon:report]
type = scheduled
handler = handlers:report
interval = 1m
run_at_start = true

# A loop of your own; a minute without a beat, and it is started anew.
[daemon:listener]
type = worker
target = handlers:Listener
heartbeat_timeout = 60s
option.every = 10

# Any other program; what it prints is in the log, line by line.
# [daemon:proxy]
# type = program
# command = my-proxy --port 8080
"""

_HANDLERS: Final = '''\
"""The work itself: what workers.ini names as handler and target."""

from __future__ import annotations

from workers import Context, Message, Reject, Worker


def order_created(message: Message, context: Context) -> None:
    """Handle one message: it is acknowledged when this returns, and comes again if it fails."""
    if "order_id" not in message.data:
        raise Reject("an order needs order_id")  # to the dead letters, without a retry
    context.logger.info("order %s created", message.data["order_id"])


def report(context: Context) -> None:
    """Run once each interval."""
    context.logger.info("nothing to report")


class Listener(Worker):
    """Runs for as long as its process does."""

    def setup(self) -> None:
        """Connect here: the process is READY when this has returned."""

    def run(self, context: Context) -> None:
        every = float(context.options["every"])
        while not context.stopping:
            context.beat()
            context.wait(every)  # ends at once when a stop begins
'''

_UNIT: Final = """\
# The supervisor of {conf} under systemd (>= 243).
#
{install}
#
# What differs from machine to machine belongs in a drop-in: `systemctl {scope}edit {name}`.
# The unit that is shipped with workers-supervisor explains each line, and hardens more.

[Unit]
Description=Process supervisor {name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} start --conf {conf_word}
ExecReload={program} reload --conf {conf_word}
TimeoutStartSec=infinity
# TERM goes to the master, which drains its children; what a dead master left is ended after it.
KillMode=process
ExecStopPost=-{program} stop --conf {conf_word}
TimeoutStopSec=60
WatchdogSec=30
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=75 78
RuntimeDirectory={name}
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=restart
StateDirectory={name}
StateDirectoryMode=0700
Delegate=yes
OOMPolicy=continue
NoNewPrivileges=yes

[Install]
WantedBy={target}
"""

_INSTALL_AS_ROOT: Final = """\
#   cp {unit} /etc/systemd/system/
#   systemctl daemon-reload && systemctl enable --now {name}"""

_INSTALL_AS_USER: Final = """\
# A unit of your own user; `loginctl enable-linger` lets it run while you are away.
#
#   mkdir -p ~/.config/systemd/user && cp {unit} ~/.config/systemd/user/
#   systemctl --user daemon-reload && systemctl --user enable --now {name}"""

_CONF: Final = "workers.ini"
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_FOLDERS_OF_MANY: Final = frozenset({"", "etc", "conf", "config"})
"""Folders that do not tell what lies in them: the name is `workers` then."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the configuration and the other files, as they were named."""

    conf: Path
    others: tuple[Path, ...]


def write(folder: Path) -> Written:
    """Write everything, or nothing.

    Raises: SupervisorError when something is there already, or the folder cannot be written.
    """
    if not str(folder).isprintable():
        raise SupervisorError(f"{str(folder)!a} is no name for a folder; nothing was written")
    name = name_for(folder)
    conf, unit = folder / _CONF, folder / f"{name}.service"
    files = {
        conf: _CONFIGURATION.format(name=name),
        folder / "handlers.py": _HANDLERS,
        unit: _unit(name, conf.absolute(), unit.absolute()),
    }
    there = [str(path) for path in files if os.path.lexists(path)]
    if there:
        raise SupervisorError(f"{', '.join(there)}: there already; nothing was written")
    made: list[Path] = []
    try:
        for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            missing.mkdir(mode=0o755)
            made.append(missing)
        for path, text in files.items():
            _create(path, text, made)
    except OSError as error:
        _remove(made)
        words = f"{error.filename or folder}: {error.strerror}"
        raise SupervisorError(f"cannot write {words}; nothing was written") from None
    return Written(conf, tuple(path for path in files if path != conf))


def name_for(folder: Path) -> str:
    """Give the name of the supervisor of a folder: that of the folder, as far as it is one."""
    base = Path(os.path.abspath(folder)).name
    name = _NOT_IN_A_NAME.sub("-", base).strip("-_.")[:63]
    return "workers" if name.lower() in _FOLDERS_OF_MANY else name


def _create(path: Path, text: str, made: list[Path]) -> None:
    # O_EXCL: also one that has come since we looked is not overwritten.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    made.append(path)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _remove(made: list[Path]) -> None:
    for path in reversed(made):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _unit(name: str, conf: Path, unit: Path) -> str:
    is_root = os.geteuid() == 0
    install = _INSTALL_AS_ROOT if is_root else _INSTALL_AS_USER
    return _UNIT.format(
        name=name,
        conf=conf,
        conf_word=_word(str(conf)),
        program=_program(),
        scope="" if is_root else "--user ",
        install=install.format(unit=unit, name=name),
        target="multi-user.target" if is_root else "default.target",
    )


def _program() -> str:
    """Give the words that start this very program: systemd wants the whole path."""
    beside = Path(sys.executable).with_name("supervisor")
    found = str(beside) if beside.exists() else shutil.which("supervisor")
    return _word(found) if found else f"{_word(sys.executable)} -m supervisor"


def _word(text: str) -> str:
    """Write a word of a command line as systemd reads it. Source: systemd.service(5)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or re.search(r"[\s';]", text) else text
