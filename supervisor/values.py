"""The kinds of values that a configuration holds: durations, sizes, lists, secrets and the rest.

Each reader takes the text that stands behind a key and gives the value, or raises ValueError with
one sentence that says what is wrong and what would be right. Nothing here knows a section, a key
or a file (what names a place is read in `places`); `supervisor.settings` says which key has which
kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from keyword import iskeyword
from re import fullmatch
from typing import Final

from supervisor.secret import Given, Secret, is_secret_name, mask

# Patterns stand as text, and are compiled by who needs them: see supervisor.secret.
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S: Final = 366 * 86400.0
_BYTES: Final = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_LARGEST: Final = 1024 << 40
_DURATION: Final = r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?(ms|s|m|h|d|)"
_SIZE: Final = r"(?i)([0-9]{1,18}) ?(B|KB|MB|GB|TB|)"
_RATE: Final = r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?/ ?(s|m|h)"
_NUMBER: Final = r"[0-9]{1,18}"
_MODE: Final = r"(0o)?0?[0-7]{3}"
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_JOB_NAME: Final = r"[a-z][a-z0-9_.-]{0,62}"
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_TOPIC: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_PRELOAD_MODES: Final = ("none", "libraries", "handlers")

TAKEN_NAMES: Final = frozenset({"master", "http", "scheduler"})
"""What the supervisor's own processes are called."""


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


def quoted(text: str) -> str:
    """Quote a wrong value for a message: in one line, short, without the passwords of URLs."""
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in mask(text[:200]))
    return f'"{printable[:60]}..."' if len(printable) > 60 else f'"{printable}"'


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that a mistyped one most likely meant, if any comes near."""
    from difflib import get_close_matches  # only who errs pays for it

    found = get_close_matches(word[:64].lower(), sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def one_of(word: str, known: Iterable[str]) -> str:
    """Say what would be right instead of a word that is not known."""
    words = list(known)
    near = nearest(word, words)
    return f"did you mean {near}?" if near else f"one of {', '.join(words)}"


# Numbers


def duration(text: str) -> float:
    """Read `500ms`, `30s`, `10m`, `2h`, `1d` or a bare number of seconds, as seconds."""
    found = fullmatch(_DURATION, text.strip())
    if found is None:
        raise ValueError(f"{quoted(text)} is no duration; write 500ms, 30s, 10m, 2h or 1d")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST_S:
        raise ValueError(f"{quoted(text)} is too long; at most 366d")
    return seconds


def positive_duration(text: str) -> float:
    """Read a duration above zero."""
    seconds = duration(text)
    if seconds < 0.001:
        raise ValueError(f"{quoted(text)} is too short; at least 1ms")
    return seconds


def duration_or(word: str) -> Callable[[str], float | None]:
    """Make a reader of durations above zero that gives None for the word (`never`, `off`)."""

    def read(text: str) -> float | None:
        return None if text.strip().lower() == word else positive_duration(text)

    return read


def show_duration(seconds: float) -> str:
    """Write seconds so that `duration` reads the same number back, in the largest fitting unit."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    if 0 < seconds < 1 and (ms := round(seconds * 1000)) * 0.001 == seconds:
        return f"{ms}ms"
    return f"{seconds:.18f}".rstrip("0").rstrip(".") + "s"


def size(text: str) -> int:
    """Read `64KB`, `512MB`, `2GB` or a bare number of bytes, as bytes; 1KB is 1024."""
    found = fullmatch(_SIZE, text.strip())
    if found is None:
        raise ValueError(f"{quoted(text)} is no size; write 64KB, 512MB or 2GB")
    count = int(found[1]) * _BYTES[found[2].upper()]
    if count > _LARGEST:
        raise ValueError(f"{quoted(text)} is too large; at most 1024TB")
    return count


def size_or(word: str) -> Callable[[str], int | None]:
    """Make a reader of sizes above zero that gives None for the word (`off`)."""

    def read(text: str) -> int | None:
        found = None if text.strip().lower() == word else size(text)
        if found == 0:
            raise ValueError(f"{quoted(text)} is too small; write {word} for no limit")
        return found

    return read


