"""What the command line does with queues; loaded by `supervisor.cli` by name, when it is called.

Works with the supervisor up or down. Every function raises SupervisorError with the exit code
that the contract gives for it, and returns what `--json` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from supervisor.config import Config, Job
from supervisor.errors import NoSuchJob, SupervisorError
from workers import codec
from workers.publishing import publish_all as publish
from workers.publishing import unavailable_in_words
from workers.sources.sqlite_desk import Depth, Letter, SqliteDesk, depths_of
from workers.sources.sqlite_file import path_of

__all__ = ["dead_list", "dead_show", "publish", "queue_list"]


def queue_list(config: Config) -> list[dict[str, object]]:
    """Look at every queue of the configuration, topic by topic.

    Topics that no job lists, and that hold something all the same, come after those of the jobs.
    """
    rows: list[dict[str, object]] = []
    for path, jobs in _queues(config).items():
        topics = dict.fromkeys(topic.name for job in jobs for topic in job.topics)
        shown = jobs[0].url.shown if jobs[0].url is not None else ""
        rows += [_row(shown, depth) for depth in _depths(path, jobs[0], list(topics))]
    return rows


def dead_list(config: Config, topic: str, *, limit: int = 100) -> list[dict[str, object]]:
    """Look at the dead letters of a topic, the newest first. Raises: NoSuchJob."""
    return [_shown(letter) for letter in _letters(config, topic, limit, None)]


def dead_show(config: Config, topic: str, message_id: str) -> dict[str, object]:
    """Look at one dead letter. Raises: NoSuchJob, or SupervisorError when there is none."""
    for letter in _letters(config, topic, 1, message_id):
        message = codec.decode(letter.topic, letter.body, fallback_id=letter.id, attempt=1)
        return _shown(letter) | {
            "traceback": letter.traceback,
            "failures": letter.failures,
            "origin": letter.origin,
            "queue": letter.queue,
            "key": message.key,
            "headers": dict(message.headers),
            "published_at": message.published_at and message.published_at.isoformat(),
        }
    raise SupervisorError(f"no dead letter of {topic} has the id {message_id}")


def _queues(config: Config) -> dict[Path, list[Job]]:
    """Give the queue files of the configuration, each with the jobs that consume from it."""
    queues: dict[Path, list[Job]] = {}
    for job in config.jobs:
        if job.url is not None:
            queues.setdefault(path_of(job.url.reveal()), []).append(job)
    return queues


def _depths(path: Path, job: Job, topics: list[str]) -> list[Depth]:
    if not path.exists():
        return [Depth(topic) for topic in topics]
    with unavailable_in_words():
        desk = SqliteDesk(path, io_timeout=job.io_timeout, create=False)
        try:
            return depths_of(desk, topics)
        finally:
            desk.close()


def _letters(config: Config, topic: str, limit: int, message_id: str | None) -> list[Letter]:
    found = list(_all_letters(config, topic, limit, message_id))
    if not found and topic not in _names(config):
        known = ", ".join(sorted(_names(config))) or "none"
        raise NoSuchJob(f"no job lists the topic {topic} (there is: {known})")
    return sorted(found, key=lambda letter: -letter.at)[:limit]


def _all_letters(
    config: Config, topic: str, limit: int, message_id: str | None
) -> Iterator[Letter]:
    for path, jobs in _queues(config).items():
        if not path.exists():
            continue
        with unavailable_in_words():
            desk = SqliteDesk(path, io_timeout=jobs[0].io_timeout, create=False)
            try:
                yield from desk.letters(topic, limit=limit, message_id=message_id)
            finally:
                desk.close()


def _names(config: Config) -> set[str]:
    """Give all names under which dead letters of these jobs may lie."""
    names = {topic.name for job in config.jobs for topic in job.topics}
    return names | {job.dead_letter for job in config.jobs if job.topics} - {"on", "off"}


def _row(url: str, depth: Depth) -> dict[str, object]:
    return {
        "url": url,
        "topic": depth.topic,
        "depth": depth.depth,
        "delayed": depth.delayed,
        "in_flight": depth.in_flight,
        "dead": depth.dead,
        "oldest_age_s": None if depth.oldest_age_s is None else round(depth.oldest_age_s, 3),
        "paused": bool(depth.paused),
    }


def _shown(letter: Letter) -> dict[str, object]:
    message = codec.decode(letter.topic, letter.body, fallback_id=letter.id, attempt=1)
    at = datetime.fromtimestamp(letter.at).astimezone()
    return {
        "id": letter.id,
        "topic": letter.topic,
        "error": letter.error,
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "at": at.isoformat(timespec="milliseconds"),
        "data": message.data,
    }
