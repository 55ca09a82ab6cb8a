"""Putting messages on queues, from anywhere: a handler, the command line, another program.

The topic decides: it belongs to the job that lists it, and with it to that job's queue. The
configuration is the one of the process (the supervisor names it to its children in
$SUPERVISOR_CONF), read again only when the file has changed. What costs an import is imported when
something is published.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.errors import NoSuchJob, UsageError
from supervisor.urls import by_hand
from workers.desks import desk_at, place_of, unavailable_in_words, url_to_publish

if TYPE_CHECKING:
    from supervisor.config import Config
    from workers.sources.desk import Desk

IO_TIMEOUT_S: Final = 5.0

_Stamp = tuple[Path, int, int]


class _OfThisThread(threading.local):
    """What a thread keeps between two calls of `publish`; worthless in another process."""

    def __init__(self) -> None:
        self.process = 0
        self.desks: dict[str, Desk] = {}
        self.config: tuple[_Stamp, Config] | None = None


_here = _OfThisThread()


def publish(
    topic: str,
    data: object,
    *,
    delay: float = 0,
    id: str | None = None,  # noqa: A002 - the contract's word, and a keyword only
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    url: str | None = None,
) -> str:
    """Put one message on a topic and give its id; it is on the disk when this returns.

    `delay` is seconds. Raises: NoSuchJob when no job lists the topic (and no `url` is given),
    UsageError when jobs of several queues do, ServiceUnavailable when the queue cannot be reached,
    TypeError or ValueError when the data has no JSON form.
    """
    from workers import codec

    message_id = codec.new_id() if id is None else str(id)
    body = codec.encode(topic, data, message_id=message_id, key=key, headers=headers)
    queue = url if url is not None else url_of(_config(), topic)
    with unavailable_in_words():
        _desk(queue).publish(topic, [body], _checked(delay))
    return message_id


def publish_all(
    config_path: Path,
    topic: str,
    payloads: Iterable[object],
    delay_s: float,
    message_id: str | None,
    url: str | None,
) -> list[str]:
    """Put messages on a topic in one transaction and give their ids; for the command line."""
    from workers import codec

    queue = url if url is not None else url_of(_load(config_path), topic)
    bodies, ids = [], []
    for payload in payloads:
        ids.append(message_id if message_id is not None else codec.new_id())
        bodies.append(codec.encode(topic, payload, message_id=ids[-1]))
    with unavailable_in_words():
        _desk(queue).publish(topic, bodies, _checked(delay_s))
    return ids


def url_of(config: Config, topic: str) -> str:
    """Give the queue of the job that lists a topic. Raises: NoSuchJob, UsageError."""
    found: dict[str, str] = {}
    topics: set[str] = set()
    for job in config.jobs:
        if job.url is None and job.type != "kafka":
            continue
        if job.table == topic:
            raise UsageError(f"{topic} is the table of {job.name}; insert a row instead")
        topics.update(known.name for known in job.topics)
        if any(known.name == topic for known in job.topics):
            url, shown = url_to_publish(job)
            found[url] = f"{shown} ({job.name})"
    if len(found) > 1:
        choice = "\n".join(f"  {shown}" for shown in found.values())
        raise UsageError(f"jobs of several queues list {topic}; choose one with --url:\n{choice}")
    if not found:
        known = ", ".join(sorted(topics)) or "none"
        raise NoSuchJob(f"no job lists the topic {topic} (there is: {known}); or give --url")
    return next(iter(found))


def _checked(delay: float) -> float:
    if not 0 <= delay < 1e10:
        raise UsageError(f"a delay of {delay} s makes no sense")
    return delay


def _desk(url: str) -> Desk:
    """Give this thread's connection; a fork must not use that of its parent."""
    if _here.process != os.getpid():
        _here.process, _here.desks = os.getpid(), {}
    if url not in _here.desks:
        try:
            place = place_of(by_hand(url))
        except ValueError as error:
            raise UsageError(str(error)) from None
        _here.desks[url] = desk_at(place, io_timeout=IO_TIMEOUT_S, create=True)
    return _here.desks[url]


def _config() -> Config:
    path = os.environ.get("SUPERVISOR_CONF")
    if not path:
        raise UsageError("which configuration? Set $SUPERVISOR_CONF, or give the url of the queue")
    return _load(Path(path))


def _load(path: Path) -> Config:
    from supervisor.loading import load

    try:
        found = os.stat(path)
    except OSError:
        return load(path)  # which says in its own words what is wrong
    stamp = (path, found.st_mtime_ns, found.st_ino)
    if _here.config is None or _here.config[0] != stamp:
        _here.config = (stamp, load(path))
    return _here.config[1]
