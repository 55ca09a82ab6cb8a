"""How a captured line, or a record, becomes a line of our log, as JSON or text. Pure.

Captured output is the hot path (hundreds of thousands of lines a second from one process), so a
chunk of lines is rendered by a handful of calls into C: decode, split, encode each, join. Our own
keys come first and the message last, behind an encoder that escapes: nothing that a child prints
can end the line, or put a key of ours in twice. Used by `logs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Final, NoReturn, Protocol

RESERVED: Final = frozenset(
    ("time", "level", "logger", "message", "worker", "job", "process", "pid", "stream")
)
"""The keys that are always ours. What a child sends under these names goes under `fields`."""

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_FIELDS: Final = "fields"
_EXCEPTION: Final = "exc_info"

# DEL and C1, which terminals obey; line and paragraph separators; marks that turn the direction
# of writing (CVE-2021-42574); lone surrogates, which UTF-8 cannot carry.
_UNSAFE: Final = "\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE_IN_JSON: Final = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_TEXT: Final = re.compile(f"[\x00-\x08\x0a-\x1f{_UNSAFE}]")

_ASCII_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code not in b"\t\n")
_SHORT: Final = {"\n": "\\n", "\r": "\\r"}

_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@dataclass(frozen=True, slots=True)
class Source:
    """Who speaks: the process, and its stream when the lines were captured.

    `worker` is master, daemon, cron, api or http. `stream` is stdout, stderr or report, or empty
    for the master's own records.
    """

    worker: str
    job: str
    process: int
    pid: int
    stream: str = ""

    @property
    def name(self) -> str:
        """Give the name that `logs NAME` takes."""
        return "master" if self.worker == "master" else f"{self.job}:{self.process}"


@dataclass(frozen=True, slots=True)
class Record:
    """One structured record, of the master or of a child's runtime.

    `time` is RFC 3339 in UTC; `extras` are the other keys, whose names nobody has checked yet.
    """

    time: str
    level: str
    logger: str
    message: str
    extras: Mapping[str, object]


class Renderer(Protocol):
    """Turns what one source says into whole lines, newline included."""

    def captured(self, time: str, lines: bytes, *, partial: bool = False) -> bytes:
        """Render raw lines, given without the last newline. `partial`: a piece of a long line."""

    def record(self, record: Record) -> bytes:
        """Render a structured record."""


class JsonRenderer:
    """One JSON object a line."""

    def __init__(self, source: Source) -> None:
        who: dict[str, object] = {
            "worker": source.worker,
            "job": source.job,
            "process": source.process,
            "pid": source.pid,
        }
        self._who = _dump(who)[1:-1]
        kind = _dump({"level": "info", "logger": source.stream})[1:-1]
        self._captured = f'",{kind},{self._who},"stream":{_dump(source.stream)},'

    def captured(self, time: str, lines: bytes, *, partial: bool = False) -> bytes:
        """Render raw lines; those that are JSON objects are merged into ours."""
        mark = '"partial":true,' if partial else ""
        head = f'{{"time":"{time}{self._captured}{mark}'
        texts = lines.decode("utf-8", "replace").split("\n")
        # A piece of a long line is no object, whatever it begins with.
        objects = not partial and (lines.startswith(b"{") or b"\n{" in lines)
        if objects:
            body = "}\n".join([head + _message_or_object(text) for text in texts])
        else:
            head += '"message":'
            body = head + ("}\n" + head).join(map(encode_basestring, texts))
        # Plain ASCII has but DEL to look for; what came out of a child's escapes may be anything.
        if objects or b"\x7f" in lines or not lines.isascii():
            body = _UNSAFE_IN_JSON.sub(_escape_character, body)
        return f"{body}}}\n".encode()

    def record(self, record: Record) -> bytes:
        """Render a record; extras under one of our names go under `fields`."""
        head = f'{{"time":"{record.time}","level":"{record.level}"'
        logger, message = encode_basestring(record.logger), encode_basestring(record.message)
        extras = f",{_dump(_sorted_out(record.extras))[1:-1]}" if record.extras else ""
        text = f'{head},"logger":{logger},{self._who},"message":{message}{extras}}}\n'
        return _UNSAFE_IN_JSON.sub(_escape_character, text).encode()


class TextRenderer:
    """One line for the eye: time, level, who, where from, and the message."""

    def __init__(self, source: Source) -> None:
        self._who = f"{source.name}[{source.pid}]"
        self._captured = f"{'INFO':<8} {self._who} {source.stream}"

    def captured(self, time: str, lines: bytes, *, partial: bool = False) -> bytes:
        """Render raw lines with control characters escaped."""
        head = f"{time} {self._captured} {'+' if partial else '|'} "
        return (head + ("\n" + head).join(escape_lines(lines)) + "\n").encode()

    def record(self, record: Record) -> bytes:
        """Render a record; extras as key=value, an exception on indented lines below."""
        said = plain(record)
        return f"{record.time} {record.level.upper():<8} {self._who} {said}\n".encode()


def plain(record: Record) -> str:
    """Render a record for the eye, without its time, level and source; all of it escaped.

    Lines after the first are indented: only the first of a record begins with a time.
    """
    extras = dict(record.extras)
    trace = extras.pop(_EXCEPTION, None)
    pairs = "".join(f" {escape(key)}={_shown(value)}" for key, value in extras.items())
    first = f"{escape(record.logger)} | {escape(record.message)}{pairs}"
    if not isinstance(trace, str):
        return first
    return "\n    ".join([first, *(escape(line) for line in trace.rstrip("\n").split("\n"))])


def escape(text: str) -> str:
    """Replace each control character by its escape, tabs excepted."""
    return _UNSAFE_IN_TEXT.sub(_escape_character, text)


def escape_lines(lines: bytes) -> list[str]:
    """Cut raw lines apart and escape each of them."""
    texts = lines.decode("utf-8", "replace").split("\n")
    # `translate` with nothing but deletions is the fastest search for a set of bytes.
    if not lines.isascii() or len(lines.translate(None, _ASCII_CONTROLS)) != len(lines):
        return [escape(text) for text in texts]
    return texts


def read_record(line: bytes, time: str) -> Record:
    """Read the JSON of a child's record; what is not one becomes the message of a record.

    The child is not trusted: a level or a time that does not look like one is replaced.
    """
    text = line.decode("utf-8", "replace")
    fields = _parse_object(text)
    if fields is None:
        return Record(time, "info", "report", text, {})
    stated = fields.pop("time", None)
    level = fields.pop("level", None)
    return Record(
        time=stated if isinstance(stated, str) and _UTC.fullmatch(stated) else time,
        level=level if isinstance(level, str) and level in LEVELS else "info",
        logger=_text(fields.pop("logger", "")),
        message=_text(fields.pop("message", "")),
        extras=fields,
    )


def _message_or_object(text: str) -> str:
    """Give the end of a captured line, from the message on, without the closing bracket."""
    fields = _parse_object(text) if text.startswith("{") else None
    if fields is None:
        return f'"message":{encode_basestring(text)}'
    message = next(
        (fields[key] for key in ("message", "msg") if isinstance(fields.get(key), str)), text
    )
    start = f'"message":{encode_basestring(str(message))}'
    if RESERVED.isdisjoint(fields):
        # The child's text goes in as it is: cheaper, and its numbers keep their digits.
        inner = text.strip()[1:-1].strip()
        return f"{start},{inner}" if inner else start
    return f"{start},{_dump(_sorted_out(fields))[1:-1]}"


def _sorted_out(fields: Mapping[str, object]) -> dict[str, object]:
    """Put the keys that bear one of our names under `fields`."""
    if RESERVED.isdisjoint(fields):
        return dict(fields)
    ours = RESERVED | {_FIELDS}
    kept = {key: value for key, value in fields.items() if key not in ours}
    return kept | {_FIELDS: {key: value for key, value in fields.items() if key in ours}}


def _parse_object(text: str) -> dict[str, object] | None:
    try:
        fields = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _dump(value: object) -> str:
    """Encode for our line; what JSON has no word for becomes its text."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        # A NaN, a key that is no string, a circle, or nesting without end.
        if isinstance(value, dict):
            return _encode({str(key): _simple(item) for key, item in value.items()})
        return _encode(_simple(value))


_encode: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str
).encode
"""Made once: `json.dumps` with other settings than its own makes an encoder for each call."""


def _simple(value: object) -> object:
    if value is None or isinstance(value, str | int):
        return value
    try:
        return repr(value)
    except RecursionError:
        return "nested too deeply"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) and " " not in value else _dump(value)
    return escape(text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _dump(value)


def _escape_character(match: re.Match[str]) -> str:
    character = match[0]
    return _SHORT.get(character) or f"\\u{ord(character):04x}"
