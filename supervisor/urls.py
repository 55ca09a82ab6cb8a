"""The URLs of a configuration: where the messages of a queue are, where handled keys are kept.

Only what can be known here is looked at; what a file holds is known to the child alone, and
whether a server answers to `check` and to the child.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from supervisor.secret import FileReference, Given, Secret, plain
from supervisor.values import nearest, quoted, some

_TABLE_FORMS: Final = "postgresql://USER@HOST:PORT/DATABASE or sqlite:///PATH"
_POSTGRES: Final = ("postgresql", "postgres")
_FORMS: Final = "redis://HOST:PORT/DATABASE or sqlite:///PATH"
_REDIS: Final = ("redis", "rediss")
_STREAM: Final = "+stream"

KAFKA: Final = "kafka://"
"""How the URL of a cluster begins; only commands and calls know it, jobs have `brokers`."""


LOCK_ON_SQLITE: Final = "SQLite locks whole files, and no rows; write lease, or leave it out"
"""Why the rows of a table there are not held by locks."""


def queue_url(given: Given) -> Secret:
    """Read the URL of a queue. A relative `sqlite:///PATH` is relative to the file."""
    return _url(given, "queue")


def table_url(given: Given) -> Secret:
    """Read the URL of a database that has a table."""
    secret = given.secret()
    first = secret.parts[0] if secret.parts else ""
    if isinstance(first, FileReference):
        return secret
    scheme, slashes, _ = first.partition("://")
    if slashes and scheme == "sqlite":
        return _of_file(given, secret, "table")
    if slashes and scheme in _POSTGRES:
        return _of_postgres(secret)
    raise ValueError(f"{quoted(secret.shown)} is no database; write {_TABLE_FORMS}")


def store_url(given: Given) -> Secret | None:
    """Read `none` or the URL of a store of keys, in the same way."""
    secret = given.secret()
    if len(secret.parts) == 1 and str(secret.parts[0]).strip().lower() == "none":
        return None
    return _of_postgres(secret) if is_postgres(secret) else _url(given, "store")


def stream_url(given: Given) -> Secret:
    """Read the URL of a server that has streams."""
    secret = _url(given, "server of streams")
    if not is_redis(secret) and not isinstance(secret.parts[0], FileReference):
        raise ValueError(f"{quoted(secret.shown)} has no streams; write redis://HOST:PORT/DATABASE")
    return secret


def brokers(text: str) -> tuple[str, ...]:
    """Read the brokers of a cluster of Kafka: `HOST:PORT`, several. Raises: ValueError."""
    found = some(text)
    for one in found:
        host, colon, port = one.rpartition(":")
        is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
        if not (colon and host and is_port) or "://" in one or not one.isprintable():
            raise ValueError(f"{quoted(one)} is no broker; write HOST:PORT, several with commas")
    return found


def by_hand(url: str) -> str:
    """Read the URL of a queue that was given to a command or a call. Raises: ValueError.

    There, where no job says it, that of a stream begins with `redis+stream`.
    """
    if url.startswith(KAFKA):
        brokers(url.removeprefix(KAFKA).partition("?")[0])
        return url
    if is_of_stream(url):
        stream_url(Given((plain(of_server(url)),), Path.cwd()))
        return url
    return queue_url(Given((plain(url),), Path.cwd())).reveal()


def of_stream(url: str) -> str:
    """Give the URL of a stream, which that of its server does not tell from the one of a list."""
    return url.replace("://", f"{_STREAM}://", 1)


def of_server(url: str) -> str:
    """Undo `of_stream`."""
    return url.replace(f"{_STREAM}://", "://", 1)


def is_of_stream(url: str) -> bool:
    """Tell whether `of_stream` gave the URL."""
    return url.partition("://")[0].removesuffix(_STREAM) in _REDIS and of_server(url) != url


def is_redis(url: Secret | str) -> bool:
    """Tell whether a URL, as far as it is known here, is that of a Redis."""
    return _scheme(url) in _REDIS


def is_postgres(url: Secret | str) -> bool:
    """Tell whether a URL, as far as it is known here, is that of a PostgreSQL."""
    return _scheme(url) in _POSTGRES


def is_sqlite(url: Secret | str) -> bool:
    """Tell whether a URL, as far as it is known here, is that of a file of SQLite."""
    return _scheme(url) == "sqlite"


def _scheme(url: Secret | str) -> str:
    """Give how a URL begins; nothing where a file holds that."""
    first = url if isinstance(url, str) else next(iter(url.parts), "")
    scheme, slashes, _ = first.partition("://") if isinstance(first, str) else ("", "", "")
    return scheme if slashes else ""


def _url(given: Given, what: str) -> Secret:
    secret = given.secret()
    first = secret.parts[0] if secret.parts else ""
    if isinstance(first, FileReference):
        return secret  # only the child can know
    scheme, slashes, _ = first.partition("://")
    if not slashes or scheme not in (*_REDIS, *_POSTGRES, "sqlite"):
        near = nearest(scheme, ("redis", "sqlite")) if slashes else None
        hint = f"did you mean {near}://?" if near else f"write {_FORMS}"
        raise ValueError(f"{quoted(secret.shown)} is no {what}; {hint}")
    if scheme in _POSTGRES:
        raise ValueError(f"{scheme}:// is not in this release; write {_FORMS}")
    if scheme == "sqlite":
        return _of_file(given, secret, what)
    _check_server(secret, what)
    return secret


def _of_postgres(secret: Secret) -> Secret:
    text = "".join(part for part in secret.parts if isinstance(part, str))
    if any(part.isspace() or not part.isprintable() for part in text):
        raise ValueError(f"{quoted(secret.shown)}; write it in one line, without blanks")
    return secret


def _of_file(given: Given, secret: Secret, what: str) -> Secret:
    rest = str(secret.parts[0]).partition("://")[2]
    if len(secret.parts) > 1:
        raise ValueError("the path of an SQLite file is no secret; write it without ${file:...}")
    if not rest.startswith("/") or rest == "/":
        raise ValueError("write sqlite:///PATH (relative to this file) or sqlite:////PATH")
    if rest == "/:memory:":
        raise ValueError(f"a {what} in memory ends with its process; write sqlite:///PATH")
    return plain(f"sqlite:///{given.folder / rest[1:]}")


def _check_server(secret: Secret, what: str) -> None:
    """See that a URL of a server can be read as one; a secret file stands for any word."""
    from urllib.parse import urlsplit

    text = "".join(part if isinstance(part, str) else "x" for part in secret.parts)
    form = f"{quoted(secret.shown)} is no {what}; write"
    if any(part.isspace() or not part.isprintable() for part in text):
        raise ValueError(f"{form} it in one line, without blanks")
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError:
        raise ValueError(f"{form} redis://HOST:PORT/DATABASE with a port up to 65535") from None
    if not found.hostname or port == 0:
        raise ValueError(f"{form} redis://HOST:PORT/DATABASE")
    database = found.path.strip("/")
    if database and not database.isdecimal():
        raise ValueError(f"{form} redis://HOST:PORT/DATABASE, where DATABASE is a number")
