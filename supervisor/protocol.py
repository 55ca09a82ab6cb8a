"""The words between the command line and the master: requests and replies.

One JSON object a line, over a unix socket: `{"verb": "status", "names": []}` is answered by
`{"ok": true, "result": …}` or `{"ok": false, "error": "…", "code": 4}`, where the code is the exit
code of the command. With `"follow": true` the reply to `logs` and `events` is followed by one more
line for each new item, by `{"dropped": N}` where the reader was too slow, and in the end by
`{"end": "why", "ok": true}`. Unknown keys are ignored on both sides, so that two versions can talk.

Pure: no socket and no clock here. Used by `control` (the master's end) and `client` (the other
end); what a result looks like is in `shapes`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from supervisor.errors import (
    ControlError,
    ExitCode,
    NoSuchJob,
    NotRunning,
    Problem,
    ServiceUnavailable,
    UsageError,
    configuration_fault,
)
from supervisor.selection import is_pattern

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor.shapes import Item, ProblemShape, Status

LINE_BYTES: Final = 64 * 1024
"""The longest request. A hundred job names are 6 KiB."""

REPLY_BYTES: Final = 8 * 1024 * 1024
"""The longest reply: a `status` of all 4,096 possible processes is about 2 MiB."""

SOCKET_PATH_BYTES: Final = 107
"""What the kernel takes as the path of a unix socket. Source: unix(7), sun_path."""

NAME_CHARACTERS: Final = 256
"""The longest name or pattern: to compile one of 5,000 takes a second, and the loop waits."""

NAMES: Final = 4096
PATTERNS: Final = 16
"""So many in one request: each pattern is held against every process, and the loop waits."""

Request = Mapping[str, object]


def is_ready(status: Status, *, partial: bool = False) -> bool:
    """Tell whether every required job is ready; `partial`: every process given."""
    if partial:
        return all(row["ready"] for row in status["processes"])
    return status["master"]["ready"]


def socket_path(run_dir: Path, name: str) -> Path:
    """Give the path of the control socket. Raises: ConfigError when the kernel could not bind it.

    A symbolic link to a shorter path would only hide the trouble until somebody moves it.
    """
    path = run_dir / f"{name}.sock"
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES:
        raise configuration_fault(
            path,
            f"the path of the control socket has {length} bytes, and the kernel takes "
            f"{SOCKET_PATH_BYTES} at most: set a shorter run_dir in [supervisor]",
        )
    return path


def problem(fault: Problem) -> ProblemShape:
    """Give a fault of a configuration as JSON has it."""
    return {
        "file": fault.file,
        "line": fault.line,
        "section": fault.section,
        "key": fault.key,
        "message": fault.message,
    }


def encode(message: object) -> bytes:
    """Give a message as one line. Raises: TypeError or ValueError for what JSON cannot say."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def ok(result: object) -> dict[str, object]:
    """Give the reply to a request that was carried out."""
    return {"ok": True, "result": result}


def refusal(code: int, message: str) -> dict[str, object]:
    """Give the reply to a request that was not; the code is the exit code of the command."""
    return {"ok": False, "error": message, "code": int(code)}


def decode_request(line: bytes) -> tuple[str, Request]:
    """Read one request: the verb and everything. Raises: UsageError saying what is wrong."""
    request = _object(line)
    verb = request.get("verb")
    if not isinstance(verb, str):
        raise UsageError('a request is one JSON object a line, like {"verb": "status"}')
    return verb, request


def decode_reply(line: bytes) -> object:
    """Read one reply and give its result. Raises: the error that the master answered with."""
    try:
        reply = _object(line)
    except UsageError as error:
        raise ControlError(f"the answer of the supervisor makes no sense: {error}") from None
    if reply.get("ok") is True:
        return reply.get("result")
    message, code = reply.get("error"), reply.get("code")
    raise _refused(
        message if isinstance(message, str) else "the supervisor refused, and did not say why",
        code if isinstance(code, int) else ExitCode.FAILED,
    )


def decode_item(line: bytes) -> Item:
    """Read one line of what follows an answer. Raises: ControlError."""
    try:
        return cast("Item", _object(line))
    except UsageError as error:
        raise ControlError(f"what the supervisor sends makes no sense: {error}") from None


def names(request: Request) -> tuple[str, ...]:
    """Give the names and patterns of a request; none mean everything. Raises: UsageError."""
    value = request.get("names", [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise UsageError("names must be a list of strings")
    if any(len(name) > NAME_CHARACTERS for name in value):
        raise UsageError(f"a name or a pattern has {NAME_CHARACTERS} characters at most")
    patterns = sum(map(is_pattern, value))
    if len(value) > NAMES or patterns > PATTERNS:
        raise UsageError(f"one request takes {NAMES} names and {PATTERNS} patterns at most")
    return tuple(value)


def text(request: Request, key: str) -> str:
    """Give a word of a request. Raises: UsageError."""
    value = request.get(key)
    if not isinstance(value, str):
        raise UsageError(f"{key} must be a word")
    return value


def seconds(request: Request, key: str) -> float | None:
    """Give a time of a request in seconds, None when it is left out. Raises: UsageError."""
    value = request.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise UsageError(f"{key} must be a number of seconds, 0 or more")
    return float(value)


def flag(request: Request, key: str) -> bool:
    """Give a yes or no of a request; no when it is left out. Raises: UsageError."""
    value = request.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{key} must be true or false")
    return value


def count(request: Request, key: str, default: int) -> int:
    """Give a whole number of a request, 0 or more. Raises: UsageError."""
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise UsageError(f"{key} must be a whole number, 0 or more")
    return value


def _object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # RecursionError: some ten thousand brackets, which fit into one line.
        reason = str(error) if not isinstance(error, RecursionError) else "nested too deeply"
        raise UsageError(f"not a line of JSON: {ascii(reason)[1:-1]}") from None
    if not isinstance(value, dict):
        raise UsageError('a request is one JSON object a line, like {"verb": "status"}')
    return cast("dict[str, object]", value)


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _refused(message: str, code: int) -> Exception:
    errors = {
        ExitCode.NO_SUCH_JOB: NoSuchJob,
        ExitCode.NOT_RUNNING: NotRunning,
        ExitCode.UNAVAILABLE: ServiceUnavailable,
        ExitCode.USAGE: UsageError,
    }
    try:
        known = ExitCode(code) or ExitCode.FAILED
    except ValueError:
        known = ExitCode.FAILED
    return errors[known](message) if known in errors else ControlError(message, known)
