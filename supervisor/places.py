"""The kinds of values that name a place: paths and URLs, relative to the file that says them.

As the readers of `values`; but some look whether the place is there. Used by `settings`, and by
`location` for the folders of the supervisor itself.
"""

from __future__ import annotations

from os import stat
from pathlib import Path
from stat import S_IFDIR, S_ISDIR
from typing import Final

from supervisor import values
from supervisor.secret import FileReference, Given, Secret, plain

_LATER_SCHEMES: Final = ("redis", "rediss", "postgresql", "postgres")


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


def queue_url(given: Given) -> Secret:
    """Read the URL of a queue. A relative `sqlite:///PATH` is relative to the file."""
    return _sqlite_url(given, "queue")


def store_url(given: Given) -> Secret | None:
    """Read `none` or the URL of a store of keys, in the same way."""
    secret = given.secret()
    if len(secret.parts) == 1 and str(secret.parts[0]).strip().lower() == "none":
        return None
    return _sqlite_url(given, "store")


def _sqlite_url(given: Given, what: str) -> Secret:
    secret = given.secret()
    first = secret.parts[0] if secret.parts else ""
    if isinstance(first, FileReference):
        return secret  # only the child can know
    scheme, slashes, rest = first.partition("://")
    if slashes and scheme in _LATER_SCHEMES:
        raise ValueError(f"{scheme}:// is not in this release; write sqlite:///PATH")
    if not slashes or scheme != "sqlite":
        raise ValueError(f"{values.quoted(secret.shown)} is no {what}; write sqlite:///PATH")
    if len(secret.parts) > 1:
        raise ValueError("the path of an SQLite file is no secret; write it without ${file:...}")
    if not rest.startswith("/") or rest == "/":
        raise ValueError("write sqlite:///PATH (relative to this file) or sqlite:////PATH")
    if rest == "/:memory:":
        raise ValueError(f"a {what} in memory ends with its process; write sqlite:///PATH")
    return plain(f"sqlite:///{given.folder / rest[1:]}")
