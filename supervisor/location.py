"""Where a supervisor is found: its name, its run_dir and its state_dir, read from its file.

Kept apart from the rest of the configuration because every short command (`status`, `stop`, `logs`)
begins here and must answer at once, also when the rest of the file is broken just now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Location:
    """The name of a supervisor and the two folders that belong to it."""

    name: str
    run_dir: Path
    state_dir: Path


def locate(path: Path) -> Location:
    """Read from the file where its supervisor is."""
    raise NotImplementedError(path)
