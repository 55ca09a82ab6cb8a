"""Which messages were handled already, in a Redis that several hosts may share.

A key is a string of its own: the name of its owner while a handler works on it, for the time of a
lease; nothing once it is done, for the time that keys are remembered. The server forgets both by
its own clock. What the processes of a slot have claimed stands in one set beside them, so that a
dead one's claims are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from workers.sources.keys import Claim, Key
from workers.sources.redis_server import RedisServer

_SHARED: Final = """
-- KEYS: the claims of the slot, then the keys. ARGV: the owner, a time in ms.
local owner = ARGV[1]
local function member(key) return owner .. '\\n' .. key end
"""

_CLAIM: Final = (
    _SHARED
    + """
-- Gives for each key nil when it is ours now, else who has it, or nothing for one that is done.
local found = {}
for index = 2, #KEYS do
    local holder = redis.call('GET', KEYS[index])
    if not holder then
        redis.call('SET', KEYS[index], owner, 'PX', ARGV[2])
        redis.call('SADD', KEYS[1], member(KEYS[index]))
    end
    found[index - 1] = holder
end
return found
"""
)

_EXTEND: Final = (
    _SHARED
    + """
for index = 2, #KEYS do
    if redis.call('GET', KEYS[index]) == owner then redis.call('PEXPIRE', KEYS[index], ARGV[2]) end
end
"""
)

_DONE: Final = (
    _SHARED
    + """
for index = 2, #KEYS do
    if tonumber(ARGV[2]) > 0 then
        redis.call('SET', KEYS[index], '', 'PX', ARGV[2])
    else
        redis.call('DEL', KEYS[index])
    end
    redis.call('SREM', KEYS[1], member(KEYS[index]))
end
"""
)

_RELEASE: Final = (
    _SHARED
    + """
for index = 2, #KEYS do
    if redis.call('GET', KEYS[index]) == owner then redis.call('DEL', KEYS[index]) end
    redis.call('SREM', KEYS[1], member(KEYS[index]))
end
"""
)

_RELEASE_DEAD: Final = """
-- KEYS: the claims of the slot. ARGV: a dead owner, or '' for all; an owner who is spared.
for _, claim in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local owner, key = string.match(claim, '^([^\\n]*)\\n(.*)$')
    if owner ~= ARGV[2] and (ARGV[1] == '' or owner == ARGV[1]) then
        if redis.call('GET', key) == owner then redis.call('DEL', key) end
        redis.call('SREM', KEYS[1], claim)
    end
end
"""


class RedisKeys:
    """The Keys of `redis://HOST:PORT/DATABASE`."""

    def __init__(
        self, url: str, owner: str, *, lease_s: float, ttl_s: float, io_timeout: float
    ) -> None:
        self._server = RedisServer(url, io_timeout=io_timeout)
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._ttl_ms = int(ttl_s * 1000)

    def open(self) -> None:
        """See that the server is there."""
        self._server.do("PING")

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def claim(self, keys: Sequence[Key]) -> list[Claim]:
        """Claim in one script; a key that is wanted twice is busy for the second."""
        return [
            Claim.MINE if holder is None else Claim.BUSY if holder else Claim.DONE
            for holder in self._run(_CLAIM, keys, self._lease_ms)
        ]

    def extend(self, keys: Iterable[Key]) -> None:
        """Move the end of own claims."""
        self._run(_EXTEND, keys, self._lease_ms)

    def done(self, keys: Iterable[Key]) -> None:
        """Write the keys down."""
        self._run(_DONE, keys, self._ttl_ms)

    def release(self, keys: Iterable[Key]) -> None:
        """Delete own claims."""
        self._run(_RELEASE, keys, 0)

    def release_owner(self, owner: str) -> None:
        """Delete the claims of one dead process."""
        self._server.run(_RELEASE_DEAD, [_claims(owner)], owner, "")

    def release_seat(self, seat: str) -> None:
        """Delete the claims of earlier processes of the own slot."""
        self._server.run(_RELEASE_DEAD, [_claims(seat)], "", self._owner)

    def _run(self, script: str, keys: Iterable[Key], milliseconds: int) -> list[bytes | None]:
        names = [f"mq:once:{scope}:{key}" for scope, key in keys]
        if not names:
            return []
        found = self._server.run(script, [_claims(self._owner), *names], self._owner, milliseconds)
        return found or []


def _claims(owner: str) -> str:
    """Name the set of what the processes of an owner's slot have claimed."""
    return f"mq:once:{owner.rpartition('/')[0]}/"
