"""The rate of a job whose messages lie in Redis: one cell for the processes of all its hosts.

`mq:rate:JOB` holds `AT DEBT`: the server's time in microseconds, and by how many nanoseconds the
next call would then be due later than at once, if all came evenly. It is what `workers.ratelimit`
keeps in a cell, and goes away by itself when there is no debt any more.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from workers.sources.redis_server import RedisServer
from workers.sources.source import SourceTrouble

TAKE: Final = """
-- KEYS: the cell. ARGV: the nanoseconds between two calls, how many may come at once, how many are
-- wanted, how many that were granted before did not begin.
-- Gives how many may begin, and the microseconds until half of what may come at once is there.
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, unused = tonumber(ARGV[3]), tonumber(ARGV[4])
local time, most = redis.call('TIME'), burst * interval
local now = time[1] * 1000000 + time[2]
local at, debt = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
debt = at and debt - (now - at) * 1000 - unused * interval or 0
-- More than this limit can owe was left by a slower one, or by a clock that has gone back.
if debt < 0 or debt > most then debt = 0 end
local granted = math.min(wanted, math.floor((most - debt) / interval))
debt = debt + granted * interval
if granted + unused > 0 then
    redis.call('DEL', KEYS[1])  -- After a write no lack of memory stops a script.
    redis.call('SET', KEYS[1], string.format('%.0f %.0f', now, debt))
    redis.call('PEXPIRE', KEYS[1], math.ceil(debt / 1000000) + 1)
end
local worth = math.max(1, math.floor(burst / 2))
return {granted, math.max(0, math.ceil((debt + worth * interval - most) / 1000))}
"""


class RedisMeter:
    """The Meter of a job at `redis://HOST:PORT/DATABASE`; a job of this name elsewhere shares it.

    `interval` is in nanoseconds, `burst` in calls.
    """

    def __init__(self, url: str, job: str, *, interval: int, burst: int, io_timeout: float) -> None:
        self._server = RedisServer(url, io_timeout=io_timeout)
        self._key = f"mq:rate:{job}"
        self._interval = interval
        self._burst = burst

    def open(self) -> None:
        """See that the cell is no key of another program."""
        self._server.check({self._key: "string"})

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def take(self, wanted: int) -> tuple[int, float]:
        """Take in one script, by the server's clock."""
        granted, wait_us = self._take(wanted, 0)
        return granted, wait_us / 1e6

    def give_back(self, unused: int) -> None:
        """Give it back once: what is lost with an answer is rather not called at all."""
        if unused:
            with suppress(SourceTrouble):  # the next call says it
                self._take(0, unused)

    def _take(self, wanted: int, unused: int) -> tuple[int, int]:
        limit = (self._interval, self._burst)
        granted, wait_us = self._server.run(TAKE, [self._key], *limit, wanted, unused)
        return int(granted), int(wait_us)
