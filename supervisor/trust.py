"""What root may obey: a file that nobody but root could have written.

A configuration, and every module that it names, is code that runs with the rights of its reader.
So a reader that is root looks at each step of the path: who owns a file or a folder can change
it, and so can those whom its mode lets write. A folder that is root's and sticky (/tmp) is no
danger to what is root's in there: nobody else can rename or remove it. Looks only; called by those
who are about to read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

_LINKS: Final = 40
"""How many symbolic links a path may lead through. Source: path_resolution(7)"""


def distrust(path: Path) -> str:
    """Say which step of a path another user could change, and the cure; empty when none.

    A path that leads nowhere is not distrusted: whoever reads it says so. For everybody but root
    nothing is.
    """
    return _fault(path) if os.geteuid() == 0 else ""


def _fault(path: Path) -> str:
    waiting = list(reversed(path.absolute().parts))
    here, links = "/", 0
    while waiting:
        part = waiting.pop()
        if part == os.pardir:
            here = os.path.dirname(here)
            continue
        here = os.path.join(here, part)
        try:
            found = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(found.st_mode) else ""
        except OSError:
            return ""
        if fault := _judge(here, found):
            return fault
        if target:
            links += 1
            if links > _LINKS:
                return ""
            here = os.path.dirname(here)
            waiting += reversed(Path(target).parts)
    return ""


def _judge(path: str, found: os.stat_result) -> str:
    """Judge one step by itself; pure."""
    if found.st_uid != 0:
        return f"{path} belongs to {_user(found.st_uid)}, and root would obey it: chown root {path}"
    if stat.S_ISLNK(found.st_mode):
        return ""  # its mode says nothing; to change it means to replace it, in its folder
    is_shared = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    open_to = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not open_to or is_shared:
        return ""
    who = "everybody" if open_to & stat.S_IWOTH else "its group"
    return f"{path} may be written by {who}, and root would obey it: chmod go-w {path}"


def _user(uid: int) -> str:
    from pwd import getpwuid  # only who has a fault to tell pays for it

    try:
        return f"user {getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def module_files(module: str, search: Sequence[str]) -> Iterator[Path]:
    """Give the files that an import of a module would run, its packages first; imports nothing.

    What only an import hook finds is not found here.
    """
    paths: Sequence[str] | None = search
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, paths)
        if spec is None:
            return
        if spec.has_location and spec.origin:
            yield Path(spec.origin)
        paths = spec.submodule_search_locations
        if paths is None:
            return
        # A package without a file of its own is a folder, or several.
        yield from map(Path, () if spec.has_location else paths)