def show_size(count: int) -> str:
    """Write bytes so that `size` reads the same number back, in the largest fitting unit."""
    for unit in ("TB", "GB", "MB", "KB"):
        if count and count % _BYTES[unit] == 0:
            return f"{count // _BYTES[unit]}{unit}"
    return str(count)


def number(least: int, most: int) -> Callable[[str], int]:
    """Make a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        word = text.strip()
        if fullmatch(_NUMBER, word) and least <= int(word) <= most:
            return int(word)
        raise ValueError(f"{quoted(text)} is not a whole number from {least} to {most}")

    return read


def number_or(word: str, least: int, most: int) -> Callable[[str], int | None]:
    """Make a reader of whole numbers that gives None for the word (`off`)."""
    inner = number(least, most)

    def read(text: str) -> int | None:
        return None if text.strip().lower() == word else inner(text)

    return read


def rate(text: str) -> float:
    """Read `100/s`, `30/m` or `5/h`, as a number a second."""
    found = fullmatch(_RATE, text.strip())
    if found is None or not float(found[1]):
        raise ValueError(f"{quoted(text)} is no rate; write 100/s, 30/m or 5/h")
    return float(found[1]) / _SECONDS[found[2]]


def mode(text: str) -> int:
    """Read the permission bits of a file, in octal: `0600`."""
    if not fullmatch(_MODE, text.strip()):
        raise ValueError(f"{quoted(text)} is no file mode; write it in octal, as in 0600")
    return int(text, 8)


def exit_codes(text: str) -> frozenset[int]:
    """Read a list of exit codes of processes, 0 to 255."""
    read = number(0, 255)
    return frozenset(read(item) for item in some(text))


# Words


def boolean(text: str) -> bool:
    """Read true/false, yes/no, on/off or 1/0."""
    found = _BOOLEANS.get(text.strip().lower())
    if found is None:
        raise ValueError(f"{quoted(text)} is neither true nor false")
    return found


def choice(*words: str) -> Callable[[str], str]:
    """Make a reader of one of these words, in small or capital letters."""

    def read(text: str) -> str:
        word = text.strip().lower()
        if word not in words:
            raise ValueError(f"{quoted(text)} is not known; {one_of(word, words)}")
        return word

    return read


def word_or(*words: str) -> Callable[[str], str]:
    """Make a reader of one of these words or of a name that the user is free to choose."""

    def read(text: str) -> str:
        lower = text.strip().lower()
        return lower if lower in words else topic_name(text)

    return read


def signal_number(text: str) -> int:
    """Read `TERM`, `SIGTERM` or `15`."""
    from supervisor import signals  # a short command has no need of it

    try:
        return int(signals.parse(text))
    except ValueError:
        raise ValueError(f"{quoted(text)} is no signal; write TERM, INT or HUP") from None


def job_name(text: str) -> str:
    """Read the name of a job. Source: the contract, `[a-z][a-z0-9_.-]{0,62}`."""
    if not fullmatch(_JOB_NAME, text):
        raise ValueError(
            f"{quoted(text)} is no job name; a small letter first, then at most 62 small letters,"
            " digits, _ . -"
        )
    if text in TAKEN_NAMES:
        raise ValueError(f"the name {text} is taken by the supervisor itself; choose another")
    return text


def supervisor_name(text: str) -> str:
    """Read the name of a supervisor; it becomes the name of its folders."""
    if not fullmatch(_NAME, text):
        raise ValueError(
            f"{quoted(text)} is no name; a letter or digit first, then at most 62 letters,"
            " digits, _ . -"
        )
    return text


def topic_name(text: str) -> str:
    """Read the name of a topic. Source: it becomes a part of keys (`mq:TOPIC:dead`)."""
    name = text.strip()
    if not fullmatch(_TOPIC, name):
        raise ValueError(f"{quoted(text)} is no topic name; letters, digits, _ . - and at most 200")
    return name


def message_key(text: str) -> str:
    """Read what identifies a message: `id`, `key`, or `data.FIELD` (also `data.FIELD.FIELD`)."""
    word = text.strip()
    field = word.removeprefix("data.")
    if word in ("id", "key") or (field != word and all(map(str.strip, field.split(".")))):
        return word
    raise ValueError(f"{quoted(text)} is no key of a message; write id, key or data.FIELD")


def line(text: str) -> str:
    """Read any text that is not empty."""
    if not text.strip():
        raise ValueError("empty; give a value or leave the key out")
    return text


# Lists


def items(text: str) -> tuple[str, ...]:
    """Read a list, separated by commas or lines; it may be empty. Raises: ValueError for twins."""
    found = [item.strip() for item in text.replace("\n", ",").split(",")]
    words = tuple(item for item in found if item)
    known: set[str] = set()
    for word in words:
        if word in known:
            raise ValueError(f"{quoted(word)} is in the list twice; remove one")
        known.add(word)
    return words


def some(text: str) -> tuple[str, ...]:
    """Read a list that is not empty."""
    found = items(text)
    if not found:
        raise ValueError("empty; give at least one")
    return found


def topics(text: str) -> tuple[Topic, ...]:
    """Read `payment.retry:5, system.cleanup`: topics with their weights (1 if none is given)."""
    weight = number(1, 1000)
    found: dict[str, Topic] = {}
    for item in some(text):
        name, colon, share = item.partition(":")
        name = topic_name(name)
        if name in found:
            raise ValueError(f"topic {name} is in the list twice; remove one")
        try:
            found[name] = Topic(name, weight(share) if colon else 1)
        except ValueError as fault:
            raise ValueError(f"the weight of {name}: {fault}") from None
    return tuple(found.values())


def command(text: str) -> tuple[str, ...]:
    """Read a command line as a shell would split it; there is no shell."""
    from shlex import split  # only jobs of type program pay for it

    try:
        words = tuple(split(text))
    except ValueError as error:
        raise ValueError(f"the quotes do not match ({str(error).lower()})") from None
    if not words or not words[0]:
        raise ValueError("empty; write the program and its arguments")
    return words


def preload(text: str) -> Preload:
    """Read `none`, `libraries`, `handlers`, or modules (which add to `libraries`)."""
    words = some(text)
    modes = [word for word in words if word in _PRELOAD_MODES]
    modules = tuple(word for word in words if word not in _PRELOAD_MODES)
    if len(modes) > 1 or (modules and "none" in modes):
        raise ValueError(f"{' and '.join(modes)} do not go together; choose one")
    for module in modules:
        module_name(module)
    return Preload(modes[0] if modes else "libraries", modules)


# Python names


def module_name(text: str) -> str:
    """Read the dotted name of a Python module."""
    if not all(_is_identifier(part) for part in text.split(".")):
        raise ValueError(f"{quoted(text)} is no module name; write it as in shop.orders")
    return text


def attribute(text: str) -> str:
    """Read `module:attr`; whether it is there is for the import to say."""
    name = text.strip()
    module, colon, attr = name.partition(":")
    parts = [*module.split("."), *attr.split(".")]
    if colon and all(_is_identifier(part) for part in parts):
        return name
    if not colon and "." in name and all(_is_identifier(part) for part in name.split(".")):
        module, _, attr = name.rpartition(".")
    else:
        module, attr = "shop.orders", "handle"
    raise ValueError(f"{quoted(text)} is not module:attr; write it as in {module}:{attr}")


def _is_identifier(word: str) -> bool:
    return word.isidentifier() and not iskeyword(word)


# Values that may be secret


def environment(given: Given) -> dict[str, Secret]:
    """Read `KEY=VALUE` lines. A variable's line ends stay in its value and make no new key."""
    found: dict[str, Secret] = {}
    for secret in given.lines:
        first = secret.parts[0] if secret.parts else ""
        name, equals, rest = first.partition("=") if isinstance(first, str) else ("", "", "")
        name = name.rstrip()
        if not equals or not fullmatch(_VARIABLE, name):
            raise ValueError(f"{quoted(name)} is no variable; write KEY=VALUE, one a line")
        if name in found:
            raise ValueError(f"{name} is given twice; remove one")
        parts = (rest.lstrip(" \t"), *secret.parts[1:])
        found[name] = Secret(tuple(part for part in parts if part), is_secret_name(name))
    return found
