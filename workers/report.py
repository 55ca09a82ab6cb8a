"""The report pipe: the lines by which a child tells the master what it is and what it logs.

Each line is written whole, under one lock, so that records of several threads never mix. A pipe
without a reader means that the master is dead: nobody is left to tell, and the work goes on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

from supervisor import slot

_OURS: Final = ("time", "level", "logger")
"""What no `extra` may replace; `message` is refused by `logging` itself."""

_LONG: Final = 200_000
_LONG_VALUE: Final = 100_000
"""Characters. Of a record that is longer each value is cut: the master takes lines of 1 MiB."""


class Report:
    """The write end of the report pipe. Runs in: child, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Say that the process can do its work."""
        self.line(slot.READY)

    def complain(self, why: str) -> None:
        """Say why the process cannot do its work though it runs; nothing: it can again."""
        self.line(slot.UNREADY + b" " + why.encode(errors="replace") if why else slot.READY)

    def line(self, text: bytes) -> None:
        """Write one line; without a reader, or in a fork of this process, do nothing."""
        rest = memoryview(text + b"\n")
        with self._lock:
            try:
                while rest and self._fd >= 0:
                    rest = rest[os.write(self._fd, rest) :]
            except BrokenPipeError:
                self._fd = -1

    def forget(self) -> None:
        """Drop the pipe in a process that a handler forked: it is no child of the master."""
        self._lock = threading.Lock()
        self._fd = -1

    @property
    def closed(self) -> bool:
        """Tell whether nobody reads any more."""
        return self._fd < 0


class PipeHandler(logging.Handler):
    """Turns each record of `logging` into a `log` line; to stderr where there is no pipe."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report
        self.setFormatter(_FORMATTER)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. A record that cannot be formatted never hurts the work."""
        try:
            text = self.format(record)
            if self.report.closed:
                sys.stderr.write(text + "\n")
            else:
                self.report.line(slot.LOG + b" " + text.encode(errors="replace"))
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


class RecordFormatter(JsonFormatter):
    """The JSON of one record: our four keys first, then what the caller gave as `extra`."""

    def __init__(self) -> None:
        # NaN is no JSON: the master could read nothing of the whole record.
        encode = partial(json.dumps, allow_nan=False)
        super().__init__(json_serializer=encode, json_default=_text, json_ensure_ascii=False)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the fields; an `extra` that is named like one of ours goes under `fields`."""
        ours = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if isinstance(record.msg, str) else str(record.msg),
        }
        log_data.update(ours)
        super().add_fields(log_data, record, message_dict)
        if theirs := {key: vars(record)[key] for key in _OURS if key in vars(record)}:
            log_data["fields"] = theirs
        log_data.update(ours)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Serialize; what JSON has no form for is written as its text."""
        try:
            text = super().jsonify_log_record(log_data)
        except (TypeError, ValueError):
            # Keys that are no text, circles: the record still tells what happened.
            text = json.dumps({str(key): _simple(value) for key, value in log_data.items()})
        if len(text) <= _LONG:
            return text
        cut = {str(key): _cut(value) for key, value in log_data.items()}
        return json.dumps(cut, ensure_ascii=False)


def _simple(value: object) -> object:
    is_simple = value is None or isinstance(value, (str, int))
    is_number = isinstance(value, float) and math.isfinite(value)
    return value if is_simple or is_number else _text(value)


def _cut(value: object) -> object:
    """Give a value of a record that is too long; errors quote all that they were given."""
    simple = _simple(value)
    return brief(simple, _LONG_VALUE) if isinstance(simple, str) else simple


def brief(text: str, most: int) -> str:
    """Leave out the middle of a text that is longer, and say how much that was."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters more ... {text[-half:]}"


def _text(value: object) -> str:
    """Give anything as text; what cannot even be shown is no reason to lose the record."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


_FORMATTER: Final = RecordFormatter()
_HANDLER: Final = PipeHandler(Report(-1))
"""Made at import, in the master: no child pays for them again."""


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def take_over_logging(report: Report) -> None:
    """Send all logging of this process up the report pipe, and nowhere else. Runs in: child.

    The level stays the one of the master, which came with the fork.
    """
    _HANDLER.report = report
    logging.root.handlers[:] = [_HANDLER]
    logging.captureWarnings(True)
