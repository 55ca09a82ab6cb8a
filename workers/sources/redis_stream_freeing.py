"""The Lua that frees what a consumer of a stream held: one that is dead, or renews nothing."""

from __future__ import annotations

from typing import Final

from workers.sources import redis_stream_scripts as scripts

HELD: Final = (
    scripts.SHARED
    + """
-- KEYS: four for each topic. ARGV: group, an owner. Gives the number of the topic and the id of all
-- that the owner holds.
local found = {}
for topic = 1, #KEYS / 4 do
    local stream = KEYS[topic * 4 - 3]
    if group_of(stream, ARGV[1]) then
        for _, known in ipairs(maps(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1]))) do
            if string.match(known.name, '^(.*) %d+ms$') == ARGV[2] then
                for _, pending in ipairs(redis.call(
                    'XPENDING', stream, ARGV[1], '-', '+', known.pending + 1, known.name)) do
                    found[#found + 1] = {topic, pending[1]}
                end
            end
        end
    end
end
return found
"""
)

_FREE: Final = """
-- Free what a consumer holds, save what is spared, and forget a consumer that holds nothing.
local function free(stream, again, work, group, consumer, suspects, spared, delays)
    local start, freed = '-', 0
    repeat
        local page = redis.call('XPENDING', stream, group, start, '+', 500, consumer)
        for _, pending in ipairs(page) do
            local id = pending[1]
            start = '(' .. id
            if not spared[id] then
                local counters = redis.call('HGET', work, id) or UNTRIED
                local delay = 0
                if suspects[id] then counters, delay = after_crash(counters, delays) end
                local due = delay > 0 and now() + delay or 0
                put_back(stream, again, work, group, id, counters, due)
                freed = freed + 1
            end
        end
    until #page < 500
    if #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
    end
    return freed
end
"""

FREE: Final = (
    scripts.SHARED
    + _FREE
    + """
-- KEYS: four for each topic. ARGV: group; an owner, or how its name begins; whether it is the whole
-- name; a consumer who is spared; the delays after lone crashes; how many suspects there are; the
-- bell of each topic; the number of its topic and its id for each suspect, then for each message
-- that is spared.
-- Gives how many were freed.
local group, name, whole, other = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local topics, delays, suspects, spared, freed = #KEYS / 4, numbers(ARGV[5]), {}, {}, 0
for topic = 1, topics do suspects[topic], spared[topic] = {}, {} end
for index = 7 + topics, #ARGV, 2 do
    local is_suspect = index < 7 + topics + 2 * tonumber(ARGV[6])
    local known = is_suspect and suspects or spared
    known[tonumber(ARGV[index])][ARGV[index + 1]] = true
end
local function is_wanted(consumer)
    local owner = string.match(consumer, '^(.*) %d+ms$')
    if not owner or consumer == other then return false end
    return owner == name or not whole and string.sub(owner, 1, #name) == name
end
for topic = 1, topics do
    look_at(unpack(KEYS, topic * 4 - 3, topic * 4))
    local stream, again, work = KEYS[topic * 4 - 3], KEYS[topic * 4 - 1], KEYS[topic * 4]
    if group_of(stream, group) then
        local before = freed
        for _, known in ipairs(maps(redis.call('XINFO', 'CONSUMERS', stream, group))) do
            if is_wanted(known.name) then
                freed = freed + free(
                    stream, again, work, group, known.name, suspects[topic], spared[topic],
                    delays)
            end
        end
        if freed > before then redis.call('PUBLISH', ARGV[6 + topic], '') end
    end
end
return freed
"""
)

SWEEP: Final = (
    scripts.SHARED
    + _FREE
    + """
-- KEYS: four for each topic. ARGV: group, our lease in ms; the bell of each topic; for each topic
-- where the last look has ended. Frees what nobody has renewed: of a host, or a supervisor, that is
-- no more. Gives where each look has ended.
local group, topics, cursors = ARGV[1], #KEYS / 4, {}

local function successor(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    if #seq > 15 then return id end
    return ms .. '-' .. string.format('%.0f', seq + 1)
end

-- Delete what every group has settled.
local function trim(stream)
    local least = nil
    for _, known in ipairs(groups(stream)) do
        local id = successor(known['last-delivered-id'])
        if known.pending > 0 then id = redis.call('XPENDING', stream, known.name)[2] end
        if not least or pad(id) < pad(least) then least = id end
    end
    if least then redis.call('XTRIM', stream, 'MINID', '=', least) end
end

for topic = 1, topics do
    local stream, again, work = KEYS[topic * 4 - 3], KEYS[topic * 4 - 1], KEYS[topic * 4]
    local longest, freed, cursor = tonumber(ARGV[2]), 0, '0-0'
    look_at(unpack(KEYS, topic * 4 - 3, topic * 4))
    if group_of(stream, group) then
        -- Who has renewed nothing for his own lease holds nothing any more.
        for _, known in ipairs(maps(redis.call('XINFO', 'CONSUMERS', stream, group))) do
            local lease = tonumber(string.match(known.name, ' (%d+)ms$'))
            if lease and known.pending > 0 then
                if known.idle >= lease then
                    freed = freed + free(stream, again, work, group, known.name, {}, {}, {})
                end
                longest = math.max(longest, lease)
            end
        end
        -- Nor does anybody hold what is older than the longest lease: of a stranger in the group.
        local answer = redis.call(
            'XAUTOCLAIM', stream, group, 'waiting', longest, ARGV[2 + topics + topic],
            'COUNT', 100, 'JUSTID')
        cursor = answer[1]
        for _, id in ipairs(answer[2]) do
            if not redis.call('ZSCORE', again, pad(id)) then
                redis.call('ZADD', again, 0, pad(id))
                freed = freed + 1
            end
        end
        for _, id in ipairs(answer[3] or {}) do
            redis.call('ZREM', again, pad(id))
            redis.call('HDEL', work, id)
        end
        trim(stream)
    end
    if freed > 0 then redis.call('PUBLISH', ARGV[2 + topic], '') end
    cursors[topic] = cursor
end
return cursors
"""
)
