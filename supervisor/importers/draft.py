"""What an importer has understood of a foreign configuration, and how that is written as ours.

A draft is sections of keys and notes, in plain text: `written` escapes it, asks the table of
settings whether each key is built and can be read, and turns what cannot into a comment with the
reason. So a key of a later release becomes real by itself once it is built. Opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Final

from supervisor import ini, settings, values
from supervisor.secret import Given, is_secret_name, mask

MARKS: Final = "\ue000\ue001"
"""What stands around the name of a variable in the plain text of a draft; no source may hold it."""

_WIDTH: Final = 98
_INDENT: Final = " " * 4
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MARKED: Final = re.compile(f"{MARKS[0]}(.*?){MARKS[1]}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_NAME: Final = 63

_OF_THE_MACHINE: Final = frozenset({"directory", "user", "group", "env_file", "cpu_affinity"})
"""Keys whose value may be right on the machine that it is meant for: `check` has the last word."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of ours with its value in plain text; several lines make several lines."""

    name: str
    value: str


@dataclass(slots=True)
class Section:
    """A section of ours with the comments above it, or (without a name) a paragraph of comments."""

    name: str = ""
    lines: list[Key | str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)

    def key(self, name: str, value: object) -> None:
        """Add a key."""
        self.lines.append(Key(name, str(value)))

    def note(self, text: str) -> None:
        """Add a comment."""
        self.lines.append(text)

    def environment(self, variables: Mapping[str, str]) -> None:
        """Add the variables of a process; one that a file cannot hold is told."""
        lines = []
        for name, value in variables.items():
            if not _VARIABLE.fullmatch(name):
                self.note(f"not imported: the variable {name}: no name that a shell knows")
            elif _CONTROL.search(value) or value != value.strip(" \t"):
                self.note(
                    f"not imported: the variable {name}: a line cannot hold control characters"
                    f" or blanks at its ends; write {name}=${{file:PATH}}"
                )
            else:
                lines.append(f"{name}={value}")
        if lines:
            self.key("environment", "\n".join(lines))

    def lost(self, key: str, value: str, place: str, reason: str) -> None:
        """Say that a key of the source has no counterpart, and why."""
        self.note(f"not imported: {key} = {shown(key, value)} ({place}): {reason}")


@dataclass(slots=True)
class Draft:
    """A whole configuration of ours in the making."""

    sections: list[Section] = field(default_factory=list)

    def section(self, name: str = "") -> Section:
        """Begin a section at the end."""
        self.sections.append(Section(name))
        return self.sections[-1]


@dataclass(frozen=True, slots=True)
class Written:
    """The text of a configuration, and what the user should know about it."""

    text: str
    jobs: int
    remarks: int
    holds_secrets: bool


def variable(name: str) -> str:
    """Give what stands in plain text for our `${NAME}`. Raises: ValueError for a wrong name."""
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{values.quoted(name)} is no name of a variable")
    return f"{MARKS[0]}{name}{MARKS[1]}"


def resolved(text: str, environ: Mapping[str, str]) -> str:
    """Replace the variables of a plain text by what they hold. Raises: ValueError for one unset."""
    try:
        return _MARKED.sub(lambda found: environ[found[1]], text)
    except KeyError as error:
        raise ValueError(
            f"the variable {error.args[0]} decides, and is not set here; set it for the import"
        ) from None


def shown(key: str, value: str) -> str:
    """Give a value of the source as a comment may repeat it: in one line, without secrets."""
    if is_secret_name(key) or key in ("environment", "env"):
        return "***"
    return mask(" ".join(_MARKED.sub(r"${\1}", value).split())) or "(empty)"


class Names:
    """Makes valid and unique names of jobs."""

    def __init__(self) -> None:
        self._taken = set(values.TAKEN_NAMES)

    def take(self, wanted: str) -> str:
        """Give the nearest name that is valid and still free."""
        name = re.sub(r"[^a-z0-9_.-]+", "-", wanted.lower()).strip("-.")
        if not re.match("[a-z]", name):
            name = f"job-{name}".rstrip("-")
        name = name[:_LONGEST_NAME]
        found, count = name, 1
        while found in self._taken:
            count += 1
            found = f"{name[: _LONGEST_NAME - 1 - len(str(count))]}-{count}"
        self._taken.add(found)
        return found


