"""The desk of jobs of type `kafka`, and the URL by which a cluster is known.

`kafka://HOST:PORT,HOST:PORT?KEY=VALUE#GROUP`: brokers, settings of the client, consumer group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from supervisor.config import Job
from supervisor.errors import ConfigError
from supervisor.urls import KAFKA

if TYPE_CHECKING:
    from workers.sources.desk import Desk


def url_of(job: Job, client: Mapping[str, str]) -> str:
    """Give the URL of the cluster of a job; `client` are its settings, revealed."""
    query = f"?{urlencode(sorted(client.items()))}" if client else ""
    return f"{shown(job)}{query}"


def place_of(job: Job, client: Mapping[str, str]) -> str:
    """Give the place that a job consumes from: what its group has to do with a cluster."""
    return f"{url_of(job, client)}#{quote(job.consumer_group, safe='')}"


def shown(job: Job) -> str:
    """Give the URL of the cluster of a job as anybody may see it."""
    return f"{KAFKA}{','.join(job.brokers)}"


def desk_at(url: str, io_timeout: float) -> Desk:
    """Give a desk for who publishes; the URL may come from a command line. Raises: ValueError."""
    from workers.sources.kafka_client import WrongSettingError, settings_of
    from workers.sources.kafka_desk import Interest, KafkaDesk

    parts = urlsplit(url)
    try:
        settings = settings_of(parts.netloc.split(","), dict(parse_qsl(parts.query)), io_timeout)
    except WrongSettingError as error:
        raise ValueError(f"{error.key} in the URL: {error}") from None
    return KafkaDesk(settings, Interest())


def desk_of(
    jobs: Sequence[Job], client: Mapping[str, str], names: Sequence[str], io_timeout: float
) -> Desk:
    """Give a desk of the jobs of one place; it connects when it is used. Raises: ConfigError."""
    from workers.sources.kafka_client import WrongSettingError, settings_of
    from workers.sources.kafka_desk import Interest, KafkaDesk

    job = jobs[0]
    try:
        settings = settings_of(job.brokers, client, io_timeout)
    except WrongSettingError as error:
        raise _wrong(job, f"client.{error.key}", str(error)) from None
    topics = dict.fromkeys(topic.name for one in jobs for topic in one.topics)
    interest = Interest(
        group=job.consumer_group,
        is_new_from_end=job.auto_offset_reset == "latest",
        topics=tuple(topics),
        names=tuple(names),
        state_dir=job.state_dir,
        wrong=partial(_wrong, job),
    )
    return KafkaDesk(settings, interest)


def _wrong(job: Job, key: str, words: str) -> ConfigError:
    return ConfigError(job.problem(key, words))
