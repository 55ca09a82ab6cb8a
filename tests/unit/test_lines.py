"""The rendering of lines: whatever a child prints, each line is one line, and our keys are ours."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.lines import (
    RESERVED,
    JsonRenderer,
    Record,
    Source,
    TextRenderer,
    escape,
    read_record,
)

TIME = "2026-11-22T05:00:00.123Z"
SOURCE = Source("daemon", "orders", 0, 1234, "stdout")
OURS = {
    "time": TIME,
    "level": "info",
    "logger": "stdout",
    "worker": "daemon",
    "job": "orders",
    "process": 0,
    "pid": 1234,
    "stream": "stdout",
}

JSON = JsonRenderer(SOURCE)
TEXT = TextRenderer(SOURCE)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*sorted(RESERVED), "msg", "fields", "partial", "exc_info"]) | st.text()
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def no_twin_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"a key given twice: {names}"
    return dict(pairs)


def parse(rendered: bytes) -> list[dict[str, object]]:
    text = rendered.decode("utf-8")
    assert text.endswith("\n")
    assert not UNSAFE.search(text)
    return [json.loads(line, object_pairs_hook=no_twin_keys) for line in text[:-1].split("\n")]


def captured(line: str) -> dict[str, object]:
    (found,) = parse(JSON.captured(TIME, line.encode("utf-8")))
    return found


@given(st.binary())
def test_any_bytes_come_out_as_the_same_lines_of_json(data: bytes) -> None:
    wanted = data.decode("utf-8", "replace").split("\n")
    found = parse(JSON.captured(TIME, data))
    assert len(found) == len(wanted)
    for line, text in zip(found, wanted, strict=True):
        assert OURS.items() <= line.items()
        if not text.startswith("{"):
            assert line["message"] == text


@given(OBJECTS)
def test_a_json_line_of_a_child_is_merged_and_never_takes_our_names(
    fields: dict[str, object],
) -> None:
    text = json.dumps(fields)
    line = captured(text)
    assert OURS.items() <= line.items()
    try:
        json.loads(text, parse_constant=lambda _: 1 / 0)
    except ZeroDivisionError:
        assert line["message"] == text  # NaN and Infinity are not JSON
        return
    for key, value in fields.items():
        taken = RESERVED & fields.keys() and key in RESERVED | {"fields"}
        place = line["fields"] if taken else line
        assert isinstance(place, dict)
        assert place[key] == value


def test_the_message_is_the_childs_own_where_it_has_one() -> None:
    assert captured('{"message": "sent", "n": 1}')["message"] == "sent"
    assert captured('{"msg": "sent", "n": 1}')["message"] == "sent"
    assert captured('{"n": 1}')["message"] == '{"n": 1}'
    assert captured('{"message": 5}')["message"] == '{"message": 5}'


@pytest.mark.parametrize(
    "line",
    [
        '{"a": NaN}',
        '{"a": 1} {"b": 2}',
        '{"a": 1',
        "{" * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
        '{"a": ' + "9" * 5000 + "}",
        '["no", "object"]',
        '{"a": "\x00"}',
    ],
)
def test_what_only_looks_like_json_is_a_message(line: str) -> None:
    assert captured(line)["message"] == line


@pytest.mark.parametrize(
    "line",
    [
        '{"time": "1999", "time": "2000", "pid": 1}',
        '{"\\u0074ime": "1999"}',
        'x"}\\n{"level": "critical',
        '{"a": 1, "a": 2, "job": "other"}',
        '{"fields": {"job": 1}, "job": 2}',
    ],
)
def test_a_line_cannot_be_forged(line: str) -> None:
    assert OURS.items() <= captured(line).items()


def test_numbers_of_a_child_keep_their_digits() -> None:
    assert b'"n":1.10000000000000000001}' in JSON.captured(TIME, b'{"n":1.10000000000000000001}')


def test_escapes_of_a_child_do_not_become_control_characters() -> None:
    for line in (r'{"msg": "\u009b31m\ud800"}', r'{"pid": "\u009b31m\ud800"}'):
        parse(JSON.captured(TIME, line.encode()))


def test_a_piece_of_a_long_line_is_marked_and_never_an_object() -> None:
    (line,) = parse(JSON.captured(TIME, b'{"a": 1}', partial=True))
    assert (line["partial"], line["message"]) == (True, '{"a": 1}')


@given(st.binary())
def test_text_holds_no_control_character_but_tabs_and_its_newlines(data: bytes) -> None:
    text = TEXT.captured(TIME, data).decode("utf-8")
    assert text.endswith("\n")
    assert not UNSAFE.search(text.replace("\t", ""))
    lines = text[:-1].split("\n")
    assert len(lines) == data.count(b"\n") + 1
    assert all(line.startswith(f"{TIME} INFO     orders:0[1234] stdout | ") for line in lines)


def test_text_is_what_was_printed() -> None:
    assert TEXT.captured(TIME, "订单\tö\x1b[31m".encode()).decode() == (
        f"{TIME} INFO     orders:0[1234] stdout | 订单\tö\\u001b[31m\n"
    )


@given(OBJECTS)
def test_any_record_of_a_child_is_one_line_with_our_keys(fields: dict[str, object]) -> None:
    record = read_record(json.dumps(fields).encode(), TIME)
    (line,) = parse(JSON.record(record))
    assert {key: line[key] for key in ("worker", "job", "process", "pid")} == {
        "worker": "daemon",
        "job": "orders",
        "process": 0,
        "pid": 1234,
    }
    first, *more = TEXT.record(record).decode().split("\n")
    assert first.startswith(record.time)
    assert more[-1] == ""
    assert all(other.startswith("    ") for other in more[:-1])


def test_a_record_keeps_what_it_may_say_of_itself() -> None:
    sent = {
        "time": "2026-11-22T05:00:00Z",
        "level": "error",
        "logger": "shop",
        "message": "no",
        "order": 7,
        "pid": 1,
    }
    (line,) = parse(JSON.record(read_record(json.dumps(sent).encode(), TIME)))
    assert (line["time"], line["level"], line["logger"]) == (sent["time"], "error", "shop")
    assert (line["message"], line["order"], line["fields"]) == ("no", 7, {"pid": 1})


def test_a_record_with_a_false_time_or_level_gets_ours() -> None:
    record = read_record(b'{"time": "x", "level": "loud", "logger": 5, "message": null}', TIME)
    assert record == Record(TIME, "info", "5", "null", {})
    assert read_record(b"no json", TIME) == Record(TIME, "info", "report", "no json", {})


def test_an_exception_in_text_is_indented_below_its_record() -> None:
    record = Record(TIME, "error", "shop", "two\nlines", {"n": 1, "exc_info": "Trace\n  x\x1b\n"})
    assert TEXT.record(record).decode() == (
        f"{TIME} ERROR    orders:0[1234] shop | two\\nlines n=1\n    Trace\n      x\\u001b\n"
    )


def test_extras_that_json_cannot_hold_become_text() -> None:
    circle: list[object] = []
    circle.append(circle)
    extras: dict[str, object] = {"circle": circle, "nan": float("nan"), "path": {1, 2}, "n": 3}
    (line,) = parse(JSON.record(Record(TIME, "info", "x", "m", extras)))
    assert (line["message"], line["n"], line["nan"]) == ("m", 3, "nan")


def test_escape_leaves_readable_text_alone() -> None:
    assert escape("a\tb ö 订单 🙂") == "a\tb ö 订单 🙂"
    assert escape("\r\n\x00\x9b\u202e\ud800") == r"\r\n\u0000\u009b\u202e\ud800"
