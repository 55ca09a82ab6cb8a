"""The suspects of a job on Kafka: which records were in a handler when their process died.

A broker keeps nothing about a single record, so they lie in the supervisor's folder, one file a
job, and are known to the processes of this supervisor alone. Where the folder may not be written
to, a process remembers what it is told itself.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_OLD_S: Final = 30 * 86400.0
"""What has not come again by then was settled elsewhere, or is gone from the log."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Suspect:
    """One record by its number; `place` is `topic-partition-offset` as soon as it was met.

    `crashes` counts the processes that it killed alone, `told` is the last of the dead that had it.
    """

    crashes: int
    told: str
    at: float
    place: str = ""


class Suspects:
    """The file of one job, as it was when last looked at. Work loop's thread only."""

    def __init__(self, state_dir: Path, job: str) -> None:
        self._path = state_dir / "suspects" / f"{job}.json"
        self._all: dict[int, Suspect] = {}
        self._stamp: tuple[int, int] | None = None
        self._is_ours = True

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._all)

    def __contains__(self, number: int) -> bool:
        """Tell whether a record is one."""
        return number in self._all

    def crashes(self, number: int) -> int:
        """Give how many processes a record has killed alone. Raises: KeyError."""
        return self._all[number].crashes

    def look(self) -> None:
        """Read the file again if somebody has changed it."""
        with suppress(OSError):
            found = self._path.stat()
            if (found.st_ino, found.st_mtime_ns) != self._stamp:
                with self._locked():
                    self._read()

    def add(self, owner: str, numbers: Sequence[int]) -> None:
        """Take in what a dead process was working on; the same death twice counts once.

        Those that were suspects before ran alone, so this crash counts.
        """
        with self._locked():
            self._read()
            now = time.time()
            for number in numbers:
                known = self._all.get(number)
                if known is None:
                    self._all[number] = Suspect(0, owner, now)
                elif known.told != owner:
                    known.crashes += 1
                    known.told, known.at = owner, now
            self._write()

    def met(self, number: int, place: str) -> None:
        """Note where a suspect lies, for those who read the file."""
        if self._all[number].place != place:
            with self._locked():
                self._read()
                if number in self._all:
                    self._all[number].place = place
                    self._write()

    def clear(self, numbers: Sequence[int]) -> None:
        """Forget those of the records that are settled, or came back alive."""
        if not any(number in self._all for number in numbers):
            return
        with self._locked():
            self._read()
            for number in numbers:
                self._all.pop(number, None)
            self._write()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one who changes the file; without a folder nobody else could."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._complain(error)
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> None:
        try:
            with self._path.open(encoding="ascii") as file:
                found = os.fstat(file.fileno())
                rows = json.load(file)
            self._all = {int(number): Suspect(**fields) for number, fields in rows.items()}
            self._stamp = (found.st_ino, found.st_mtime_ns)
        except FileNotFoundError:
            self._all = {} if self._is_ours else self._all
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._complain(error)

    def _write(self) -> None:
        """Put the file there whole or not at all."""
        old = time.time() - _OLD_S
        rows = {number: asdict(one) for number, one in self._all.items() if one.at > old}
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                json.dump(rows, file)
            found = fresh.stat()
            fresh.replace(self._path)
            self._stamp = (found.st_ino, found.st_mtime_ns)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self._is_ours:
            self._is_ours = False
            _log.warning(
                "%s cannot be used (%s): which messages were in a handler at a crash is not"
                " known to the other processes",
                self._path,
                error,
            )
