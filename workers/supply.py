"""Where the messages of a job come from: its source, and what stands between it and the loop.

Client libraries and stores are loaded here, by the job that needs them, and not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.errors import ConfigError, configuration_fault
from supervisor.slot import Slot
from supervisor.urls import is_postgres, is_redis
from workers.sources.keys import Keys
from workers.sources.source import Delivery, Source

if TYPE_CHECKING:
    from workers.ratelimit import Meter, Rate
    from workers.runtime import Child


def source_of(slot: Slot) -> Source:
    """Choose the source by the URL. Raises: ConfigError."""
    job = slot.job
    url = job.url.reveal() if job.url is not None else ""
    if job.table:
        from workers import tables

        return tables.source_of(slot)
    if job.type == "kafka":
        return _of_kafka(slot)
    if url.startswith("sqlite:"):
        from workers.sources import sqlite, sqlite_file

        path = sqlite_file.path_of(url)
        return sqlite.SqliteSource(path, slot.owner, lease_s=job.lease, io_timeout=job.io_timeout)
    if is_redis(url):
        topics = [topic.name for topic in job.topics]
        times = {"lease_s": job.lease, "io_timeout": job.io_timeout}
        if job.type == "stream":
            from workers.sources.redis_stream import StreamSource

            group, others = job.consumer_group, job.other_groups
            return StreamSource(url, slot.owner, group, topics, **times, others=others)
        from workers.sources.redis_list import ListSource

        return ListSource(url, slot.owner, topics, **times)
    raise configuration_fault(
        job.origin("url")[0], f"[daemon:{job.name}] url: no kind of queue that this release knows"
    )


def _of_kafka(slot: Slot) -> Source:
    from workers.sources.kafka import KafkaSource, Member
    from workers.sources.kafka_client import WrongSettingError, settings_of

    job = slot.job
    try:
        client = {key: secret.reveal() for key, secret in job.client.items()}
        settings = settings_of(job.brokers, client, job.io_timeout)
    except WrongSettingError as error:
        key = f"client.{error.key}"
        raise ConfigError(job.problem(key, str(error))) from None
    member = Member(
        name=f"{slot.instance}.{job.name}.{slot.process}",
        job=job.name,
        topics=[topic.name for topic in job.topics],
        group=job.consumer_group,
        order=job.order,
        reset=job.auto_offset_reset,
        leave_s=job.lease,
        threads=job.max_concurrency or job.concurrency,
        queue_size=job.queue_size,
    )
    return KafkaSource(settings, member, slot.state_dir, slot.page.set_lag)


def keys_of(slot: Slot) -> Keys:
    """Choose the store of a job's `idempotency` by its URL. Raises: ConfigError."""
    job = slot.job
    assert job.idempotency is not None, "asked for by jobs that have a store only"
    url = job.idempotency.reveal()
    times = {"lease_s": job.lease, "ttl_s": job.idempotency_ttl, "io_timeout": job.io_timeout}
    if is_redis(url):
        from workers.sources.redis_keys import RedisKeys

        return RedisKeys(url, slot.owner, **times)
    if is_postgres(url):
        from workers.sources.postgres_keys import PostgresKeys

        return PostgresKeys(url, slot.owner, **times)
    from workers.sources import sqlite_file, sqlite_keys

    return sqlite_keys.SqliteKeys(sqlite_file.path_of(url), slot.owner, **times)


def guarded(source: Source, child: Child, refuse: Callable[[Delivery, str], None]) -> Source:
    """Let through what a job wants: no key that was handled, no more than its rate.

    `refuse` settles a message that cannot be handled, with the reason.
    """
    slot = child.slot
    if slot.job.idempotency is not None:
        from workers import idempotency

        source = idempotency.OnceSource(source, keys_of(slot), slot.job, slot.page, refuse)
    if slot.job.rate_limit is not None:
        from workers import ratelimit

        # Outermost: a message that is skipped costs nothing.
        rate = ratelimit.Rate.of(slot.job.rate_limit)
        source = ratelimit.RatedSource(source, meter_of(slot, rate), rate, slot.page)
    return source


def meter_of(slot: Slot, rate: Rate) -> Meter:
    """Choose where the processes of a job count its calls: where its messages are, if they can."""
    job = slot.job
    url = job.url.reveal() if job.url is not None else ""
    limit = {"interval": rate.interval, "burst": rate.burst}
    if is_redis(url):
        from workers.sources.redis_meter import RedisMeter

        return RedisMeter(url, job.name, **limit, io_timeout=job.io_timeout)
    if is_postgres(url):
        from workers.sources.postgres_meter import PostgresMeter

        return PostgresMeter(url, job.name, **limit, io_timeout=job.io_timeout)
    from workers import ratelimit

    return ratelimit.CellMeter(slot.rate_fd, rate)
