"""The values of a supervisord.conf, read as supervisord reads them; faults are gathered.

Source: supervisor/datatypes.py of Supervisor 4.3.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from supervisor.errors import ConfigError, Problem
from supervisor.importers.draft import MARKS, resolved
from supervisor.importers.supervisord_text import Text

_LEVELS: Final = {
    "critical": "critical",
    "error": "error",
    "warn": "warning",
    "info": "info",
    "debug": "debug",
    "trace": "debug",
    "blather": "debug",
}
_TRUE: Final = ("yes", "true", "on", "1")
_FALSE: Final = ("no", "false", "off", "0")


class Values:
    """The keys of one section, read as supervisord reads them; faults are gathered."""

    def __init__(
        self,
        text: Text,
        section: str,
        names: dict[str, object],
        problems: dict[Problem, None],
    ) -> None:
        self.section = section
        self._text = text
        self._names = names
        self._problems = problems
        self.fixed: dict[str, str] = {}

    def names(self) -> list[str]:
        """Give the keys of the section, those of [DEFAULT] too."""
        return [key for key, _ in self._text.parser.items(self.section)]

    def has(self, key: str) -> bool:
        """Tell whether a key is there."""
        return self._text.parser.has_option(self.section, key)

    def wrong(self, key: str, message: str) -> None:
        """Note a fault."""
        self._problems[self._text.problem(self.section, key, message)] = None

    def raw(self, key: str) -> str | None:
        """Give a value before anything is replaced in it."""
        return self._text.parser.get(self.section, key) if self.has(key) else None

    def differ(self) -> bool:
        """Tell whether processes differ by their number in more than their logs."""
        keys = ("command", "directory", "environment")
        return any("%(process_num)" in (self.raw(key) or "") for key in keys)

    def text(self, key: str, *, own: bool = False, raw: str | None = None) -> str | None:
        """Give a value with its names replaced; None without one or when it is wrong, as noted.

        `own`: by variables of the section's own environment too; `raw`: instead of the file's.
        """
        if not self.has(key):
            return None
        names = dict(self._names)
        if own:
            names |= {f"ENV_{name}": value for name, value in self.environment().items()}
        try:
            return self._text.value(self.section, key, names, raw)
        except ConfigError as error:
            self._problems |= dict.fromkeys(error.problems)
        return None

    def resolved(self, key: str) -> str | None:
        """Give a value that has to be known now, and remember it if a variable has decided."""
        text = self.text(key)
        if text is None or MARKS[0] not in text:
            return text
        try:
            self.fixed[key] = resolved(text, self._text.environ)
        except ValueError as fault:
            self.wrong(key, str(fault))
            return None
        return self.fixed[key]

    def read(self, key: str, read: Callable[[str], str]) -> str | None:
        """Give a value in our words, None without one or when it is wrong, which is noted."""
        text = self.resolved(key)
        try:
            return None if text is None else read(text)
        except ValueError as fault:
            self.wrong(key, str(fault))
            return None

    def integer(self, key: str, default: int, *, least: int = 0) -> int:
        """Give a whole number, as a rule one that is not negative."""
        text = self.resolved(key)
        try:
            found = default if text is None else int(text)
        except ValueError:
            found = least - 1
        if found < least:
            self.wrong(key, f'"{text}" is no whole number')
            return default
        return found

    def boolean(self, key: str, default: bool) -> bool:
        """Give a truth value."""
        text = (self.resolved(key) or str(default)).lower()
        if text not in (*_TRUE, *_FALSE):
            self.wrong(key, f'"{text}" is neither true nor false')
        return text in _TRUE

    def environment(self) -> dict[str, str]:
        """Give the variables, taken apart as supervisord does (dict_of_key_value_pairs)."""
        text = self.text("environment") or ""
        lexer = shlex.shlex(text)
        lexer.wordchars += "/.+-():" + MARKS
        found = {}
        try:
            tokens = list(lexer)
            for at in range(0, len(tokens), 4):
                name, equals, value = tokens[at : at + 3]
                if equals != "=":
                    raise ValueError
                found[name] = value.strip("'\"")
        except ValueError:
            self.wrong("environment", 'not KEY="value",KEY2="value2"; put values into quotes')
        return found


def level(text: str) -> str:
    """Read a log level as ours. Raises: ValueError."""
    if text.lower() not in _LEVELS:
        raise ValueError(f'"{text}" is no level; one of {", ".join(_LEVELS)}')
    return _LEVELS[text.lower()]


def autorestart(text: str) -> str:
    """Read `autorestart` as our `restart`. Raises: ValueError."""
    word = text.lower()
    if word == "unexpected":
        return "on-failure"
    if word not in (*_TRUE, *_FALSE):
        raise ValueError(f'"{text}" is none of true, false, unexpected')
    return "always" if word in _TRUE else "never"


def mode(text: str) -> str:
    """Read octal permission bits, written as ours. Raises: ValueError."""
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError(f'"{text}" is no octal mode')
    return f"{bits:04o}"
