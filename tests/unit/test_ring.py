"""The ring: the last lines, bounded, escaped only when somebody reads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.ring import Ring

LIMIT = 200


def test_the_last_lines_come_oldest_first_with_their_prefix() -> None:
    ring = Ring()
    ring.add(b"1 | ", b"a\nb")
    ring.add(b"2 | ", b"\x1b[31mc")
    assert ring.last(2) == ["1 | b", "2 | \\u001b[31mc"]
    assert ring.last(9) == ["1 | a", "1 | b", "2 | \\u001b[31mc"]
    assert ring.last(0) == []


def test_a_new_ring_is_empty() -> None:
    assert Ring().last(5) == []


@given(st.lists(st.binary(max_size=2 * LIMIT), max_size=20))
def test_it_stays_within_its_limit_and_keeps_the_newest(chunks: list[bytes]) -> None:
    ring = Ring(LIMIT)
    for chunk in chunks:
        ring.add(b"> ", chunk)
        lines = ring.last(LIMIT)
        assert len(ring._text) <= LIMIT
        newest = chunk.split(b"\n")[-1][-LIMIT // 2 :].decode("utf-8", "replace")
        assert lines
        assert lines[-1].startswith("> ")
        assert len(newest) == 0 or len(lines[-1]) > 2
