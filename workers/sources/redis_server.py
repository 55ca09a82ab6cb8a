"""A Redis server behind a URL: connecting, a deadline on every call, and what its errors mean.

Nothing is retried here. A call that timed out may have been carried out, and only its caller knows
whether to ask again does harm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from supervisor.errors import configuration_fault
from workers.sources.source import SourceTrouble

T = TypeVar("T")

Argument = bytes | str | int | float
"""What a script may be given."""

_OLDEST: Final = (6, 2)
"""Of this version are BLMOVE, and RPOP of several at once."""


_OF_SCRIPT: Final = re.compile(
    r" script: [0-9a-f]{40}, on @user_script:\d+"
    r"|^Error running script \(call to f_[0-9a-f]{40}\): @user_script:\d+: (user_script:\d+: )?"
)
"""Where in a script an error was; as Redis 7 and 6.2 write it."""


class RedisServer:
    """One connection for calls, and a way to more of them. Used by one thread.

    Connects at the first call, and again at the first call after a failure.
    """

    def __init__(self, url: str, *, io_timeout: float) -> None:
        self._client = client = _client(url, io_timeout)
        self._execute: Callable[..., Any] = client.execute_command
        self._scripts: dict[str, Script] = {}

    def check(self, kinds: Mapping[str, str]) -> None:
        """See that it is there, lets us in, is new enough, and takes what is written.

        `kinds` are names of keys and the type of each, as it is when the key is there. Needs no
        more rights than the work does: INFO is one of an administrator. Raises: SourceTrouble.
        """
        words = [_text(word) for word in _flat(self.do("HELLO", 2))]
        told = dict(zip(words[::2], words[1::2], strict=False))
        if tuple(int(part) for part in told["version"].split(".")[:2]) < _OLDEST:
            raise SourceTrouble(f"Redis {told['version']} is too old; 6.2 is needed")
        if told.get("role", "master") != "master":
            raise SourceTrouble("it is a replica, which takes nothing; name its master")
        found = self.do_each(("TYPE", key) for key in kinds)
        for (key, kind), is_one in zip(kinds.items(), map(_text, found), strict=True):
            if is_one not in (kind, "none"):
                raise SourceTrouble(
                    f"{key} is a {is_one}, and no {kind}: another program uses that name"
                )

    def do(self, *words: Argument) -> Any:  # noqa: ANN401 - each command has its own answer
        """Carry out a command. Raises: SourceTrouble."""
        return self._call(partial(self._execute, *words))

    def do_all(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Carry out commands in one transaction. Raises: SourceTrouble.

        A server without memory refuses any, even of commands that need none.
        """
        return self._do_several(commands, as_one=True)

    def do_each(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Carry out commands one after the other, sent at once. Raises: SourceTrouble."""
        return self._do_several(commands, as_one=False)

    def _do_several(self, commands: Iterable[Sequence[Argument]], *, as_one: bool) -> list[Any]:
        pipeline: Any = self._client.pipeline(transaction=as_one)  # its methods have no types
        for words in commands:
            pipeline.execute_command(*words)
        return self._call(pipeline.execute)

    def run(self, script: str, keys: Sequence[str], *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a Lua script, which is one transaction. Raises: SourceTrouble."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self._client.register_script(script)
        return self._call(partial(known, keys=keys, args=arguments))

    def line(self) -> Line:
        """Open one connection more, for calls that block. Raises: SourceTrouble."""
        return Line(self._client.connection_pool.make_connection())

    def close(self) -> None:
        """Disconnect; the next call connects again."""
        self._client.connection_pool.disconnect()

    def _call(self, what: Callable[[], T]) -> T:
        return _carried_out(what, self.close)


class Line:
    """A connection whose answers may come much later. Every call may raise SourceTrouble."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - its methods have no types
        self._connection = connection
        self._call(connection.connect)

    def ask(self, *words: Argument) -> None:
        """Send a command, and wait for nothing."""
        self._call(lambda: self._connection.send_command(*words))

    def has_answer(self) -> bool:
        """Tell whether an answer has come, or the connection was closed."""
        return bool(self._call(self._connection.can_read))

    def answer(self) -> bool:
        """Wait for an answer, and throw it away; False: the server has no memory for that."""
        return bool(self._call(self._read))

    def _read(self) -> bool:
        try:
            self._connection.read_response()
        except redis.exceptions.OutOfMemoryError:
            return False
        return True

    def fileno(self) -> int:
        """Give the descriptor that becomes readable with an answer."""
        return int(self._connection._sock.fileno())  # there is no public way to it

    def close(self) -> None:
        """Disconnect."""
        self._connection.disconnect()

    def _call(self, what: Callable[[], T]) -> T:
        return _carried_out(what, self.close)


def _carried_out(call: Callable[[], T], close: Callable[[], None]) -> T:
    """Call the library; disconnect when that fails. Raises: SourceTrouble."""
    try:
        return call()
    except (redis.RedisError, OSError) as error:
        # What is half read of an answer would be taken for the next one.
        close()
        raise SourceTrouble(in_words(error)) from error


def _flat(answer: Any) -> list[Any]:  # noqa: ANN401 - a list, or what the library makes of it
    if isinstance(answer, dict):
        return [word for pair in answer.items() for word in pair]
    return list(answer)


def _text(word: object) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def in_words(error: Exception) -> str:
    """Say what is wrong with a server, in one line and without the URL."""
    words = _OF_SCRIPT.sub("", " ".join(str(error).split())).rstrip(".")
    return words or type(error).__name__


def _client(url: str, io_timeout: float) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=io_timeout,
            socket_connect_timeout=io_timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
    except ValueError as error:
        raise configuration_fault("url", f"{error}; write redis://HOST:PORT/DATABASE") from None
