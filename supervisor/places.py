"""The kinds of values that name a place of this machine, relative to the file that says them.

As the readers of `values`; but some look whether the place is there. Used by `settings`, and by
`location` for the folders of the supervisor itself.
"""

from __future__ import annotations

from os import stat
from pathlib import Path
from stat import S_IFDIR, S_ISDIR

from supervisor import values
from supervisor.secret import Given


def path(given: Given) -> Path:
    """Read a path; a relative one is relative to the file that names it."""
    return given.folder / values.line(given.line())


def paths(given: Given) -> tuple[Path, ...]:
    """Read a list of paths that are there, each relative to the file that names it."""
    found = tuple(given.folder / item for item in values.some(given.text()))
    for each in found:
        if not _mode_of(each):
            raise ValueError(
                f"{values.quoted(str(each))} is not there; make it, or correct the path"
            )
    return found


def _mode_of(place: Path) -> int:
    """Give the mode; 0 when nothing is there. What lies behind another's folder counts as one.

    A process that has become another user reads the file too, and does not see all of it.
    """
    try:
        return stat(place).st_mode
    except OSError as error:
        return S_IFDIR if isinstance(error, PermissionError) else 0


def folder(given: Given) -> Path:
    """Read the path of a folder that is there."""
    found = path(given)
    if not S_ISDIR(_mode_of(found)):
        raise ValueError(
            f"{values.quoted(str(found))} is not a folder; make it, or correct the path"
        )
    return found


def log_file(given: Given) -> Path | None:
    """Read a path, or `-` for none of its own."""
    return None if given.line().strip() == "-" else path(given)
