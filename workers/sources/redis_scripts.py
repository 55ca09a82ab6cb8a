"""The Lua of a Redis queue, and the names of its keys.

Each script is one transaction on the server and goes by the server's clock. A topic has five keys:

* `mq:TOPIC`: a list of raw messages that nobody has tried; taken from the right.
* `mq:TOPIC:delayed`: a sorted set of what waits for its time, or was tried before. The score is
  the time in milliseconds.
* `mq:TOPIC:lease`: a sorted set, the only record of what is in flight. The score is when it ends.
* `mq:TOPIC:dead`: a list of JSON objects, the newest on the left.
* `mq:TOPIC:paused`: there while the topic is paused.

A member of the two sets is a line, then the raw message. The line keeps what is known about it
and makes it differ from another message with the same text:

    delayed:  ATTEMPTS FAILURES CRASHES SUSPECT ID
    lease:    ATTEMPTS FAILURES CRASHES SUSPECT ID NUMBER OWNER

The id is given by the first claim, or by `publish` with a delay, and stays: what says no id itself
is known by it. What somebody else has put among the delayed ones without such a line has never been
tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final


def ready(topic: str) -> str:
    """Name the list of what nobody has tried."""
    return f"mq:{topic}"


def delayed(topic: str) -> str:
    """Name the set of what waits for its time."""
    return f"mq:{topic}:delayed"


def lease(topic: str) -> str:
    """Name the set of what is in flight."""
    return f"mq:{topic}:lease"


def dead(queue: str) -> str:
    """Name the list of dead letters."""
    return f"mq:{queue}:dead"


def paused(topic: str) -> str:
    """Name the mark of a pause."""
    return f"mq:{topic}:paused"


def bell(topic: str) -> str:
    """Name the channel on which a publisher says that something is due sooner than was known."""
    return f"mq:{topic}:bell"


def places(topics: Iterable[str]) -> list[str]:
    """Give the keys that `CLAIM`, `RETURN` and `FREE` work on, three for each topic."""
    return [key for topic in topics for key in (ready(topic), delayed(topic), lease(topic))]


def kinds(names: Iterable[str]) -> dict[str, str]:
    """Give the type of each key of these topics, or of the names of dead letters."""
    return {
        key: kind
        for name in names
        for key, kind in (
            *zip(places([name]), ("list", "zset", "zset"), strict=True),
            (dead(name), "list"),
            (paused(name), "string"),
        )
    }


COMMON: Final = """
local UNTRIED = '0 0 0 0'

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Refuse to begin where another program has one of the keys: a script that fails half-way has
-- removed, and not put back.
local function must_be(kind, ...)
    for _, key in ipairs({...}) do
        local found = redis.call('TYPE', key).ok
        if found ~= kind and found ~= 'none' then
            local words = ' is a %s, and no %s: another program uses that name'
            error(key .. string.format(words, found, kind), 0)
        end
    end
end

-- Split a member of the sets into its counters, its id, the rest of its line, and the raw message.
local function parts(member)
    local counters, id, rest, raw =
        string.match(member, '^(%d+ %d+ %d+ [01]) ([^ \\n]+)([^\\n]*)\\n(.*)$')
    if counters then return counters, id, rest, raw end
    return UNTRIED, nil, '', member
end

-- Give the counters of a suspect after a crash, and the delay in ms. One that was a suspect before
-- ran alone, so that it was its crash; `delays` are those after the first ones.
local function after_crash(counters, delays)
    local tries, crashes, was = string.match(counters, '(%d+ %d+) (%d+) (%d)')
    crashes = crashes + was
    return tries .. ' ' .. string.format('%d', crashes) .. ' 1', was == '1' and delays[crashes] or 0
end

