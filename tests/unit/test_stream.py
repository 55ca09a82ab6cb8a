"""What waits for a follower: bounded, in order, and every drop counted at its place."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor import protocol
from supervisor.followers import Followers
from supervisor.stream import WAITING_BYTES, Stream


def nothing() -> None:
    """Wake nobody."""


def read(stream: Stream) -> list[dict[str, Any]]:
    """Take all that waits, as a follower gets it."""
    found: list[dict[str, Any]] = []
    while taken := stream.take():
        assert taken.endswith(b"\n"), "whole items only"
        found += [json.loads(line) for line in taken.splitlines()]
    return found


def item(number: int, size: int = 1000) -> bytes:
    return protocol.encode({"number": number, "pad": "x" * size})


@given(st.lists(st.one_of(st.integers(1, 60), st.none()), max_size=60))
def test_every_item_arrives_in_order_or_is_counted(steps: list[int | None]) -> None:
    stream = Stream(nothing)
    number, expected = 0, 0
    arrived: list[dict[str, Any]] = []
    for step in steps:
        if step is None:
            taken = stream.take()
            arrived += [json.loads(line) for line in taken.splitlines()]
        else:
            for _ in range(step):
                stream.put(item(number), 1)
                number += 1
        assert len(stream) <= WAITING_BYTES + 2000
    stream.end("over")
    arrived += read(stream)
    assert arrived.pop() == {"end": "over", "ok": True}
    for one in arrived:
        if "dropped" in one:
            expected += one["dropped"]
        else:
            assert one["number"] == expected
            expected += 1
    assert expected == number


def test_a_slow_reader_is_told_though_nothing_more_comes() -> None:
    stream = Stream(nothing)
    for number in range(2 * WAITING_BYTES // 1000):
        stream.put(item(number), 1)
    last = read(stream)[-1]
    assert last["dropped"] > 0


def test_after_the_end_nothing_follows() -> None:
    stream = Stream(nothing)
    stream.end("over", cut=True)
    stream.put(item(1), 1)
    stream.end("again")
    assert read(stream) == [{"end": "over", "ok": False}]


def test_an_abandoned_stream_holds_nothing() -> None:
    stream = Stream(nothing)
    stream.put(item(1), 1)
    stream.abandon()
    stream.put(item(2), 1)
    assert len(stream) == 0


def test_lines_go_to_those_who_asked_for_their_process() -> None:
    followers = Followers()
    one, every, new = Stream(nothing), Stream(nothing), Stream(nothing)
    followers.follow_lines(one, ["orders:0"])
    followers.follow_lines(every, ["order*", "master"])
    followers.follow_lines(new, ["orders"])
    followers.lines("orders:0", b"12:00 stdout | ", b"\x1b[31mred\xff\nplain")
    followers.lines("orders:7", b"12:00 stdout | ", b"of a later one")
    followers.lines("master", b"", b"12:01 INFO supervisor | word")
    red, plain = "12:00 stdout | \\u001b[31mred\ufffd", "12:00 stdout | plain"
    assert [found["line"] for found in read(one)] == [red, plain]
    assert [found["name"] for found in read(every)] == ["orders:0"] * 2 + ["orders:7", "master"]
    assert [found["name"] for found in read(new)] == ["orders:0"] * 2 + ["orders:7"]


@given(st.binary(max_size=60))
def test_any_line_is_one_item_without_control_characters(line: bytes) -> None:
    followers, stream = Followers(), Stream(nothing)
    followers.follow_lines(stream, ["a"])
    followers.lines("a:0", b"12:00 stdout | ", line)
    found = read(stream)
    assert len(found) == line.count(b"\n") + 1
    for character in "".join(one["line"] for one in found):
        assert character == "\t" or 0x20 <= ord(character) < 0x7F or ord(character) > 0x9F


def test_who_has_gone_is_forgotten() -> None:
    followers, stream = Followers(), Stream(nothing)
    followers.follow_events(stream, [])
    stream.abandon()
    followers.event(
        {"at": "", "name": "a:0", "from": "STOPPED", "to": "STARTING", "why": "", "pid": 1}
    )
    assert followers._of_events == []
