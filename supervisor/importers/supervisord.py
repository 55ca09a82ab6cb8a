"""supervisord.conf to a draft: what each section and key of Supervisor 4.3 is in our words.

Every program of a group becomes a job, `GROUP.PROGRAM`; a program whose processes differ by their
number in more than their log becomes one job for each of them. What supervisord itself would
refuse is refused here too, all faults at once, with file and line.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from supervisor.errors import ConfigError, Problem, configuration_fault
from supervisor.importers.draft import MARKS, Draft, Names, Section, shown
from supervisor.importers.supervisord_keys import (
    ALWAYS_SO,
    ELSEWHERE,
    PROGRAM_NOTES,
    SECTION_NOTES,
    SUPERVISORD_NOTES,
)
from supervisor.importers.supervisord_text import File, Reader, Text
from supervisor.importers.supervisord_values import Values, autorestart, level, mode

_HEAD: Final = (
    "Differences from supervisord that are worth knowing: a program that cannot be kept running"
    " is tried again after fatal_retry (5m; `fatal_retry = never` in [daemon] is supervisord's"
    " way); every failure within failure_window (10m) counts, not failed starts only; at a stop"
    " the whole group of a process ends, always; stdout and stderr go to one log, each line"
    " marked with its stream; SUPERVISOR_PROCESS_NAME and its like are not in the environment.",
)
_PER_PROCESS: Final = re.compile(r"[-_.]?%\(process_num\)\d*[dsi]")
_OUTPUTS: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/1", "/dev/fd/2", "/proc/self/fd/1")
_MOST: Final = 4096
_NO_RANK: Final = 999
"""The priority of a program that was given none."""

_PROGRAM: Final = re.compile(r"(program|fcgi-program|eventlistener):(?P<name>.+)", re.DOTALL)


def translate(main: File, files: Reader, host: str, environ: Mapping[str, str]) -> Draft:
    """Read a supervisord.conf on a machine of this name and with this environment.

    Raises: ConfigError with every fault that was found.
    """
    text = Text(main, files, host, environ)
    if not any(name == "supervisord" or _PROGRAM.match(name) for name in text.parser.sections()):
        raise configuration_fault(main.shown, "neither a program nor [supervisord] in it")
    return _Translation(text).draft


class _Translation:
    """One reading of one configuration."""

    def __init__(self, text: Text) -> None:
        self.draft = Draft()
        self._text = text
        self._names = Names()
        self._problems: dict[Problem, None] = {}
        self._environment: dict[str, str] = {}
        self._told: set[str] = set()
        self._ranks: list[tuple[int, Section, str]] = []
        self._base = text.main.folder
        self._translate()
        if self._problems:
            raise ConfigError(*self._problems)

    def _translate(self) -> None:
        sections = self._text.parser.sections()
        top = self.draft.section()
        top.note(f"Imported from {self._text.main.shown}, a configuration of supervisord.")
        for note in _HEAD:
            top.note(note)
        for pattern in self._text.missing:
            place = self._text.place("include", "files")
            top.note(f"not imported: {pattern} of [include] ({place}): no file matches")
        main, defaults = self.draft.section("supervisor"), self.draft.section("daemon")
        self._defaults(defaults)
        if "supervisord" in sections:
            self._supervisord(main, defaults)
        if self._environment:
            defaults.environment(self._environment)
        self._control(main)
        for group, program in self._programs(sections):
            self._program(group, program)
        self._order()
        for name in sections:
            self._other(name)

    def _defaults(self, section: Section) -> None:
        section.note("What supervisord does unless it is told otherwise, where we do otherwise.")
        section.key("restart", "on-failure")
        section.key("stable_after", "1s")
        section.key("stop_timeout", "10s")
        section.key("log_backups", "10")

    # Sections that stand alone

    def _supervisord(self, main: Section, defaults: Section) -> None:
        get = Values(self._text, "supervisord", {}, self._problems)
        if (folder := get.text("directory")) is not None:
            self._base = self._path(folder)
            defaults.key("directory", self._base)
        self._environment = get.environment()
        logfile = get.text("logfile")
        if logfile is not None and self._is_file(logfile):
            main.key("log_file", self._path(logfile))
            self._sizes(get, main, "logfile")
        elif logfile is not None:
            main.note(f"logfile = {logfile}: the log goes to the standard output")
        if (word := get.read("loglevel", level)) is not None:
            main.key("log_level", word)
        if (umask := get.read("umask", mode)) is not None:
            defaults.key("umask", umask)
        self._main_user(get, main)
        for key in get.names():
            if key in SUPERVISORD_NOTES:
                self._lost(main, "supervisord", key, SUPERVISORD_NOTES[key])
            elif key not in ELSEWHERE["supervisord"]:
                self._lost(main, "supervisord", key, "no key of supervisord")

    def _main_user(self, get: Values, main: Section) -> None:
        user = get.text("user")
        if user is None:
            return
        has_own = any(
            self._text.parser.has_option(name, "user")
            for name in self._text.parser.sections()
            if _PROGRAM.match(name)
        )
        if user in ("root", "0"):
            reason = "the user that starts it, as systemd does"
        elif has_own:
            reason = "cannot stand beside programs with users of their own"
        else:
            main.key("user", user)
            return
        self._lost(main, "supervisord", "user", reason)

    def _control(self, main: Section) -> None:
        """Translate what is said of the control socket."""
        name = "unix_http_server"
        if name not in self._text.parser.sections():
            return
        get = Values(self._text, name, {}, self._problems)
        if (bits := get.read("chmod", mode)) is not None:
            main.key("socket_mode", bits)
        owner = get.text("chown")
        if owner is not None and ":" in owner:
            main.key("socket_group", owner.partition(":")[2])
        for key in get.names():
            reason = {
                "chmod": "",
                "chown": "" if owner and ":" in owner else "the socket is its starter's",
                "file": "the control socket is NAME.sock in run_dir",
                "username": "who may open the socket is trusted, nobody else",
                "password": "who may open the socket is trusted, nobody else",
            }.get(key, "no key of supervisord")
            if reason:
                self._lost(main, name, key, reason)

    def _other(self, name: str) -> None:
        """Tell a section that has no counterpart, key by key."""
        kind = name.partition(":")[0]
        if name in ELSEWHERE or kind == "program":
            return
        section = self.draft.section()
        if kind == "group":
            self._group(section, name)
            return
        reason = SECTION_NOTES.get(kind, "no section of supervisord")
        section.note(f"not imported: [{name}] ({self._text.place(name, '')}): {reason}")
        for key, value in self._text.parser.items(name):
            shown = "***" if key in ("password", "environment") else " ".join(value.split())
            section.note(f"{key} = {shown}")

    def _group(self, section: Section, name: str) -> None:
        group = name.partition(":")[2].strip()
        section.note(f"[{name}]: its jobs are {Names().take(group)}.*, as in"
                     f" `supervisor restart '{Names().take(group)}.*'`")  # fmt: skip
        for key, _ in self._text.parser.items(name):
            if key == "priority":
                self._lost(section, name, key, PROGRAM_NOTES["priority"])
            elif key != "programs":
                self._lost(section, name, key, "no key of supervisord")

    def _lost(self, section: Section, name: str, key: str, reason: str) -> None:
        value = self._text.parser.get(name, key)
        if key in ALWAYS_SO:
            section.note(f"{key} = {shown(key, value)}: {reason}")
            return
        section.lost(key, value, self._text.place(name, key), reason)

    # Programs

    def _programs(self, sections: list[str]) -> Iterator[tuple[str, str]]:
        """Give group (empty for its own) and section of every program, in the file's order."""
        grouped: dict[str, list[str]] = {}
        for name in sections:
            if not name.startswith("group:"):
                continue
            get = Values(self._text, name, {}, self._problems)
            for program in filter(None, map(str.strip, (get.text("programs") or "").split(","))):
                if f"program:{program}" in sections:
                    grouped.setdefault(f"program:{program}", []).append(name.partition(":")[2])
                elif f"fcgi-program:{program}" not in sections:
                    get.wrong("programs", f"there is no [program:{program}]")
        for name in sections:
            if name.startswith("program:"):
                for group in grouped.get(name, [""]):
                    yield group.strip(), name

    def _program(self, group: str, name: str) -> None:
        program = name.partition(":")[2].strip()
        names: dict[str, object] = {"program_name": program, "group_name": group or program}
        names |= {f"ENV_{key}": value for key, value in self._environment.items()}
        get = Values(self._text, name, names, self._problems)
        if "command" not in get.names():
            get.wrong("command", "missing; supervisord needs one")
            return
        count, first = get.integer("numprocs", 1), get.integer("numprocs_start", 0)
        if not 0 <= count <= _MOST:
            get.wrong("numprocs", f"{count} is not from 0 to {_MOST}")
            return
        names |= {"process_num": first, "numprocs": count}
        pattern = get.raw("process_name") or "%(program_name)s"
        if count > 1 and "%(process_num)" not in pattern:
            get.wrong("numprocs", "above 1 process_name has to hold %(process_num)02d")
            return
        begin = f"{group}." if group and group != program else ""
        if count > 1 and get.differ():
            for number in range(first, first + count):
                names["process_num"] = number
                one = get.text("process_name") or program
                whole = one if one.startswith(program) else f"{program}.{one}"
                self._job(get, begin + whole, program, 1)
        else:
            self._job(get, begin + program, program, count)

    def _job(self, get: Values, wanted: str, program: str, count: int) -> None:
        """Write one job for a program, or for one process of it."""
        name = self._names.take(wanted)
        job = self.draft.section(f"daemon:{name}")
        if name != program:
            job.note(f"was [{get.section}] of supervisord ({self._text.place(get.section, '')})")
        job.key("type", "program")
        job.key("command", self._command(get))
        if not get.boolean("autostart", True):
            job.note(f"autostart = false: `supervisor scale {name}={count}` starts it")
            count = 0
        if count and "numprocs" in get.fixed and not get.differ():
            job.key("processes", get.text("numprocs"))
        elif count != 1:
            job.key("processes", count)
        self._place(get, job)
        self._life(get, job)
        self._output(get, job)
        if get.section not in self._told:
            self._told.add(get.section)
            job.above += self._text.remarks.get(get.section, [])
            self._leftovers(get, job)
        if count:
            self._ranks.append((get.integer("priority", _NO_RANK, least=-(1 << 31)), job, name))

    def _leftovers(self, get: Values, job: Section) -> None:
        """Tell the keys of a program that have no counterpart, once for all its jobs."""
        for key, value in get.fixed.items():
            if key != "numprocs" or get.differ():
                job.note(f"{key} = {get.raw(key)}: {value}, when this was imported")
        for key in get.names():
            if key in PROGRAM_NOTES and key != "priority":
                is_kept = get.differ() and key in ("process_name", "numprocs_start")
                if not is_kept:
                    self._lost(job, get.section, key, PROGRAM_NOTES[key])
            elif key not in PROGRAM_NOTES and key not in ELSEWHERE["program"]:
                self._lost(job, get.section, key, "no key of supervisord")

    def _command(self, get: Values) -> str:
        """Give the command in one line, unless a line end is within quotes."""
        text = get.text("command", own=True)
        if text is None:
            return ""
        try:
            words = shlex.split(text)
        except ValueError as error:
            get.wrong("command", f"the quotes do not match ({error})")
            return text
        if not words or not words[0]:
            get.wrong("command", "empty")
        if not any("\n" in word for word in words):
            return " ".join(text.split("\n")).strip()
        return text.strip()

    def _place(self, get: Values, job: Section) -> None:
        if (folder := get.text("directory")) is not None:
            job.key("directory", self._path(folder))
        if (user := get.text("user")) is not None:
            job.key("user", user)
        if (umask := get.read("umask", mode)) is not None:
            job.key("umask", umask)
        if own := get.environment():
            if self._environment:
                job.note("with the variables of [supervisord]")
            job.environment(self._environment | own)

    def _life(self, get: Values, job: Section) -> None:
        """Translate how a process is started again, and how it is stopped."""
        if (again := get.read("autorestart", autorestart)) is not None:
            job.key("restart", again)
        codes = get.text("exitcodes")
        if codes is not None:
            job.key("expected_exits", ", ".join(dict.fromkeys(codes.replace(" ", "").split(","))))
        if get.has("startsecs"):
            job.key("stable_after", f"{get.integer('startsecs', 1)}s")
        if get.has("startretries"):
            job.key("max_failures", get.integer("startretries", 3) + 1)
        if (signal := get.text("stopsignal")) is not None:
            job.key("stop_signal", signal.strip())
        if get.has("stopwaitsecs"):
            job.key("stop_timeout", f"{get.integer('stopwaitsecs', 10)}s")

    # Output

    def _output(self, get: Values, job: Section) -> None:
        out = self._log(get, job, "stdout_logfile")
        if out is not None:
            job.key("log_file", out)
            self._sizes(get, job, "stdout_logfile")
        err = None if get.boolean("redirect_stderr", False) else self._log(
            get, job, "stderr_logfile"
        )  # fmt: skip
        if err is not None and err != out:
            if out is None:
                job.key("log_file", err)
                self._sizes(get, job, "stderr_logfile")
            else:
                self._lost(job, get.section, "stderr_logfile", PROGRAM_NOTES["stderr"])

    def _log(self, get: Values, job: Section, key: str) -> str | None:
        """Give the path of a log file; None when it is no file of its own."""
        raw = get.raw(key)
        if raw is None:
            return None
        value = raw if get.differ() else _PER_PROCESS.sub("", raw)
        path = get.text(key, raw=value) or ""
        if value != raw:
            job.note(f"{key} = {raw}: one file for all, each line names its process")
        if self._is_file(path):
            return self._path(path)
        if path.lower() in ("none", "off"):
            self._lost(job, get.section, key, "output is never thrown away; it is in the log")
        elif path.lower() == "syslog":
            self._lost(job, get.section, key, "goes to the supervisor's log, so to the journal")
        return None

    def _sizes(self, get: Values, job: Section, stem: str) -> None:
        """Translate at which size a log is rotated, and how many files are kept."""
        if (size := get.text(f"{stem}_maxbytes")) is not None:
            job.key("log_max_bytes", size.strip())
        if (backups := get.text(f"{stem}_backups")) is not None:
            job.key("log_backups", backups.strip())

    def _is_file(self, path: str) -> bool:
        return path.lower() not in ("none", "off", "auto", "syslog", *_OUTPUTS, "/dev/null")

    def _path(self, path: str) -> str:
        """Make a path absolute; what was relative was so to where supervisord ran."""
        path = os.path.expanduser(path)
        return path if path.startswith(("/", MARKS[0])) else os.path.normpath(
            os.path.join(self._base, path)
        )  # fmt: skip

    # Order

    def _order(self) -> None:
        """Suggest for what was started later what it may have waited for."""
        ranks = sorted({rank for rank, _, _ in self._ranks})
        for rank, job, _ in self._ranks:
            if rank == _NO_RANK:
                continue
            if rank == ranks[0]:
                job.note(f"priority = {rank}: {PROGRAM_NOTES['priority']}")
                continue
            before = ranks[ranks.index(rank) - 1]
            earlier = [name for other, _, name in self._ranks if other == before]
            job.note(
                f"priority = {rank}: here all start at once. If it needs what was started before:"
            )
            job.note(f"depends_on = {', '.join(earlier[:5])}")
