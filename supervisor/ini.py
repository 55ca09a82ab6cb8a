"""INI files read with file and line kept for every key, and every fault noted, not just the first.

The grammar: `[section]`, `key = value`, indented lines continue the value above them; a line whose
first character is `#` or `;` is a comment, nothing else is (commands and passwords contain both).
`[include] files =` names more files, relative to the one that says so. Variables are replaced by
`expand`, when a value is read. configparser was rejected: it forgets the lines. Knows no section
but [include] and no key but its `files`; called by `supervisor.loading` and `supervisor.location`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from supervisor import reading, trust
from supervisor.errors import ConfigError, Problem
from supervisor.secret import FileReference, Given, Secret
from supervisor.values import items

_BLANK: Final = " \t"
_COMMENT: Final = "#;"
_GLOB: Final = frozenset("*?[")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VARIABLE: Final = r"(?s)([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?"
_DEEPEST: Final = 8
"""How far `${A:-${B:-...}}` may nest; a limit because garbage must not exhaust the stack."""

_LARGEST: Final = 16 << 20
"""Bytes of one file: ten times what 4096 jobs need."""


@dataclass(slots=True, eq=False, repr=False)
class Source:
    """A file of the configuration: as the user named it, and where it is."""

    shown: str
    path: Path


@dataclass(slots=True, eq=False, repr=False)
class Entry:
    """A key and its raw value, line by line, before variables are replaced."""

    section: str
    key: str
    lines: list[str]
    source: Source
    line: int

    def problem(self, message: str) -> Problem:
        """Say what is wrong with this entry."""
        return Problem(self.source.shown, self.line, self.section, self.key, message)


@dataclass(slots=True, eq=False, repr=False)
class Section:
    """A section and its entries in the order of the file."""

    name: str
    source: Source
    line: int
    entries: dict[str, Entry] = field(default_factory=dict)

    def problem(self, message: str, *, key: str = "") -> Problem:
        """Say what is wrong with this section as a whole, or with a key that it lacks."""
        return Problem(self.source.shown, self.line, self.name, key, message)


@dataclass(slots=True, eq=False, repr=False)
class Document:
    """All files of a configuration together.

    [include] belongs to its own file, so those sections stand apart: one a file may be there.
    """

    sections: dict[str, Section] = field(default_factory=dict)
    includes: list[Section] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read(path: Path, *, wanted: str | None = None) -> Document:
    """Read a file and what it includes; no more includes once the section `wanted` is known.

    Raises: ConfigError when the first file itself cannot be read; every other fault is gathered
    in the document.
    """
    document = Document()
    try:
        text = _text(path)
    except _Unreadable as fault:
        raise ConfigError(Problem(str(path), fault.line, "", "", str(fault))) from None
    source = Source(str(path), path.absolute())
    seen = {os.path.realpath(path)}
    waiting = _parse(text, source, document)
    while waiting and wanted not in document.sections:
        waiting = _include(waiting, seen, document) + waiting[1:]
    return document


def given(entry: Entry) -> Given:
    """Replace the variables of an entry, line by line.

    Raises: ValueError when a variable is not set or a `$` stands alone.
    """
    folder = entry.source.path.parent
    return Given(tuple(expand(line, folder) for line in entry.lines), folder)


def expand(text: str, folder: Path, environ: Mapping[str, str] = os.environ) -> Secret:
    """Replace the variables of a raw text; `${file:PATH}` is kept as a reference.

    What a variable holds is not looked at again: a `$` in a password is a `$`.
    Raises: ValueError when a variable is not set or a `$` stands alone.
    """
    if "$" not in text:
        return Secret((text,) if text else ())
    return Secret(tuple(_merge(_expand(text, folder, environ, 0))))


class _Unreadable(Exception):
    """A file that cannot be read as text: why, and the line where it goes wrong, if any."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def _text(path: Path) -> str:
    try:
        data = reading.read(path, _LARGEST)
        if fault := trust.distrust(path):
            raise _Unreadable(f"is not root's alone: {fault}")
    except FileNotFoundError:
        raise _Unreadable("no such file") from None
    except PermissionError:
        raise _Unreadable(f"may not be read by uid {os.geteuid()}") from None
    except OSError as error:
        raise _Unreadable(f"cannot be read: {error}") from None
    except ValueError as fault_of_file:
        raise _Unreadable(str(fault_of_file)) from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Unreadable("is not UTF-8 text from here on", line) from None


def _parse(text: str, source: Source, document: Document) -> list[Entry]:
    """Read one file into the document; give the `files` entries of its [include]."""
    parser = _Parser(source, document)
    for number, line in enumerate(text.split("\n"), 1):
        parser.take(number, line.removesuffix("\r").rstrip(_BLANK))
    files = parser.include.entries.get("files") if parser.include else None
    return [files] if files else []


