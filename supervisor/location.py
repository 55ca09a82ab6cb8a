"""Where a supervisor is found: its name, its run_dir and its state_dir, read from its file.

Kept apart from the rest of the configuration because every short command (`status`, `stop`, `logs`)
begins here and must answer at once, also when the rest of the file is broken just now.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from supervisor import identity, ini, places, values
from supervisor.errors import ConfigError, Problem
from supervisor.identity import Group, User

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Location:
    """The name of a supervisor and the two folders that belong to it, absolute.

    `user` and `group` are those that it becomes, where its file names them.
    """

    name: str
    run_dir: Path
    state_dir: Path
    user: User | None = None
    group: Group | None = None


def locate(path: Path) -> Location:
    """Read from the file where its supervisor is; faults elsewhere in the file do not matter.

    Raises: ConfigError when the file cannot be read or one of the three keys is wrong.
    """
    return of(ini.read(path, wanted="supervisor"), path)


def of(document: ini.Document, path: Path) -> Location:
    """Give the location that a document names. Raises: ConfigError with one to three problems."""
    section = document.sections.get("supervisor") or ini.Section(
        "supervisor", ini.Source(str(path), path.absolute()), 0
    )
    problems: list[Problem] = []
    name = _name(section, path, problems)
    run_dir = _path(section, "run_dir", problems)
    state_dir = _path(section, "state_dir", problems)
    user = _looked_up(section, "user", identity.user, problems)
    group = _looked_up(section, "group", identity.group, problems)
    uid = os.geteuid() if user is None else user.uid
    if not problems:
        state_dir = state_dir or _default_state_dir(name, uid)
        if state_dir is None:
            message = f"uid {uid} has no home in the password file; set state_dir"
            problems.append(section.problem(message, key="state_dir"))
        else:
            run_dir = run_dir or _default_run_dir(name, state_dir, uid)
            return Location(name, run_dir, state_dir, user, group)
    raise ConfigError(*problems)


def _name(section: ini.Section, path: Path, problems: list[Problem]) -> str:
    entry = section.entries.get("name")
    try:
        return values.supervisor_name(ini.given(entry).line() if entry else path.stem)
    except ValueError as fault:
        if entry:
            problems.append(entry.problem(str(fault)))
        else:
            message = f"the file's stem would be the name, but {fault}; set name"
            problems.append(section.problem(message, key="name"))
        return ""


def _path(section: ini.Section, key: str, problems: list[Problem]) -> Path | None:
    entry = section.entries.get(key)
    if entry is None:
        return None
    try:
        return places.path(ini.given(entry))
    except ValueError as fault:
        problems.append(entry.problem(str(fault)))
        return None


def _looked_up(
    section: ini.Section, key: str, read: Callable[[str], T], problems: list[Problem]
) -> T | None:
    entry = section.entries.get(key)
    if entry is None:
        return None
    try:
        return read(ini.given(entry).line())
    except ValueError as fault:
        problems.append(entry.problem(str(fault)))
        return None


def _default_state_dir(name: str, uid: int) -> Path | None:
    """Source: the contract; from name and uid alone, so that `sudo` and cron find the same one."""
    if uid == 0:
        return Path("/var/lib", name)
    from pwd import getpwuid  # root never needs it

    try:
        return Path(getpwuid(uid).pw_dir, ".local/state", name)
    except KeyError:
        return None


def _default_run_dir(name: str, state_dir: Path, uid: int) -> Path:
    if uid == 0:
        return Path("/run", name)
    users = Path("/run/user", str(uid))
    return users / name if users.is_dir() else state_dir / "run"
