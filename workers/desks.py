"""The desk of each queue, by its URL: the one place that knows which kinds there are.

Client libraries are loaded here, by who needs them, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from supervisor.errors import ServiceUnavailable

if TYPE_CHECKING:
    from supervisor.config import Config, Job
    from workers.sources.desk import Desk


def place_of(url: str) -> str:
    """Give the one form of a URL, by which two jobs of one queue are known. Raises: ConfigError."""
    from workers.sources.sqlite_file import path_of

    return f"sqlite:///{path_of(url).absolute()}"


def desk_at(place: str, *, io_timeout: float, create: bool) -> Desk:
    """Give a new desk of a place; it connects when it is used."""
    from workers.sources.sqlite_desk import SqliteDesk
    from workers.sources.sqlite_file import path_of

    return SqliteDesk(path_of(place), io_timeout=io_timeout, create=create)


def places_of(config: Config) -> dict[str, list[Job]]:
    """Give the places of the configuration, each with the jobs that consume from it."""
    places: dict[str, list[Job]] = {}
    for job in config.jobs:
        if job.url is not None:
            places.setdefault(place_of(job.url.reveal()), []).append(job)
    return places


@contextmanager
def desk_of(place: str, jobs: list[Job], *, create: bool = False) -> Iterator[Desk]:
    """Open the desk of a place. Raises: ServiceUnavailable, here and for what the block does."""
    with unavailable_in_words():
        desk = desk_at(place, io_timeout=jobs[0].io_timeout, create=create)
        try:
            yield desk
        finally:
            desk.close()


@contextmanager
def unavailable_in_words() -> Iterator[None]:
    """Turn a queue that does not answer into an error with the command line's exit code."""
    from workers.sources.source import SourceTrouble

    try:
        yield
    except SourceTrouble as error:
        raise ServiceUnavailable(f"the queue cannot be used: {error}") from error
