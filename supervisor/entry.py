"""The program `supervisor`: from its words to its exit code, whatever happens on the way.

`start --conf FILE`, the line of a unit or a container, goes straight to the supervisor; all others
go through click in `cli`. The master is what every child is a copy of, and click would be in each
of them for nothing: 4 MB and a fifth of the time of a fork (measured).
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from supervisor.complaint import complain
from supervisor.errors import ExitCode, SupervisorError, configuration_fault

_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells say it."""


def main() -> int:
    """Be the program; returns its exit code. No traceback but that of a fault of our own."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SupervisorError as error:
        complain(str(error), prefix="" if error.code is ExitCode.CONFIG else "supervisor: ")
        if len(os.listdir("/proc/self/task")) > 1:
            # One that a refused module of `preload` has begun; the interpreter would wait for it.
            os._exit(error.code)
        return error.code
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter would flush once more, and tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.FAILED
    except OSError as error:
        complain(str(error))
        return ExitCode.FAILED
    return code


def _open_missing_streams() -> None:
    """Put /dev/null where we were started without a standard stream (`>&-`, some launchers).

    The next file to be opened would get its number, and what is printed: a log in the pid file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _run(words: Sequence[str]) -> int:
    _refuse_twin(sys.path)
    path = _plain_start(words)
    if path is None:
        with _uncollected():
            from supervisor import cli

        return cli.run()
    with _uncollected():
        from supervisor import launch

    return launch.start(path, standalone=False)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without a look for garbage: what is imported stays.

    To go through all of it again and again, and once more at the exit, is a fifth of the time of
    a short command (measured). What comes later is collected as always.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _plain_start(words: Sequence[str]) -> Path | None:
    """Give the file of `start --conf FILE`; None for every other line."""
    if len(words) != 3 or words[0] != "start" or words[1] not in ("--conf", "-c"):
        return None
    return None if words[2].startswith("-") else Path(words[2])


def _refuse_twin(path: Iterable[str]) -> None:
    """Refuse to run where PyPI's Supervisor is installed: one import name, two programs.

    Looks for its metadata by name only; importlib.metadata would cost more than the command.
    Raises: ConfigError.
    """
    for entry in path:
        with suppress(OSError):
            for name in os.listdir(entry or "."):
                if _is_twin(name):
                    raise configuration_fault(
                        Path(entry) / name,
                        "PyPI's Supervisor is installed beside workers-supervisor, and both are "
                        "`import supervisor`: give each a virtual environment of its own",
                    )


def _is_twin(name: str) -> bool:
    """Recognise `supervisor-4.3.0.dist-info`, and the older forms of it."""
    word, _, rest = name.lower().partition("-")
    is_metadata = rest.endswith((".dist-info", ".egg-info", ".egg"))
    return word == "supervisor" and rest[:1].isdigit() and is_metadata
