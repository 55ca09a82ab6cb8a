r"""A file of variables, as systemd, Docker and most deployments have one: `KEY=VALUE` lines.

Blank lines and lines that begin with # or ; say nothing; `export ` before a name is allowed. A
value in single quotes is taken as it is, in double quotes with \" and \\ for " and \, without
quotes up to the end of the line less its blanks. No variable is replaced and no value goes on in
the next line. Faults are told with their line and never with a value: it may be a secret. Read by
the process that needs it, as its own user.
"""

from __future__ import annotations

from pathlib import Path
from re import fullmatch, sub
from typing import Final

from supervisor import reading

_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_DOUBLE: Final = r'"((?:[^"\\]|\\.)*)"'
_SINGLE: Final = r"'([^']*)'"
_ESCAPE: Final = r'\\(["\\])'
_LARGEST: Final = 1 << 20


def read(path: Path) -> dict[str, str]:
    """Read a file whole. Raises: OSError, or ValueError that begins with PATH:LINE."""
    try:
        data = reading.read(path, _LARGEST)
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}; this is no file of variables") from None
    found: dict[str, str] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            name, value = _entry(line)
            if name in found:
                raise ValueError(f"{name} is given twice; remove one")
        except ValueError as fault:
            raise ValueError(f"{path}:{number}: {fault}") from None
        if name:
            found[name] = value
    return found


def _entry(line: bytes) -> tuple[str, str]:
    """Take one line apart; ("", "") for one that says nothing."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("a zero byte; remove it")
    if not text or text[0] in "#;":
        return "", ""
    name, equals, rest = text.partition("=")
    name = name.removeprefix("export ").strip()
    if not equals or not fullmatch(_NAME, name):
        raise ValueError("neither KEY=VALUE nor a comment")
    return name, _value(rest.strip())


def _value(text: str) -> str:
    if text[:1] not in ('"', "'"):
        return text
    found = fullmatch(_SINGLE if text[0] == "'" else _DOUBLE, text)
    if found is None:
        raise ValueError(f"a value that begins with {text[0]} ends with one; nothing may follow")
    return found[1] if text[0] == "'" else sub(_ESCAPE, r"\1", found[1])
