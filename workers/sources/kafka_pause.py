"""Paused topics of Kafka. A broker has no place for a pause: they lie in the supervisor's folder.

So a pause counts for the consumers of one supervisor. One empty file a topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def paused_in(state_dir: Path, topics: Iterable[str]) -> set[str]:
    """Give those of the topics that are paused; of a folder that may not be seen, none."""
    found = set()
    for topic in topics:
        with suppress(OSError):
            _file(state_dir, topic).stat()
            found.add(topic)
    return found


def pause(state_dir: Path, topic: str) -> None:
    """Write a pause down. Raises: OSError."""
    file = _file(state_dir, topic)
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    file.touch(mode=0o644)


def resume(state_dir: Path, topic: str) -> None:
    """Undo `pause`. Raises: OSError."""
    _file(state_dir, topic).unlink(missing_ok=True)


def _file(state_dir: Path, topic: str) -> Path:
    return state_dir / "paused" / topic