local function numbers(words)
    local found = {}
    for word in string.gmatch(words, '%d+') do found[#found + 1] = tonumber(word) end
    return found
end
"""
"""What the scripts of lists and of streams share."""

_SHARED: Final = (
    COMMON
    + """
local function look_at(topic)
    must_be('list', KEYS[topic * 3 - 2])
    must_be('zset', KEYS[topic * 3 - 1], KEYS[topic * 3])
end

local function put_among(delayed, counters, id, raw, due)
    redis.call('ZADD', delayed, due, counters .. ' ' .. id .. '\\n' .. raw)
end
"""
)

CLAIM: Final = (
    _SHARED
    + """
-- KEYS: three for each topic, then the mark of a pause for each.
-- ARGV: owner, lease in ms, limit, the first number, how ids given now begin, and the share of each
-- topic.
-- Gives: milliseconds until something is due, or -1; 1 for each topic that is paused, else 0; and
-- what was taken, in groups: the number of a topic, then counters, id and raw text of each message
-- that was tried or delayed, then the raw texts of those that were not. In this order they have
-- their numbers, and those without an id the ids that come of these.
local lease_ms, limit, number = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local topics, at, count = #ARGV - 5, now(), 0
local taken, pauses, rich, next_due = {}, {}, {}, nil
local ends, tail, untried = at + lease_ms, ' ' .. ARGV[1] .. '\\n', UNTRIED .. ' ' .. ARGV[5] .. '-'

-- Take leases in few calls: each has its price, and only so many arguments.
local function lease(key, members)
    for first = 1, #members, 2000 do
        redis.call('ZADD', key, unpack(members, first, math.min(first + 1999, #members)))
    end
end

local function take(topic, wanted)
    if wanted <= 0 then return 0 end
    look_at(topic)
    local ready, delayed, members = KEYS[topic * 3 - 2], KEYS[topic * 3 - 1], {}
    local function hold(line, raw)
        members[#members + 1] = ends
        members[#members + 1] = line .. tail .. raw
        number = number + 1
    end
    local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', at, 'LIMIT', 0, wanted)
    local tried = {}
    for _, member in ipairs(due) do
        local counters, id, _, raw = parts(member)
        redis.call('ZREM', delayed, member)
        id = id or string.format('%s-%010d', ARGV[5], number)
        hold(string.format('%s %s %d', counters, id, number), raw)
        tried[#tried + 1] = {counters, id, raw}
    end
    local fresh = {}
    if #due < wanted then fresh = redis.call('RPOP', ready, wanted - #due) or {} end
    for _, raw in ipairs(fresh) do
        hold(untried .. string.format('%010d %d', number, number), raw)
    end
    lease(KEYS[topic * 3], members)
    if #members > 0 then taken[#taken + 1] = {topic, tried, fresh} end
    count = count + #due + #fresh
    return #due + #fresh
end

for topic = 1, topics do
    pauses[topic] = redis.call('EXISTS', KEYS[topics * 3 + topic])
    if pauses[topic] == 0 then
        local wanted = math.min(tonumber(ARGV[topic + 5]), limit - count)
        if take(topic, wanted) == wanted then rich[#rich + 1] = topic end
    end
end
for _, topic in ipairs(rich) do take(topic, limit - count) end
if count < limit then
    for topic = 1, topics do
        local first = redis.call('ZRANGE', KEYS[topic * 3 - 1], 0, 0, 'WITHSCORES')[2]
        if first and pauses[topic] == 0 then
            next_due = math.min(next_due or math.huge, tonumber(first))
        end
    end
end
return {next_due and math.max(0, math.ceil(next_due - at)) or -1, pauses, taken}
"""
)

SWEEP: Final = (
    _SHARED
    + """
-- KEYS: three for each topic. ARGV: the bell of each. Frees leases that nobody has renewed: of a
-- host, or a supervisor, that is no more. What somebody else has put there is a message too.
local at = now()
for topic = 1, #ARGV do
    local delayed, leases = KEYS[topic * 3 - 1], KEYS[topic * 3]
    look_at(topic)
    local ended = redis.call('ZRANGEBYSCORE', leases, '-inf', '(' .. at, 'LIMIT', 0, 100)
    for _, member in ipairs(ended) do
        local counters, id, _, raw = parts(member)
        redis.call('ZREM', leases, member)
        if id then
            put_among(delayed, counters, id, raw, at)
        else
            redis.call('RPUSH', KEYS[topic * 3 - 2], raw)
        end
    end
    if #ended > 0 then redis.call('PUBLISH', ARGV[topic], '') end
end
"""
)

RETURN: Final = (
    _SHARED
    + """
-- KEYS: three for each topic. ARGV: for each message the number of its topic, its member in the
-- set of leases, its counters, and the delay in ms. What must come first again comes last.
for topic = 1, #KEYS / 3 do look_at(topic) end
for index = 1, #ARGV, 4 do
    local topic, member, delay = tonumber(ARGV[index]), ARGV[index + 1], tonumber(ARGV[index + 3])
    if redis.call('ZREM', KEYS[topic * 3], member) == 1 then
        local _, id, _, raw = parts(member)
        if delay == 0 and ARGV[index + 2] == UNTRIED then
            redis.call('RPUSH', KEYS[topic * 3 - 2], raw)
        else
            put_among(KEYS[topic * 3 - 1], ARGV[index + 2], id, raw, now() + delay)
        end
    end
end
"""
)

FREE: Final = (
    _SHARED
    + """
-- KEYS: three for each topic. ARGV: an owner, or how its name begins; whether it is the whole
-- name; an owner who is spared; the delays after lone crashes; how many suspects there are; their
-- numbers; numbers to be spared. Gives how many were freed.
local name, whole, spared, delays = ARGV[1], ARGV[2] == '1', ARGV[3], numbers(ARGV[4])
local suspects, at = tonumber(ARGV[5]), now()
local is_suspect, is_spared, freed = {}, {}, 0
for index = 6, #ARGV do
    local known = index <= 5 + suspects and is_suspect or is_spared
    known[ARGV[index]] = true
end
local function wanted(number, owner)
    if owner == spared or is_spared[number] then return false end
    return owner == name or not whole and string.sub(owner, 1, #name) == name
end
for topic = 1, #KEYS / 3 do look_at(topic) end
for topic = 1, #KEYS / 3 do
    local found = {}
    for _, member in ipairs(redis.call('ZRANGE', KEYS[topic * 3], 0, -1)) do
        local counters, id, rest, raw = parts(member)
        local number, owner = string.match(rest, '^ (%d+) (.*)$')
        if number and wanted(number, owner) then
            local delay = 0
            if is_suspect[number] then counters, delay = after_crash(counters, delays) end
            redis.call('ZREM', KEYS[topic * 3], member)
            found[#found + 1] = {tonumber(number), counters, id, raw, delay}
        end
    end
    table.sort(found, function(one, other) return one[1] < other[1] end)
    for place, one in ipairs(found) do
        -- Less than a millisecond apart: they come in this order, and all of them now.
        local due = at - (#found - place) / 1024 + one[5]
        put_among(KEYS[topic * 3 - 1], one[2], one[3], one[4], due)
    end
    freed = freed + #found
end
return freed
"""
)

EXTEND: Final = (
    _SHARED
    + """
-- KEYS: the leases of each topic. ARGV: lease in ms; for each message the number of its topic, and
-- its member. Gives for each message 1 when the lease was ours still.
local kept, ends = {}, now() + tonumber(ARGV[1])
for index = 2, #ARGV, 2 do
    local key, member = KEYS[tonumber(ARGV[index])], ARGV[index + 1]
    -- First a removal: it needs no memory, and after a write no lack of it stops a script.
    local ours = redis.call('ZREM', key, member)
    if ours == 1 then redis.call('ZADD', key, ends, member) end
    kept[#kept + 1] = ours
end
return kept
"""
)

ACK: Final = """
-- KEYS: the leases of each topic. ARGV: for each message the number of its topic, and its member.
-- A script and no MULTI, which a server without memory refuses, whatever is in it.
for index = 1, #ARGV, 2 do redis.call('ZREM', KEYS[tonumber(ARGV[index])], ARGV[index + 1]) end
"""

BURY: Final = (
    COMMON
    + """
-- KEYS: for each message the leases of its topic, and the dead letters. ARGV: for each message its
-- member, and the letter. Who has lost the lease buries nothing.
for index = 2, #KEYS, 2 do must_be('list', KEYS[index]) end
for index = 1, #ARGV, 2 do
    if redis.call('ZREM', KEYS[index], ARGV[index]) == 1 then
        redis.call('LPUSH', KEYS[index + 1], ARGV[index + 1])
    end
end
"""
)

DELAY: Final = (
    _SHARED
    + """
-- KEYS: the delayed ones of a topic. ARGV: the channel of its bell, the delay in ms, a nonce, and
-- the raw messages.
local due = now() + tonumber(ARGV[2])
for index = 4, #ARGV do
    local line = string.format('%s %s-%06d\\n', UNTRIED, ARGV[3], index)
    redis.call('ZADD', KEYS[1], due, line .. ARGV[index])
end
redis.call('PUBLISH', ARGV[1], '')
"""
)

BACKLOG: Final = (
    _SHARED
    + """
-- KEYS: three for each topic, then the mark of a pause for each. Gives what is due and free.
local topics, at, waiting = #KEYS / 4, now(), 0
for topic = 1, topics do
    if redis.call('EXISTS', KEYS[topics * 3 + topic]) == 0 then
        waiting = waiting + redis.call('LLEN', KEYS[topic * 3 - 2])
            + redis.call('ZCOUNT', KEYS[topic * 3 - 1], '-inf', at)
    end
end
return waiting
"""
)

DEPTH: Final = (
    _SHARED
    + """
-- KEYS: ready, delayed, leases, dead letters, mark of a pause. Gives how many are ready or due,
-- delayed, leased, dead; whether it is paused; the age in ms of what is due longest, or -1; and the
-- message that is taken next from the list.
local at = now()
local due = redis.call('ZCOUNT', KEYS[2], '-inf', at)
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
return {
    redis.call('LLEN', KEYS[1]) + due, redis.call('ZCARD', KEYS[2]) - due,
    redis.call('ZCARD', KEYS[3]), redis.call('LLEN', KEYS[4]), redis.call('EXISTS', KEYS[5]),
    due > 0 and math.floor(at - tonumber(first)) or -1, redis.call('LINDEX', KEYS[1], -1),
}
"""
)

TAKE_OUT: Final = (
    COMMON
    + """
-- KEYS: a list of dead letters; for a replay, for each letter where its topic lies. ARGV:
-- a mark that no letter is; the group of a stream that it is for, as others have done with it; for
-- each letter, from the right to the left, how many were to its right, the letter, and its raw
-- message. Gives how many were there.
-- They are marked first and removed in one go: to remove one is to walk through the list.
local mark, replayed, marked, shift = ARGV[1], #KEYS > 1, 0, 0
must_be(ARGV[2] == '' and 'list' or 'stream', unpack(KEYS, 2))
redis.call('LTRIM', KEYS[1], 0, -1)  -- After a write no lack of memory stops a script half-way.
for letter = 1, (#ARGV - 2) / 3 do
    local place, text, raw = tonumber(ARGV[letter * 3]), ARGV[letter * 3 + 1], ARGV[letter * 3 + 2]
    local index, is_there = shift - place - 1, true
    if redis.call('LINDEX', KEYS[1], index) == text then
        redis.call('LSET', KEYS[1], index, mark)
        marked = marked + 1
    elseif redis.call('LREM', KEYS[1], -1, text) == 1 then
        shift = shift + 1
    else
        is_there = false
    end
    if is_there and replayed and ARGV[2] == '' then
        redis.call('LPUSH', KEYS[letter + 1], raw)
    elseif is_there and replayed then
        redis.call('XADD', KEYS[letter + 1], '*', 'body', raw, 'for', ARGV[2])
    end
end
if marked > 0 then redis.call('LREM', KEYS[1], -marked, mark) end
return marked + shift
"""
)

PURGE: Final = """
-- KEYS: ready, delayed. ARGV: how many at most. Gives how many were deleted.
local most, deleted = tonumber(ARGV[1]), 0
local function some_of(number) return math.min(number, most - deleted) end
local fresh = some_of(redis.call('LLEN', KEYS[1]))
if fresh > 0 then redis.call('LTRIM', KEYS[1], 0, -1 - fresh) end
deleted = fresh
local waiting = some_of(redis.call('ZCARD', KEYS[2]))
if waiting > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, waiting - 1) end
return deleted + waiting
"""
