"""From a file to a `Config`, or to one ConfigError that carries every problem of all files at once.

What a key means and which values it takes is said in `supervisor.settings`; here a table of keys
meets what stands in the file: unknown names, defaults of a kind, keys that a type needs. What two
values have to do with each other is in `agreement`. Handlers are not imported here;
`supervisor.probe` does that, in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from supervisor import agreement, ini, location, protocol, settings, values
from supervisor.agreement import Notes
from supervisor.config import Config, Job, Origin
from supervisor.errors import ConfigError, Problem
from supervisor.location import Location
from supervisor.secret import Secret, is_secret_name
from supervisor.values import Topic


def load(path: Path) -> Config:
    """Read and check a configuration; handlers are not imported (see `supervisor.probe`).

    Raises: ConfigError with every problem of all files, sorted by file and line.
    """
    return _Loader(path).load()


_WRONG: Final = object()
"""What stands for a value that could not be read; the problem is noted."""

_JOB_TABLE: Final = "daemon:NAME"
_NOT_BUILT: Final = "not in this release"


class _Loader:
    """One reading of one configuration: gathers problems on its way and raises at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._document = ini.read(path)
        self._notes = Notes(self._document.problems)
        self._note = self._notes.fault

    def load(self) -> Config:
        self._know_sections()
        self._know_names()
        location = self._location()
        supervisor = self._section("supervisor")
        worker = self._section("worker")
        for kind in settings.KINDS:
            if kind not in settings.BUILT_KINDS:
                self._refuse_kind(kind)
        self._refuse_http()
        jobs = self._jobs()
        agreement.refuse_two_users(supervisor, jobs, self._notes)
        if self._notes.faults or location is None:
            raise ConfigError(*_sorted(self._notes.faults))
        return self._config(location, supervisor, worker, jobs)

    def _config(
        self,
        location: Location,
        supervisor: dict[str, Any],
        worker: dict[str, Any],
        jobs: tuple[Job, ...],
    ) -> Config:
        path = self._path.absolute()
        if "socket_group" in supervisor and "socket_mode" not in self._keys("supervisor"):
            supervisor["socket_mode"] = 0o660
        longest = max((job.stop_timeout for job in jobs), default=0.0)
        given: dict[str, Any] = {
            "log_format": _log_format(supervisor["log_file"]),
            "stop_timeout": longest + 5.0,
            "pythonpath": (path.parent,),
            **supervisor,
            **{key: getattr(location, key) for key in ("name", "run_dir", "state_dir")},
        }
        sections = self._document.sections
        origins = {
            prefix + key: origin
            for name, prefix in (("supervisor", ""), ("worker", "worker_"))
            if name in sections
            for key, origin in _origins(sections[name].entries.values()).items()
        }
        return Config(
            **given,
            path=path,
            worker_enable=worker["enable"],
            worker_mode=worker["mode"],
            jobs=agreement.know_state_dir(jobs, location.state_dir),
            warnings=tuple(_sorted(self._notes.warnings)),
            origins=origins,
        )

    # Names of sections and keys

    def _know_sections(self) -> None:
        for section in self._document.sections.values():
            table = _table(section.name)
            if table is None:
                near = settings.nearest_section(section.name)
                hint = f"did you mean [{near}]?" if near else "README lists all sections"
                self._note(section.problem(f"unknown section; {hint}"))
            else:
                self._know_keys(section, table)
        for section in self._document.includes:
            self._know_keys(section, "include")

    def _know_keys(self, section: ini.Section, table: str) -> None:
        for key, entry in section.entries.items():
            if settings.rows(table, key):
                continue
            near = settings.nearest_key(table, key)
            if (other := settings.elsewhere(table, key)) is not None:
                self._note(entry.problem(f"a key of [{other}], unknown in this section"))
            elif near:
                self._note(entry.problem(f"unknown key; did you mean {near}?"))
            else:
                self._note(entry.problem("unknown key; README lists the keys of this section"))

    def _know_names(self) -> None:
        """Check the names of all jobs: their form, and that no two kinds share one."""
        first: dict[str, ini.Section] = {}
        for kind in settings.KINDS:
            for name, section in self._members(kind).items():
                try:
                    values.job_name(name)
                except ValueError as fault:
                    self._note(section.problem(str(fault)))
                twin = first.setdefault(name, section)
                if twin is not section:
                    place = f"[{twin.name}] at {twin.source.shown}:{twin.line}"
                    self._note(section.problem(f"the name is taken by {place}; choose another"))

    def _members(self, kind: str) -> dict[str, ini.Section]:
        """Give the sections of a kind's jobs, by the names of the jobs."""
        begin = f"{kind}:"
        return {
            name.removeprefix(begin).strip(): section
            for name, section in self._document.sections.items()
            if name.startswith(begin)
        }

    # Sections that stand alone

    def _location(self) -> Location | None:
        try:
            found = location.of(self._document, self._path)
            protocol.socket_path(found.run_dir, found.name)
            return found
        except ConfigError as error:
            for problem in error.problems:
                self._note(problem)
            return None

    def _section(self, name: str) -> dict[str, Any]:
        """Give the values of [supervisor] or [worker]; a wrong one has its default."""
        found: dict[str, Any] = dict(settings.plain_defaults(name))
        section = self._document.sections.get(name)
        for key, entry in section.entries.items() if section else ():
            for row in settings.rows(name, key):
                value = self._value(row, entry)
                if value is not _WRONG:
                    found[key] = value
        return found

    def _keys(self, name: str) -> Iterable[str]:
        section = self._document.sections.get(name)
        return section.entries if section else ()

    # Kinds that a later release builds

    def _refuse_kind(self, kind: str) -> None:
        head = self._document.sections.get(kind)
        if not self._enabled(head, if_wrong=False):
            return
        if head is not None and head.entries:
            self._note(head.problem(f"{kind} jobs are {_NOT_BUILT}; set enable = false"))
        for section in self._selected(kind):
            self._note(section.problem(f"{kind} jobs are {_NOT_BUILT}; set enable = false"))

    def _refuse_http(self) -> None:
        section = self._document.sections.get("http")
        if section and "enable" in section.entries and self._enabled(section, if_wrong=False):
            entry = section.entries["enable"]
            self._note(entry.problem(f"the http process is {_NOT_BUILT}; set enable = false"))

    # Jobs

    def _enabled(self, section: ini.Section | None, *, if_wrong: bool = True) -> bool:
        """Tell whether a section is switched on.

        One whose switch is wrong counts as on, so that its other faults are told as well; but not
        (`if_wrong` false) where being on is itself a fault.
        """
        entry = section.entries.get("enable") if section else None
        if entry is None:
            return True
        try:
            return values.boolean(ini.given(entry).line())
        except ValueError as fault:
            self._note(entry.problem(str(fault)))
            return if_wrong

    def _selected(self, kind: str) -> list[ini.Section]:
        """Give the sections of the jobs that are to run, in the order of the file."""
        members = self._members(kind)
        head = self._document.sections.get(kind)
        entry = head.entries.get("jobs") if head else None
        wanted: tuple[str, ...] = ()
        if entry is not None:
            try:
                wanted = values.items(ini.given(entry).text())
            except ValueError as fault:
                self._note(entry.problem(str(fault)))
            for name in wanted:
                if name not in members:
                    hint = values.one_of(name, members) if members else f"write [{kind}:{name}]"
                    self._note(entry.problem(f"no job {values.quoted(name)}; {hint}"))
        return [
            section
            for name, section in members.items()
            if self._enabled(section, if_wrong=kind in settings.BUILT_KINDS)
            and (not wanted or name in wanted)
        ]

    def _jobs(self) -> tuple[Job, ...]:
        head = self._document.sections.get("daemon") or _no_section(self._path, "daemon")
        if not self._enabled(head):
            return ()
        inherited = {k: e for k, e in head.entries.items() if k not in ("enable", "jobs")}
        for key, entry in inherited.items():  # also those that no job makes use of
            for row in settings.rows(_JOB_TABLE, key)[:1]:
                self._value(row, entry)
        sections = self._selected("daemon")
        if not sections:
            self._notes.warn(head.problem("no daemon jobs registered"))
        jobs = [job for each in sections if (job := self._job(each, inherited)) is not None]
        agreement.count_processes(jobs, self._notes)
        known = self._members("daemon")
        off = known.keys() - {section.name.partition(":")[2].strip() for section in sections}
        agreement.check_dependencies(jobs, known, off, self._notes)
        return agreement.know_groups(jobs)

    def _job(self, section: ini.Section, inherited: dict[str, ini.Entry]) -> Job | None:
        """Read one job; None when something is wrong with it, which is then noted."""
        job_type = self._type(section, section.entries.get("type") or inherited.get("type"))
        if job_type is None:
            return None
        rows = settings.of_type(_JOB_TABLE, job_type)
        entries = self._entries(section, inherited, job_type)
        for row in rows:
            if row.needed and row.key not in entries and not _is_misspelt(section, row.key):
                self._note(section.problem(f"missing; {row.meaning}", key=row.key))
        found = self._values(entries, job_type)
        if found is None:
            return None
        agreement.check_pairs(found, entries, self._notes)
        if "table" in found:
            found["topics"] = (Topic(found["table"], 1),)
        if job_type in settings.CONSUMERS:
            agreement.fit_threads(found, entries, self._notes)
            if job_type == "table":
                agreement.fit_claim(found, entries, self._notes)
            agreement.check_handlers(section, found, entries, self._notes)
        if any(row.needed and row.key not in entries for row in rows):
            return None
        return Job(
            name=section.name.partition(":")[2].strip(),
            kind="daemon",
            type=job_type,
            section_origin=(section.source.shown, section.line),
            origins=_origins(entries.values()),
            **found,
        )

    def _type(self, section: ini.Section, entry: ini.Entry | None) -> str | None:
        """Give the type of a job; when it is not known, read what needs none."""
        if entry is None:
            if not _is_misspelt(section, "type"):
                known = ", ".join(settings.DAEMON_TYPES)
                self._note(section.problem(f"missing; one of {known}", key="type"))
            self._check_typeless(section)
            return None
        (row,) = settings.rows(_JOB_TABLE, "type")
        word = self._value(row, entry)
        if not isinstance(word, str):
            self._check_typeless(section)
            return None
        return word

    def _check_typeless(self, section: ini.Section) -> None:
        """Read what means the same for every type, in a job whose type is not known."""
        for key, entry in section.entries.items():
            rows = settings.rows(_JOB_TABLE, key)
            if len(rows) == 1 and key not in ("type", "enable"):
                self._value(rows[0], entry)

    def _entries(
        self, section: ini.Section, inherited: dict[str, ini.Entry], job_type: str
    ) -> dict[str, ini.Entry]:
        """Give the entries that count for a job; its own of another type are noted."""
        found: dict[str, ini.Entry] = {}
        for key, entry in (inherited | section.entries).items():
            rows = settings.rows(_JOB_TABLE, key)
            if settings.row_of(_JOB_TABLE, key, job_type):
                found[key] = entry
            elif rows and entry.section == section.name:
                types = ", ".join(sorted({word for row in rows for word in row.types}))
                self._note(entry.problem(f"not a key of type {job_type}, but of {types}"))
        return found

    def _values(self, entries: dict[str, ini.Entry], job_type: str) -> dict[str, Any] | None:
        """Read a job's entries over the defaults of its type; None when one of them is wrong."""
        found: dict[str, Any] = dict(settings.defaults(_JOB_TABLE, job_type))
        wrong = False
        for key, entry in entries.items():
            row = settings.row_of(_JOB_TABLE, key, job_type)
            value = self._value(row, entry) if row else _WRONG
            if row is None or value is _WRONG:
                wrong = True
            elif row.family:
                member = key.removeprefix(row.family)
                if isinstance(value, Secret):
                    value = Secret(value.parts, is_secret_name(member))
                found.setdefault(_FAMILY_FIELDS[row.family], {})[member] = value
            else:
                found[key] = value
        if wrong:
            return None
        if job_type == "program":
            found["heartbeat_timeout"] = 0.0
        if isinstance(found.get("group"), str):
            found["consumer_group"] = found.pop("group")  # no group of users, as for other types
        for key in ("enable", "type"):
            found.pop(key, None)
        return found

    def _value(self, row: settings.Setting, entry: ini.Entry) -> object:
        if not row.built:
            self._note(entry.problem(f"{_NOT_BUILT}; leave it out"))
            return _WRONG
        try:
            return row.read(ini.given(entry))
        except ValueError as fault:
            self._note(entry.problem(str(fault)))
            return _WRONG


_FAMILY_FIELDS: Final = {"handler.": "handlers", "option.": "options", "client.": "client"}


def _table(section: str) -> str | None:
    """Give the table of a section's keys, None for an unknown section."""
    kind, colon, _ = section.partition(":")
    if colon:
        return f"{kind}:NAME" if kind in settings.KINDS else None
    return section if section in settings.SECTIONS else None


def _is_misspelt(section: ini.Section, key: str) -> bool:
    """Tell whether a key is there under a wrong name, which is then the fault that is told."""
    return any(
        not settings.rows(_JOB_TABLE, other) and settings.nearest_key(_JOB_TABLE, other) == key
        for other in section.entries
    )


def _no_section(path: Path, name: str) -> ini.Section:
    return ini.Section(name, ini.Source(str(path), path.absolute()), 0)


def _log_format(log_file: Path | None) -> str:
    return "text" if log_file is None and os.isatty(1) else "json"


def _origins(entries: Iterable[ini.Entry]) -> dict[str, Origin]:
    return {entry.key: (entry.source.shown, entry.line) for entry in entries}


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.file, problem.line))
