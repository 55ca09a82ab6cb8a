"""Every error that a user can meet, each with the exit code that the command line gives for it.

Knows nothing of the rest; every other module may raise these. Programming errors are not here:
they crash, with their traceback, where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the command line, and a child of the supervisor, say by their exit status.

    Source: sysexits(3) for 69, 70, 75 and 78; the LSB's words for 3 and 4.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    NO_SUCH_JOB = 4
    UNAVAILABLE = 69
    INTERNAL = 70
    ALREADY_RUNNING = 75
    CONFIG = 78


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration: where it is, what is wrong, and what would be right."""

    file: str
    line: int
    section: str
    key: str
    message: str

    def __str__(self) -> str:
        """Render as `FILE:LINE: [section] key: message`, leaving out what is not known."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        section = f" [{self.section}]" if self.section else ""
        key = f" {self.key}:" if self.key else (":" if self.section else "")
        return f"{place}:{section}{key} {self.message}"


class SupervisorError(Exception):
    """The base of all errors that end a command with one clear line and a fixed exit code."""

    code = ExitCode.FAILED


class ConfigError(SupervisorError):
    """The configuration is wrong; carries every problem found, not just the first."""

    code = ExitCode.CONFIG

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class UsageError(SupervisorError):
    """The command's words are right one by one and wrong together."""

    code = ExitCode.USAGE


class NotRunning(SupervisorError):
    """No supervisor answers where this configuration says that one would be."""

    code = ExitCode.NOT_RUNNING


class NoSuchJob(SupervisorError):
    """A name or pattern that fits no job, process or topic."""

    code = ExitCode.NO_SUCH_JOB


class AlreadyRunning(SupervisorError):
    """Another supervisor holds the lock of the same run_dir or state_dir."""

    code = ExitCode.ALREADY_RUNNING


class ServiceUnavailable(SupervisorError):
    """A server or file that a command needs cannot be reached."""

    code = ExitCode.UNAVAILABLE


class ControlError(SupervisorError):
    """The running supervisor refused a request, or its answer could not be read.

    Carries the exit code that the supervisor itself gave for the refusal.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class SpawnError(SupervisorError):
    """The kernel would not give a new process (fork, pipe or pidfd failed)."""


def configuration_fault(file: Path | str, message: str, *, line: int = 0) -> ConfigError:
    """Build a ConfigError about a whole file, for faults that have no section or key."""
    return ConfigError(Problem(str(file), line, "", "", message))
