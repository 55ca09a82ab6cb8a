"""The Lua of a Redis stream with its consumer group, and the names of its keys.

Each script is one transaction on the server and goes by the server's clock. Beside the stream
itself, whose key is the name of the topic:

* `mq:TOPIC:delayed`: a sorted set of what was published for later, as beside a list; it is added
  to the stream when its time comes.
* `mq:TOPIC:again:GROUP`: a sorted set of the ids of entries that went back; the score is the time
  in milliseconds when they are due, 0 at once.
* `mq:TOPIC:work:GROUP`: a hash from such an id to `ATTEMPTS FAILURES CRASHES SUSPECT`, of those
  that were tried.
* `mq:TOPIC:dead`, `mq:TOPIC:paused`: as beside a list.

What is in flight is pending in the group with the consumer `OWNER LEASEms`; the time since it was
claimed or renewed is the age of its lease. What went back is pending with the consumer `waiting`.
Ids of the sorted set are filled up with zeros, so that their order is that of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from workers.sources import redis_scripts as keys


def again(topic: str, group: str) -> str:
    """Name the set of what went back."""
    return f"mq:{topic}:again:{group}"


def work(topic: str, group: str) -> str:
    """Name the hash of what was tried."""
    return f"mq:{topic}:work:{group}"


def consumer(owner: str, lease_ms: int) -> str:
    """Name the consumer of a process; who frees what it held has to know its lease."""
    return f"{owner} {lease_ms}ms"


def places(topics: Iterable[str], group: str) -> list[str]:
    """Give the keys that most scripts work on, four for each topic."""
    return [
        key
        for topic in topics
        for key in (topic, keys.delayed(topic), again(topic, group), work(topic, group))
    ]


def kinds(topics: Iterable[str], group: str) -> dict[str, str]:
    """Give the type of each key of the topics."""
    found: dict[str, str] = {}
    for topic in topics:
        found[topic] = "stream"
        found[keys.delayed(topic)] = found[again(topic, group)] = "zset"
        found[work(topic, group)] = "hash"
        found |= {keys.dead(topic): "list", keys.paused(topic): "string"}
    return found


SHARED: Final = (
    keys.COMMON
    + """
local function look_at(stream, delayed, again, work)
    must_be('stream', stream)
    must_be('zset', delayed, again)
    must_be('hash', work)
end

