"""The other side of a stream in Redis: those who publish, and those who look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from workers.sources import redis_letters
from workers.sources import redis_scripts as keys
from workers.sources import redis_stream_scripts as scripts
from workers.sources.desk import Depth, Letter
from workers.sources.redis_desk import RedisDesk

_DEPTH: Final = (
    scripts.SHARED
    + """
-- KEYS: four of the topic, dead letters, mark of a pause. ARGV: group. Gives how many are ready or
-- due, delayed, leased, dead; whether it is paused; the age in ms of the oldest that waits, or -1.
local function age_of(id, at) return at - tonumber(string.match(id, '^%d+')) end

local stream, delayed, again, at = KEYS[1], KEYS[2], KEYS[3], now()
local fresh, first = unread(stream, ARGV[1])
local due_later = redis.call('ZCOUNT', delayed, '-inf', at)
local due_again = redis.call('ZCOUNT', again, '-inf', at)
local back = redis.call('ZCARD', again)
local known, age = group_of(stream, ARGV[1]), -1
if first then age = math.max(age, age_of(first, at)) end
if due_later > 0 then
    age = math.max(age, math.floor(at - redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]))
end
if due_again > 0 then
    age = math.max(age, age_of(unpad(redis.call('ZRANGE', again, 0, 0)[1]), at))
end
return {
    fresh + due_later + due_again, redis.call('ZCARD', delayed) - due_later + back - due_again,
    known and math.max(0, known.pending - back) or 0, redis.call('LLEN', KEYS[5]),
    redis.call('EXISTS', KEYS[6]), age,
}
"""
)

_SKIP: Final = (
    scripts.SHARED
    + """
-- KEYS: four of the topic. ARGV: group. Lets the group go on after the last entry that there is.
-- Gives how many it does not get.
local stream, group = KEYS[1], ARGV[1]
local skipped = unread(stream, group)
if skipped > 0 then grouped(stream, group, 'XGROUP', 'SETID', stream, group, '$') end
return skipped
"""
)

_PURGE: Final = (
    scripts.SHARED
    + """
-- KEYS: four of the topic. ARGV: group, how many at most. Gives how many were deleted of those that
-- wait for their time, or again.
local stream, delayed, again, work = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, most = ARGV[1], tonumber(ARGV[2])
local back = redis.call('ZRANGE', again, 0, most - 1)
for _, member in ipairs(back) do
    redis.call('ZREM', again, member)
    settle(stream, group, work, unpad(member))
end
local later = math.min(redis.call('ZCARD', delayed), most - #back)
if later > 0 then redis.call('ZREMRANGEBYRANK', delayed, 0, later - 1) end
return #back + later
"""
)


class StreamDesk(RedisDesk):
    """The desk of a consumer group, over the streams that its job lists.

    Every call may raise SourceTrouble. Who only publishes needs no group.
    """

    def __init__(
        self, url: str, topics: Iterable[str], *, group: str = "", io_timeout: float
    ) -> None:
        super().__init__(url, topics, io_timeout=io_timeout)
        self._group = group

    def purge(self, topic: str) -> int:
        """Let the group go on behind all that waits, and delete what waits for its time."""
        places = scripts.places([topic], self._group)
        left = self._depth(topic)
        skipped = int(self._server.run(_SKIP, places, self._group))
        most = left.depth + left.delayed - skipped
        return skipped + self._delete(most, _PURGE, places, self._group)

    def _kinds(self) -> Mapping[str, str]:
        return scripts.kinds(self._topics, self._group)

    def _add(self, topic: str, bodies: list[bytes]) -> None:
        commands = [("XADD", topic, "*", "body", body) for body in bodies]
        if len(commands) == 1:
            self._server.do(*commands[0])
        else:
            self._server.do_all(commands)

    def _depth(self, topic: str) -> Depth:
        names = [*scripts.places([topic], self._group), keys.dead(topic), keys.paused(topic)]
        depth, delayed, leased, dead, paused, age_ms = self._server.run(_DEPTH, names, self._group)
        age_s = age_ms / 1000 if age_ms >= 0 else None
        return Depth(topic, depth, delayed, leased, dead, age_s, bool(paused))

    @staticmethod
    def _place(topic: str) -> str:
        return topic

    def _letters(self, name: str) -> Iterator[tuple[int, bytes, Letter]]:
        for found in super()._letters(name):
            if redis_letters.group_of(found[1]) == self._group:
                yield found
