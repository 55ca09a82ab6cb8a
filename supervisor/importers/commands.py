"""A line for a shell as our `command`, which knows no shell: its words, or `sh -c LINE`."""

from __future__ import annotations

import re
import shlex
from typing import Final

_OF_THE_SHELL: Final = re.compile(r"[|&;<>()$`*?\[\]{}~#!\\\n]")
_BUILT_IN: Final = frozenset(
    (
        ".",
        ":",
        "alias",
        "break",
        "case",
        "cd",
        "continue",
        "eval",
        "exit",
        "export",
        "for",
        "if",
        "local",
        "read",
        "readonly",
        "return",
        "set",
        "shift",
        "source",
        "test",
        "times",
        "trap",
        "type",
        "ulimit",
        "umask",
        "unset",
        "until",
        "wait",
        "while",
        "[",
        "bg",
        "fg",
        "jobs",
        "true",
        "false",
    )
)
_QUOTED: Final = re.compile(r"'[^']*'")
_COMPOUND: Final = re.compile(r"[|&;()`\n{}!]")
_HARMLESS: Final = re.compile(r"'[^']*'|\$\{\w+\}|[0-9]*[<>]&[0-9-]")
"""What looks like a compound command and is none: quoted text, a variable, `2>&1`."""

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


def of_shell(line: str) -> str:
    """Give the command for a line that a shell would run.

    A simple line becomes its words, one that needs the shell `sh -c`, with `exec` before a single
    program, so that signals reach it and not the shell. Raises: ValueError when quotes are open.
    """
    words = shlex.split(line)
    if not words:
        raise ValueError("empty")
    if words[0] == "exec" and len(words) > 1:
        words, line = words[1:], line.strip().removeprefix("exec").lstrip()
    is_assigned = _ASSIGNMENT.match(words[0]) is not None
    is_built_in = words[0] in _BUILT_IN
    if not (_OF_THE_SHELL.search(_QUOTED.sub("", line)) or is_assigned or is_built_in):
        return shlex.join(words)
    if not (_COMPOUND.search(_HARMLESS.sub("", line)) or is_built_in):
        # A variable in an assignment is one word there, and not behind `env`.
        line = f"exec {line}" if not is_assigned else line if "$" in line else f"exec env {line}"
    return f"sh -c {shlex.quote(line)}"
