"""Topics in Redis, lists or streams: what another program puts there, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

import redis

from workers.sources.redis_desk import RedisDesk
from workers.sources.redis_stream_desk import StreamDesk


def put(client: redis.Redis, kind: str, topic: str, bodies: Iterable[str]) -> None:
    """Put messages in one by one, as any other program would."""
    for body in bodies:
        if kind == "stream":
            client.xadd(topic, {"body": body})
        else:
            client.lpush(f"mq:{topic}", body)


def left(url: str, kind: str, topics: Sequence[str], group: str) -> tuple[int, int]:
    """Count what is not done, and what is dead."""
    with closing(
        StreamDesk(url, topics, group=group, io_timeout=30)
        if kind == "stream"
        else RedisDesk(url, topics, io_timeout=30)
    ) as desk:
        depths = desk.depths()
    undone = sum(depth.depth + depth.delayed + depth.in_flight for depth in depths)
    return undone, sum(depth.dead for depth in depths)
