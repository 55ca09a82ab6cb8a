"""The kinds of values that a configuration holds: durations, sizes, lists, secrets and the rest.

Each reader takes the text that stands behind a key and gives the value, or raises ValueError with
one sentence that says what is wrong and what would be right. Nothing here knows a section, a key
or a file; `supervisor.settings` says which key has which kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_URL_PASSWORD: Final = re.compile(r"(://[^\s:/?#]*:)[^\s]*@")
_QUERY_PASSWORD: Final = re.compile(
    r"([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]*", re.I
)
_SECRET_NAME: Final = re.compile(r"password|token|secret|ping_url", re.I)


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

        Raises: OSError or UnicodeDecodeError when a file cannot be read.
        """
        return "".join(part if isinstance(part, str) else _content(part) for part in self.parts)

    def __str__(self) -> str:
        """Give no part of the secret."""
        return "***"

    def __repr__(self) -> str:
        """Give no part of the secret."""
        return "Secret(***)"


def plain(text: str, *, hidden: bool = False) -> Secret:
    """Make a Secret of a text that is at hand."""
    return Secret((text,), hidden)


def is_secret_name(name: str) -> bool:
    """Tell whether a value of this name is never shown: `*password*`, `*token*`, `*secret*`."""
    return _SECRET_NAME.search(name) is not None


def mask(text: str) -> str:
    """Replace the passwords of URLs in a text by `***`."""
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", text))


def _as_written(part: str | FileReference) -> str:
    return part if isinstance(part, str) else f"${{file:{part.shown}}}"


def _content(part: FileReference) -> str:
    return part.path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that a job consumes, and its share of the attention beside its siblings."""

    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Preload:
    """What the master imports before it forks: the mode, and modules named one by one."""

    mode: str = "libraries"
    modules: tuple[str, ...] = ()
