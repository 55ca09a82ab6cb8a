"""What the command line does with whole queues: look, pause, resume, purge.

Works with the supervisor up or down: a pause lies in the queue's own file, where every consumer
sees it before its next claim, whichever supervisor it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.config import Config, Job
from supervisor.errors import NoSuchJob, UsageError
from workers.desks import desk_of, places_of, shown_place
from workers.sources.desk import Depth, Desk, depths_of


def queue_list(config: Config) -> list[dict[str, object]]:
    """Look at every queue of the configuration, topic by topic.

    Topics that no job lists, and that hold something all the same, come after those of the jobs.
    """
    return [
        row
        for place, jobs in places_of(config).items()
        for row in _rows(place, jobs, dict.fromkeys(topic for job in jobs for topic in _names(job)))
    ]


def queue_pause(config: Config, topic: str) -> list[dict[str, object]]:
    """Let nobody take from a topic, in every queue that has it; give its rows. Raises: NoSuchJob.

    A queue that nobody has used yet is made: the pause is there before the first message.
    """
    return _change(config, topic, lambda desk: desk.pause(topic))


def queue_resume(config: Config, topic: str) -> list[dict[str, object]]:
    """Undo `queue_pause`; give the rows of the topic. Raises: NoSuchJob."""
    return _change(config, topic, lambda desk: desk.resume(topic))


def queue_waiting(config: Config, topic: str) -> int:
    """Count what `queue_purge` would delete now. Raises: NoSuchJob, UsageError for a table."""
    for job in config.jobs:
        if job.table == topic:
            raise UsageError(f"{topic} is the table of {job.name}; its rows are not ours to delete")
    return sum(
        depth.depth + depth.delayed
        for place, jobs in _having(config, topic).items()
        for depth in _depths(place, jobs, [topic])
        if depth.topic == topic
    )


def queue_purge(config: Config, topic: str) -> dict[str, object]:
    """Delete what waits on a topic, delayed or not, in every queue that has it.

    What is in flight, or dead, stays. Raises: NoSuchJob.
    """
    purged = 0
    for place, jobs in _having(config, topic).items():
        with desk_of(place, jobs) as desk:
            purged += desk.purge(topic)
    return {"topic": topic, "purged": purged}


def no_such_topic(topic: str, known: set[str]) -> NoSuchJob:
    """Give the error for a topic that nobody knows."""
    return NoSuchJob(
        f"no job lists the topic {topic} (there is: {', '.join(sorted(known)) or '-'})"
    )


def _change(config: Config, topic: str, change: Callable[[Desk], None]) -> list[dict[str, object]]:
    rows = []
    for place, jobs in _having(config, topic).items():
        with desk_of(place, jobs, create=True) as desk:
            change(desk)
        rows += [row for row in _rows(place, jobs, {topic: None}) if row["topic"] == topic]
    return rows


def _having(config: Config, topic: str) -> dict[str, list[Job]]:
    """Give the queues in which a topic is: those of jobs that list it, or that hold some of it."""
    places = places_of(config)
    found = {
        place: jobs
        for place, jobs in places.items()
        if any(topic in _names(job) for job in jobs)
        or any(depth.topic == topic for depth in _depths(place, jobs, []))
    }
    if not found:
        raise no_such_topic(topic, {name for job in config.jobs for name in _names(job)})
    return found


def _names(job: Job) -> list[str]:
    return [topic.name for topic in job.topics]


def _depths(place: str, jobs: list[Job], topics: list[str]) -> list[Depth]:
    with desk_of(place, jobs) as desk:
        return depths_of(desk, topics)


def _rows(place: str, jobs: list[Job], topics: dict[str, None]) -> list[dict[str, object]]:
    shown = shown_place(jobs[0])
    group = {"group": jobs[0].consumer_group} if jobs[0].consumer_group else {}
    return [{**_row(shown, depth), **group} for depth in _depths(place, jobs, list(topics))]


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
        **({"partitions": dict(depth.parts)} if depth.parts else {}),
    }
