"""The text of a supervisord.conf as supervisord itself reads it, with the place of every key.

Its parser is configparser with `;` and `#` also behind a value, sections and keys given twice
joined, and `%(name)s` replaced by Python's `%` when a value is asked for. Source:
supervisor/options.py of Supervisor 4.3 (UnhosedConfigParser, expand).
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from posixpath import basename
from typing import Final

from supervisor.errors import ConfigError, Problem, configuration_fault
from supervisor.importers.draft import variable

_HEAD: Final = re.compile(r"\[(?P<name>.+)\]")
_KEY: Final = re.compile(r"(?P<key>[^\s=:#;\[][^=:]*?)\s*[=:]")
_REMARK: Final = re.compile(r"\s[;#]\s*(?P<remark>\S.*)$")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the source: as the user named it, its folder (absolute), and its text."""

    shown: str
    folder: str
    text: str


Reader = Callable[[str, str], Sequence[File]]
"""Gives the files of a pattern of [include], which is relative to the folder given with it."""


@dataclass(slots=True)
class Text:
    """All files of a supervisord.conf together. Raises: ConfigError when one cannot be parsed."""

    main: File
    files: Reader
    host: str
    environ: Mapping[str, str]
    parser: configparser.RawConfigParser = field(init=False)
    places: dict[tuple[str, str], tuple[File, int]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the main file, then what it includes."""
        self.parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
        self._read(self.main)
        if not self.parser.has_option("include", "files"):
            return
        for pattern in self.value("include", "files", {}).split():
            found = self.files(pattern, self.main.folder)
            if not found:
                self.missing.append(pattern)
            for file in found:
                self._read(file)

    def problem(self, section: str, key: str, message: str) -> Problem:
        """Say what is wrong with a key, or with a section as a whole."""
        file, line = self.places.get((section, key)) or self.places.get(
            (section, ""), (self.main, 0)
        )
        return Problem(file.shown, line, section, key, message)

    def place(self, section: str, key: str) -> str:
        """Give the name of the file and the line of a key, as a comment tells it."""
        found = self.problem(section, key, "")
        name = basename(found.file)
        return f"{name}:{found.line}" if found.line else name

    def value(
        self, section: str, key: str, names: Mapping[str, object], raw: str | None = None
    ) -> str:
        """Give a value (or `raw` in its place) with `%(name)s` replaced. Raises: ConfigError."""
        file, _ = self.places.get((section, key), (self.main, 0))
        known = _Names({"here": file.folder, "host_node_name": self.host, **names})
        try:
            return (self.parser.get(section, key) if raw is None else raw) % known
        except KeyError as error:
            message = f"%({error.args[0]})s is unknown to supervisord here"
        except (ValueError, TypeError) as error:
            message = f"supervisord cannot expand it ({error}); a plain percent sign is %%"
        raise ConfigError(self.problem(section, key, message))

    def _read(self, file: File) -> None:
        try:
            self.parser.read_string(file.text, file.shown)
        except configparser.MissingSectionHeaderError as error:
            message = "no [section] above it: not a supervisord.conf"
            raise configuration_fault(file.shown, message, line=error.lineno) from None
        except configparser.ParsingError as error:
            line = error.errors[0][0] if error.errors else 0
            message = "neither [section] nor key = value"
            raise configuration_fault(file.shown, message, line=line) from None
        except configparser.Error as error:
            message = f"not readable for supervisord: {' '.join(str(error).split())}"
            raise configuration_fault(file.shown, message) from None
        self._locate(file)

    def _locate(self, file: File) -> None:
        """Note where sections and keys stand, and the comments at them."""
        section = ""
        above: list[str] = []
        for number, line in enumerate(file.text.splitlines(), 1):
            if not line.strip():
                above = []
            elif line.lstrip()[0] in ";#":
                above.append(line.strip().lstrip(";# "))
            elif head := _HEAD.match(line):
                section = head["name"]
                self.places[section, ""] = (file, number)
                self.remarks.setdefault(section, []).extend(above)
                above = []
            elif found := _KEY.match(line):
                key = found["key"].lower()
                self.places[section, key] = (file, number)
                if remark := _REMARK.search(line):
                    above.append(f"{key}: {remark['remark']}")
                self.remarks.setdefault(section, []).extend(above)
                above = []


class _Names(dict[str, object]):
    """What `%(name)s` may name; a variable of the environment becomes one of ours."""

    def __missing__(self, name: str) -> str:
        if name.startswith("ENV_"):
            with suppress(ValueError):
                return variable(name.removeprefix("ENV_"))
        raise KeyError(name)
