"""Plain loops over redis-py, without any feature: nothing is retried, buried, renewed or freed.

BENCH_VARIANT says which: `batch` claims a hundred in one script and acknowledges them in one call,
`single` goes one by one, `stream` reads a hundred and acknowledges them in two calls.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import page
import redis

_VARIANT = os.environ["BENCH_VARIANT"]
_READY, _LEASE, _DELAYED = _KEYS = ("plain", "plain:lease", "plain:delayed")
_SIZE = 100
_CLAIM = """
local taken = redis.call('RPOP', KEYS[1], ARGV[1]) or {}
for _, raw in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[2], 'LIMIT', 0, ARGV[1])) do
    redis.call('ZREM', KEYS[3], raw)
    taken[#taken + 1] = raw
end
for _, raw in ipairs(taken) do redis.call('ZADD', KEYS[2], ARGV[2] + 30000, raw) end
return taken
"""

_client = redis.Redis.from_url(os.environ["BENCH_URL"])


def batch() -> None:
    """Claim in batches; when nothing is there, wait ten milliseconds, or for the next one."""
    claim = _client.register_script(_CLAIM)
    while True:
        taken = claim(keys=_KEYS, args=(_SIZE, int(time.time() * 1000)))
        _handle(taken)
        if taken:
            _client.zrem(_LEASE, *taken)
        else:
            _client.blmove(_READY, _READY, 0.01, "RIGHT", "RIGHT")


def single() -> None:
    """Move one, handle it, remove it."""
    while True:
        raw = _client.blmove(_READY, _LEASE, 1, "RIGHT", "LEFT")
        if raw is not None:
            _handle([raw])
            _client.lrem(_LEASE, 1, raw)


def stream() -> None:
    """Read in batches."""
    with suppress(redis.ResponseError):  # the other process was faster
        _client.xgroup_create(_READY, "group", "0", mkstream=True)
    while True:
        wanted = {_READY: ">"}
        found = _client.xreadgroup("group", str(os.getpid()), wanted, count=_SIZE, block=1000)
        for _, entries in found or ():
            _handle(fields[b"body"] for _, fields in entries)
            numbers = [number for number, _ in entries]
            _client.xack(_READY, "group", *numbers)
            _client.xdel(_READY, *numbers)


def publish(values: Sequence[int]) -> None:
    """Put messages into the list, or the stream."""
    pipeline = _client.pipeline(transaction=False)
    for value in values:
        if _VARIANT == "stream":
            pipeline.xadd(_READY, {"body": _body(value)})
        else:
            pipeline.lpush(_READY, _body(value))
    pipeline.execute()


def publish_later(value: int, delay_s: float) -> None:
    """Put a message where it waits for its time."""
    _client.zadd(_DELAYED, {_body(value): (time.time() + delay_s) * 1000})


def _body(value: int) -> str:
    return json.dumps({"id": os.urandom(16).hex(), "topic": "plain", "data": value})


def _handle(bodies: Iterable[bytes]) -> None:
    for body in bodies:
        page.done(json.loads(body)["data"])


if __name__ == "__main__":
    {"batch": batch, "single": single, "stream": stream}[_VARIANT]()