local function pad(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
end

local function unpad(member)
    local ms, seq = string.match(member, '^0*(%d+)%-0*(%d+)$')
    return ms .. '-' .. seq
end

-- Do something with a group. One that is missing is made, like its stream: it begins with the
-- oldest entry that there is.
local function grouped(stream, group, ...)
    local answer = redis.pcall(...)
    local failed = type(answer) == 'table' and answer.err
    if not failed then return answer end
    if not string.find(failed, 'NOGROUP', 1, true) then error(failed) end
    redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
    return redis.call(...)
end

local function maps(rows)
    for index, row in ipairs(rows) do
        local fields = {}
        for place = 1, #row, 2 do fields[row[place]] = row[place + 1] end
        rows[index] = fields
    end
    return rows
end

local function groups(stream)
    if redis.call('EXISTS', stream) == 0 then return {} end
    return maps(redis.call('XINFO', 'GROUPS', stream))
end

local function group_of(stream, group)
    for _, known in ipairs(groups(stream)) do
        if known.name == group then return known end
    end
end

-- An entry that every group of the stream has settled is of no use to anybody. Where one group is
-- alone, it is deleted at once; where there are more, `trim` looks for it.
local function settle(stream, group, work, ...)
    redis.call('XACK', stream, group, ...)
    redis.call('HDEL', work, ...)
    if #groups(stream) == 1 then redis.call('XDEL', stream, ...) end
end

local function is_held(stream, group, consumer, id)
    return #grouped(stream, group, 'XPENDING', stream, group, id, id, 1, consumer) > 0
end

local function is_less(one, other)
    return #one < #other or #one == #other and one < other
end

-- Give those of the ids that a consumer holds. Mostly they are all that it has between the first
-- and the last of their milliseconds.
local function held(stream, group, consumer, ids)
    local first, last, most, is_ours, ours = nil, nil, #ids * 4 + 16, {}, {}
    for _, id in ipairs(ids) do
        local ms = string.match(id, '^%d+')
        if not first or is_less(ms, first) then first = ms end
        if not last or is_less(last, ms) then last = ms end
    end
    local page = grouped(stream, group, 'XPENDING', stream, group, first, last, most, consumer)
    for _, pending in ipairs(page) do is_ours[pending[1]] = true end
    for _, id in ipairs(ids) do
        if is_ours[id] or #page == most and is_held(stream, group, consumer, id) then
            ours[#ours + 1] = id
        end
    end
    return ours
end

local function put_back(stream, again, work, group, id, counters, due)
    redis.call('XCLAIM', stream, group, 'waiting', 0, id, 'JUSTID')
    if counters == UNTRIED then
        redis.call('HDEL', work, id)
    else
        redis.call('HSET', work, id, counters)
    end
    redis.call('ZADD', again, due, pad(id))
end

-- Count what the group has not been given yet, and give the first of it.
local function unread(stream, group)
    local length = redis.call('XLEN', stream)
    if length == 0 then return 0 end
    local known = group_of(stream, group)
    local from = known and '(' .. known['last-delivered-id'] or '-'
    local first = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if not first then return 0 end
    -- The server does not tell where entries were deleted that nobody had read, or before 7.0.
    local lag = known and (known.lag or length - known.pending) or length
    return math.max(1, math.min(lag, length)), first[1]
end
"""
)

OPEN: Final = (
    SHARED
    + """
-- KEYS: streams. ARGV: for each of them a group.
for index, stream in ipairs(KEYS) do
    if not group_of(stream, ARGV[index]) then
        redis.call('XGROUP', 'CREATE', stream, ARGV[index], '0', 'MKSTREAM')
    end
end
"""
)

CLAIM: Final = (
    SHARED
    + """
-- KEYS: four for each topic, then the mark of a pause for each.
-- ARGV: consumer, group, limit, and the share of each topic.
-- Gives: milliseconds until something is due, or -1; 1 for each topic that is paused, else 0; the
-- last id that each group was given; and what was taken, in groups: the number of a topic, then
-- entries, which are an id and fields, then the counters of each where they were tried or waited.
local MOST_SKIPPED = 1000
local consumer, group, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local topics, at = #ARGV - 3, now()
local taken, pauses, lasts, rich, count, skipped, next_due = {}, {}, {}, {}, 0, 0, nil

local function of(topic)
    return KEYS[topic * 4 - 3], KEYS[topic * 4 - 2], KEYS[topic * 4 - 1], KEYS[topic * 4]
end

local function add_due(stream, delayed, wanted)
    local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', at, 'LIMIT', 0, wanted)
    for _, member in ipairs(due) do
        local _, _, _, raw = parts(member)
        redis.call('ZREM', delayed, member)
        redis.call('XADD', stream, '*', 'body', raw)
    end
end

local function take_again(topic, wanted)
    local stream, _, again, work = of(topic)
    local ids = redis.call('ZRANGEBYSCORE', again, '-inf', at, 'LIMIT', 0, wanted)
    if #ids == 0 then return 0 end
    redis.call('ZREM', again, unpack(ids))
    for index, member in ipairs(ids) do ids[index] = unpad(member) end
    local found, counters, gone = {}, {}, {}
    for _, id in ipairs(ids) do gone[id] = true end
    local entries = grouped(stream, group, 'XCLAIM', stream, group, consumer, 0, unpack(ids))
    for _, entry in ipairs(entries) do
        if entry and entry[2] then
            found[#found + 1] = entry
            counters[#found] = redis.call('HGET', work, entry[1]) or UNTRIED
            gone[entry[1]] = nil
        end
    end
    -- Somebody has deleted these from the stream, or settled them by hand.
    for id in pairs(gone) do settle(stream, group, work, id) end
    taken[#taken + 1] = {topic, found, counters}
    return #found
end

local function is_for_another(fields)
    return #fields == 4 and fields[1] == 'body' and fields[3] == 'for' and fields[4] ~= group
end

-- Settle what is not for this group, and give the rest.
local function ours_of(entries, stream, work)
    local ours, others = {}, 0
    for _, entry in ipairs(entries) do
        if is_for_another(entry[2]) then
            settle(stream, group, work, entry[1])
            others = others + 1
        else
            ours[#ours + 1] = entry
        end
    end
    skipped = skipped + others
    return others > 0 and ours or entries
end

local function take_new(topic, wanted)
    local stream, _, _, work = of(topic)
    local found = 0
    while found < wanted and skipped < MOST_SKIPPED do
        local most = wanted - found
        local answer = grouped(
            stream, group, 'XREADGROUP', 'GROUP', group, consumer, 'COUNT', most,
            'STREAMS', stream, '>')
        local entries = answer and answer[1][2] or {}
        local ours = ours_of(entries, stream, work)
        if #ours > 0 then taken[#taken + 1] = {topic, ours, {}} end
        found = found + #ours
        if #entries < most then break end
    end
    return found
end

local function take(topic, wanted)
    if wanted <= 0 then return 0 end
    look_at(of(topic))
    local stream, delayed = of(topic)
    add_due(stream, delayed, wanted)
    local found = take_again(topic, wanted)
    found = found + take_new(topic, wanted - found)
    count = count + found
    return found
end

for topic = 1, topics do
    pauses[topic] = redis.call('EXISTS', KEYS[topics * 4 + topic])
    if pauses[topic] == 0 then
        local wanted = math.min(tonumber(ARGV[topic + 3]), limit - count)
        if take(topic, wanted) == wanted then rich[#rich + 1] = topic end
    end
end
for _, topic in ipairs(rich) do take(topic, limit - count) end
for topic = 1, topics do
    local stream, delayed, again = of(topic)
    if count < limit then
        local known = group_of(stream, group)
        lasts[topic] = known and known['last-delivered-id'] or '0-0'
    end
    if count < limit and pauses[topic] == 0 then
        for _, set in ipairs({delayed, again}) do
            local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
            if first then next_due = math.min(next_due or math.huge, tonumber(first)) end
        end
    end
end
if skipped >= MOST_SKIPPED then next_due = at end
return {next_due and math.max(0, math.ceil(next_due - at)) or -1, pauses, lasts, taken}
"""
)

SETTLE: Final = (
    SHARED
    + """
-- KEYS: four of the topic. ARGV: consumer, group, the ids. Who has lost the lease settles nothing.
local ids = {}
for index = 3, #ARGV do ids[#ids + 1] = ARGV[index] end
local ours = held(KEYS[1], ARGV[2], ARGV[1], ids)
if #ours > 0 then settle(KEYS[1], ARGV[2], KEYS[4], unpack(ours)) end
"""
)

BURY: Final = (
    SHARED
    + """
-- KEYS: for each message the four of its topic, and the dead letters. ARGV: consumer, group; for
-- each message its id, and the letter. Who has lost the lease buries nothing.
local consumer, group = ARGV[1], ARGV[2]
for index = 5, #KEYS, 5 do
    look_at(unpack(KEYS, index - 4, index - 1))
    must_be('list', KEYS[index])
end
for index = 1, #KEYS / 5 do
    local stream, work, dead = KEYS[index * 5 - 4], KEYS[index * 5 - 1], KEYS[index * 5]
    local id, letter = ARGV[index * 2 + 1], ARGV[index * 2 + 2]
    if is_held(stream, group, consumer, id) then
        settle(stream, group, work, id)
        redis.call('LPUSH', dead, letter)
    end
end
"""
)

RETURN: Final = (
    SHARED
    + """
-- KEYS: four for each topic. ARGV: consumer, group, the bell of each topic; for each message the
-- number of its topic, its id, its counters, and the delay in ms.
local consumer, group, topics, at = ARGV[1], ARGV[2], #KEYS / 4, now()
local rings = {}
for topic = 1, topics do look_at(unpack(KEYS, topic * 4 - 3, topic * 4)) end
for index = topics + 3, #ARGV, 4 do
    local topic, id, delay = tonumber(ARGV[index]), ARGV[index + 1], tonumber(ARGV[index + 3])
    local stream, again, work = KEYS[topic * 4 - 3], KEYS[topic * 4 - 1], KEYS[topic * 4]
    if is_held(stream, group, consumer, id) then
        local due = delay > 0 and at + delay or 0
        put_back(stream, again, work, group, id, ARGV[index + 2], due)
        rings[topic] = rings[topic] or due == 0
    end
end
for topic, rings_now in pairs(rings) do
    if rings_now then redis.call('PUBLISH', ARGV[topic + 2], '') end
end
"""
)

EXTEND: Final = (
    SHARED
    + """
-- KEYS: four of the topic. ARGV: consumer, group, the ids. Gives those whose lease was ours still.
local stream, consumer, group, ids = KEYS[1], ARGV[1], ARGV[2], {}
for index = 3, #ARGV do ids[#ids + 1] = ARGV[index] end
local ours = held(stream, group, consumer, ids)
if #ours == 0 then return ours end
-- JUSTID: it counts as no delivery.
ours[#ours + 1] = 'JUSTID'
redis.call('XCLAIM', stream, group, consumer, 0, unpack(ours))
ours[#ours] = nil
return ours
"""
)

BACKLOG: Final = (
    SHARED
    + """
-- KEYS: four for each topic, then the mark of a pause for each. ARGV: group. Gives what is due and
-- free.
local topics, at, waiting = #KEYS / 5, now(), 0
for topic = 1, topics do
    if redis.call('EXISTS', KEYS[topics * 4 + topic]) == 0 then
        waiting = waiting + unread(KEYS[topic * 4 - 3], ARGV[1])
            + redis.call('ZCOUNT', KEYS[topic * 4 - 2], '-inf', at)
            + redis.call('ZCOUNT', KEYS[topic * 4 - 1], '-inf', at)
    end
end
return waiting
"""
)