def written(draft: Draft, folder: Path, environ: Mapping[str, str]) -> Written:
    """Write a draft as the text of a configuration that will lie in `folder`.

    `environ` answers for the variables that it names; one that is not set is for `check` to tell.
    """
    writer = _Writer(folder, environ)
    paragraphs = ["\n".join(writer.section(section)) for section in draft.sections]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"
    return Written(text, writer.jobs, writer.remarks, writer.holds_secrets)


class _Writer:
    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.jobs = 0
        self.remarks = 0
        self.holds_secrets = False
        self._folder = folder
        self._environ = environ

    def section(self, section: Section) -> Iterator[str]:
        is_job = section.name.startswith("daemon:")
        reasons = {
            line.name: reason
            for line in section.lines
            if isinstance(line, Key) and (reason := self._refusal(section.name, line))
        }
        whole = is_job and any(key in reasons for key in ("type", "command"))
        for remark in section.above:
            yield from comment(remark)
        if whole:
            yield from comment("A job that cannot be imported; what would be needed is below.")
        if section.name:
            yield f"# [{section.name}]" if whole else f"[{section.name}]"
        self.jobs += is_job and not whole
        for line in section.lines:
            if isinstance(line, str):
                self.remarks += line.startswith("not imported")
                yield from comment(line)
            elif whole or line.name in reasons:
                self.remarks += 1
                reason = reasons.get(line.name, "its job is not imported")
                yield from comment(f"{reason}: {line.name} = {shown(line.name, line.value)}")
            else:
                yield from self._key(line)

    def _key(self, key: Key) -> Iterator[str]:
        raw = _raw(key)
        if key.name == "environment":
            yield from self._hints(key)
        if len(raw) == 1:
            yield f"{key.name} = {raw[0]}"
        else:
            yield f"{key.name} ="
            yield from (_INDENT + line for line in raw)

    def _hints(self, key: Key) -> Iterator[str]:
        """Say which variables look like secrets, and where those belong."""
        for line in key.value.split("\n"):
            name, _, value = line.partition("=")
            is_secret = is_secret_name(name) or mask(value) != value
            if is_secret and not value.startswith(MARKS[0]):
                self.holds_secrets = True
                yield from comment(
                    f"{name} looks like a secret: better {name}=${{file:PATH}}, the path of a"
                    " file of mode 0600, which only the process that needs it reads"
                )

    def _refusal(self, section: str, key: Key) -> str:
        """Say why a key cannot be written as such; empty when it can."""
        table = "daemon:NAME" if section.startswith("daemon:") else section
        rows = settings.rows(table, key.name)
        row = next((row for row in rows if "program" in row.types), None)
        if row is None or not row.built:
            return "not in this release"
        if any(_CONTROL.search(line) or line != line.strip(" \t") for line in _raw(key)):
            return "not imported, as a line cannot hold control characters or blanks at its ends"
        if any(line.startswith(("#", ";")) for line in _raw(key)[1:]) or "" in _raw(key)[1:]:
            return "not imported, as a further line cannot be empty or begin like a comment"
        try:
            lines = tuple(ini.expand(line, self._folder, self._environ) for line in _raw(key))
        except ValueError:
            return ""  # a variable that is not set here and now
        try:
            row.read(Given(lines, self._folder))
        except ValueError as fault:
            return "" if key.name in _OF_THE_MACHINE else f"not imported, as {fault}"
        return ""


def comment(text: str) -> Iterable[str]:
    """Write a text as comment lines, control characters made visible."""
    safe = _CONTROL.sub(lambda found: repr(found[0])[1:-1], _MARKED.sub(r"${\1}", text))
    lines = wrap(safe, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines] or ["#"]


def _raw(key: Key) -> list[str]:
    """Write a value as a file of ours holds it: dollars doubled, variables in braces."""
    lines = key.value.replace("$", "$$").split("\n")
    return [_MARKED.sub(r"${\1}", line) for line in lines]