class _Parser:
    """Takes the lines of one file, in order."""

    def __init__(self, source: Source, document: Document) -> None:
        self.include: Section | None = None
        self._source = source
        self._document = document
        self._section: Section | None = None
        self._entry: Entry | None = None
        self._lost = False  # under a broken head: its lines are not told one by one
        self._again = False  # in a section given twice: that is told, its keys are not

    def take(self, number: int, line: str) -> None:
        body = line.lstrip(_BLANK)
        if not body or body[0] in _COMMENT:
            return
        if _CONTROL.search(line):
            self._fault(number, "a control character in this line; remove it")
        elif line[0] in _BLANK:
            self._continue(number, body)
        elif line[0] == "[":
            self._head(number, line)
        else:
            self._key(number, line)

    def _continue(self, number: int, body: str) -> None:
        if self._entry is not None:
            self._entry.lines.append(body)
        elif not self._lost:
            self._fault(number, "an indented line continues a value, but none is above it")

    def _head(self, number: int, line: str) -> None:
        name, bracket, rest = line[1:].partition("]")
        name = name.strip(_BLANK)
        self._section = self._entry = None
        self._again = False
        self._lost = not bracket or bool(rest.strip(_BLANK)) or not name
        if not bracket:
            self._fault(number, "a section without its closing bracket; write [name]")
        elif rest.strip(_BLANK):
            self._fault(number, f"text after [{name}]; comments begin a line")
        elif not name:
            self._fault(number, "a section without a name")
        else:
            self._section = self._opened(name, number)

    def _opened(self, name: str, number: int) -> Section:
        """Give the section of this name; a second one is a fault, and read into the first."""
        fresh = Section(name, self._source, number)
        if name == "include":
            first, self.include = self.include or fresh, self.include or fresh
            if first is fresh:
                self._document.includes.append(fresh)
        else:
            first = self._document.sections.setdefault(name, fresh)
        if first is not fresh:
            self._again = True
            place = f"{first.source.shown}:{first.line}"
            self._note(fresh.problem(f"given twice, first at {place}; make them one"))
        return first

    def _key(self, number: int, line: str) -> None:
        key, equals, value = line.partition("=")
        key, value = key.rstrip(_BLANK), value.lstrip(_BLANK)
        self._entry = None
        if not equals or not key:
            self._fault(number, "neither [section] nor key = value")
        elif self._section is None:
            if not self._lost:
                self._fault(number, f"{key} stands before the first [section]")
        else:
            self._add(self._section, key, value, number)

    def _add(self, section: Section, key: str, value: str, number: int) -> None:
        entry = Entry(section.name, key, [value] if value else [], self._source, number)
        self._entry = entry
        first = section.entries.setdefault(key, entry)
        if first is not entry and not self._again:
            place = f"{first.source.shown}:{first.line}"
            self._note(entry.problem(f"given twice, first at {place}; remove one"))

    def _fault(self, number: int, message: str) -> None:
        section = self._section.name if self._section else ""
        self._note(Problem(self._source.shown, number, section, "", message))

    def _note(self, problem: Problem) -> None:
        self._document.problems.append(problem)


def _include(waiting: list[Entry], seen: set[str], document: Document) -> list[Entry]:
    """Read the files that the first of the waiting entries names; give the entries they add."""
    entry = waiting[0]
    folder = entry.source.path.parent
    found: list[Entry] = []
    try:
        patterns = items(given(entry).text())
    except ValueError as fault:
        document.problems.append(entry.problem(str(fault)))
        return []
    for pattern in patterns:
        for name in _matching(pattern, folder):
            path = folder / name
            if (real := os.path.realpath(path)) in seen:
                continue  # `*.ini` beside the file itself, or two patterns that meet
            seen.add(real)
            # As the user would name it: beside the name of the file that includes it.
            source = Source(os.path.join(os.path.dirname(entry.source.shown), name), path)
            try:
                found += _parse(_text(path), source, document)
            except _Unreadable as fault:
                place = f"{source.shown}:{fault.line}" if fault.line else source.shown
                document.problems.append(entry.problem(f"{place}: {fault}"))
    return found


def _matching(pattern: str, folder: Path) -> list[str]:
    """Give the files of a pattern, sorted; a plain name stands for itself, there or not."""
    if not _GLOB & set(pattern):
        return [pattern]
    from glob import glob  # only files with patterns pay for it

    return sorted(glob(pattern, root_dir=folder))


def _expand(
    text: str, folder: Path, environ: Mapping[str, str], depth: int
) -> list[str | FileReference]:
    parts: list[str | FileReference] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        following = text[dollar + 1 : dollar + 2]
        if following == "$":
            parts.append("$")
            at = dollar + 2
        elif following == "{":
            at = _closing(text, dollar + 2) + 1
            parts += _variable(text[dollar + 2 : at - 1], folder, environ, depth)
        else:
            raise ValueError("a $ alone; write $$ for a dollar, ${NAME} for a variable")
    parts.append(text[at:])
    return parts


def _closing(text: str, start: int) -> int:
    """Find the brace that closes the one before `start`, stepping over nested variables."""
    depth, at = 1, start
    while at < len(text):
        if text.startswith("$$", at):
            at += 1
        elif text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ValueError("a ${ without its closing brace")


def _variable(
    inner: str, folder: Path, environ: Mapping[str, str], depth: int
) -> list[str | FileReference]:
    if depth == _DEEPEST:
        raise ValueError(f"variables nested more than {_DEEPEST} deep")
    if inner.startswith("file:"):
        return [_reference(_expand(inner[5:], folder, environ, depth + 1), folder)]
    found = re.fullmatch(_VARIABLE, inner)
    if found is None:
        raise ValueError("a variable is written ${NAME}, ${NAME:-default} or ${file:PATH}")
    name, _, default = found.groups()
    value = environ.get(name)
    if default is not None and not value:  # as in a shell: an empty one counts as not set
        return _expand(default, folder, environ, depth + 1)
    if value is None:
        raise ValueError(f"${{{name}}} is not set in the environment; set it, or ${{{name}:-...}}")
    return [value]


def _reference(parts: list[str | FileReference], folder: Path) -> FileReference:
    texts = [part for part in parts if isinstance(part, str)]
    shown = "".join(texts)
    if not shown or len(texts) < len(parts):
        raise ValueError("a file is written ${file:PATH}")
    return FileReference(shown, folder / shown)


def _merge(parts: list[str | FileReference]) -> list[str | FileReference]:
    """Join neighbouring texts, so that equal values have equal parts."""
    merged: list[str | FileReference] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        merged += filter(None, ["".join(texts)])
        texts.clear()
        merged.append(part)
    return [*merged, *filter(None, ["".join(texts)])]
