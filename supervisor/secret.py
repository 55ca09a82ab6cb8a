"""A text of the configuration that may be secret, or may name files that hold secrets.

What is built here can be passed around, compared and logged without giving anything away; only
`reveal`, called in the child that needs it, reads the files. Made by `supervisor.ini`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import reading

# Patterns stand as text: compiling all of them would cost each short command two milliseconds.
_URL_PASSWORD: Final = r"(://[^\s:/?#]*:)[^\s]*@"
_QUERY_PASSWORD: Final = r"(?i)([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]*"
_LARGEST: Final = 1 << 20
_SECRET_NAME: Final = r"(?i)password|token|secret|ping_url"


@dataclass(frozen=True, slots=True)
class FileReference:
    """A `${file:PATH}`: the content of a file, read by the child that needs it and by nobody else.

    `shown` is the path as the configuration names it, `path` the absolute one.
    """

    shown: str
    path: Path


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A text that may be secret, or may hold secrets that lie in files.

    Neither `str()` nor `repr()` shows it, so that no log line, traceback or f-string can.
    """

    parts: tuple[str | FileReference, ...]
    hidden: bool = False

    @property
    def is_plain(self) -> bool:
        """Tell whether the text is known here, without reading a file."""
        return not any(isinstance(part, FileReference) for part in self.parts)

    @property
    def shown(self) -> str:
        """Give what may be displayed: `***` for a secret's name, a URL without its password."""
        if self.hidden:
            return "***"
        return mask("".join(_as_written(part) for part in self.parts))

    def reveal(self) -> str:
        """Give the real text; files are read now, less one line end. Runs in: child.

        Raises: OSError or ValueError when a file cannot be read, or is no text of a sensible size.
        """
        return "".join(part if isinstance(part, str) else _content(part) for part in self.parts)

    def __str__(self) -> str:
        """Give no part of the secret."""
        return "***"

    def __repr__(self) -> str:
        """Give no part of the secret."""
        return "Secret(***)"


def plain(text: str) -> Secret:
    """Make a Secret of a text that is at hand."""
    return Secret((text,))


def is_secret_name(name: str) -> bool:
    """Tell whether a value of this name is never shown: `*password*`, `*token*`, `*secret*`."""
    return re.search(_SECRET_NAME, name) is not None


def mask(text: str) -> str:
    """Replace the passwords of URLs in a text by `***`."""
    return re.sub(_QUERY_PASSWORD, r"\1***", re.sub(_URL_PASSWORD, r"\1***@", text))


def _as_written(part: str | FileReference) -> str:
    return part if isinstance(part, str) else f"${{file:{part.shown}}}"


def _content(part: FileReference) -> str:
    try:
        text = reading.read(part.path, _LARGEST).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{part.path} is not UTF-8 text") from None
    except ValueError as fault:
        raise ValueError(f"{part.path} {fault}") from None
    return text.removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, slots=True)
class Given:
    """What stands behind a key: its lines with variables replaced, and the folder of its file."""

    lines: tuple[Secret, ...]
    folder: Path

    def text(self) -> str:
        """Give the whole text. Raises: ValueError when it needs a secret file."""
        if not all(line.is_plain for line in self.lines):
            raise ValueError("${file:...} may stand only in url, environment and option.*")
        return "\n".join(line.reveal() for line in self.lines)

    def line(self) -> str:
        """Give the text of a value that fits in one line. Raises: ValueError when it does not."""
        self.secret()
        return self.text()

    def secret(self) -> Secret:
        """Give the one line, which may name files. Raises: ValueError when there are more."""
        if len(self.lines) > 1:
            raise ValueError("one line is expected; an indented line belongs to the key above it")
        if not self.lines:
            raise ValueError("empty; give a value or leave the key out")
        return self.lines[0]
