"""`init DIR --from FILE`: another supervisor's configuration written as one of ours.

Finds out what kind of file it is, has `importers` understand it, writes the result as a new file
and never over another. The source is read, never changed, and nothing of it is executed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Final

from supervisor.errors import SupervisorError, UsageError, configuration_fault
from supervisor.importers import draft, ecosystem, procfile, supervisord
from supervisor.importers.draft import Draft
from supervisor.importers.supervisord_text import File

FILE_NAME: Final = "workers.ini"
"""What the new configuration is called, as the commands look for it."""

_PRIVATE: Final = 0o600
_LARGEST: Final = 16 << 20
_JAVASCRIPT: Final = (".js", ".cjs", ".mjs")


@dataclass(frozen=True, slots=True)
class Imported:
    """The new file: how many jobs it has, and how many keys stand there as comments."""

    path: Path
    jobs: int
    remarks: int


def import_into(folder: Path, source: Path, environ: Mapping[str, str] = os.environ) -> Imported:
    """Write the configuration `source` as ours, as a new file in `folder`.

    Raises: UsageError when the source cannot be read, ConfigError when it is wrong,
    SupervisorError when there is a configuration already.
    """
    target = folder / FILE_NAME
    if os.path.lexists(target):
        raise SupervisorError(
            f"{target} is there already and is never overwritten; nothing is done"
        )
    found = draft.written(_understood(_read(source), environ), folder.absolute(), environ)
    is_private = found.holds_secrets or not source.stat().st_mode & 0o004
    _write(target, found.text, _PRIVATE if is_private else 0o644)
    return Imported(target, found.jobs, found.remarks)


def _understood(file: File, environ: Mapping[str, str]) -> Draft:
    name = os.path.basename(file.shown)
    if name.endswith(_JAVASCRIPT):
        raise UsageError(
            f"{file.shown} is a program, which is not run here; write what it gives as JSON: node"
            f" -p 'JSON.stringify(require(\"./{name}\"))' > ecosystem.json"
        )
    if name.endswith((".yml", ".yaml")):
        raise UsageError(f"{file.shown} is YAML, which is not read here; write it as JSON")
    if name.endswith((".json", ".pm2")) or file.text.lstrip()[:1] == "{":
        return ecosystem.translate(file, processors=os.cpu_count() or 1)
    if name.startswith("Procfile") or name.endswith(".procfile"):
        has_env = os.path.isfile(os.path.join(file.folder, ".env"))
        return procfile.translate(file, has_env=has_env)
    return supervisord.translate(file, _included, platform.node(), environ)


def _included(pattern: str, folder: str) -> list[File]:
    """Give the files of a pattern of [include], sorted, as supervisord reads them."""
    return [_read(Path(name)) for name in sorted(glob(os.path.join(folder, pattern)))]


def _read(path: Path) -> File:
    """Read a file of the source. Raises: UsageError, ConfigError where it is no text."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)  # a device has no size, and no end
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST >> 20} MB: no configuration")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise configuration_fault(path, "is not UTF-8 text from here on", line=line) from None
    for mark in ("\0", *draft.MARKS):
        if mark in text:
            line = text.count("\n", 0, text.index(mark)) + 1
            message = f"a character that no configuration holds ({mark!a}); remove it"
            raise configuration_fault(path, message, line=line)
    return File(str(path), str(path.absolute().parent), text)


def _write(target: Path, text: str, mode: int) -> None:
    """Write a new file whole, or none. Raises: SupervisorError, when it is there already too."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(fresh, target)  # unlike a rename it refuses when somebody was faster
        finally:
            os.unlink(fresh)
    except FileExistsError:
        raise SupervisorError(f"{target} is there already and is never overwritten") from None
    except OSError as error:
        raise SupervisorError(f"{target} cannot be written: {error.strerror}") from None
