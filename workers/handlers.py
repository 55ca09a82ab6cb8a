"""From `module:attr` in the configuration to something that can be called.

Functions and classes are both welcome: a class is made once a process, and may have `open` and
`close`. Imports happen here, in the child, at the last moment; what they raise is the start's
failure.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

from supervisor.config import Job
from supervisor.errors import ExitCode
from workers.base import Context, Message

_log = logging.getLogger(__name__)


def load(target: str) -> object:
    """Import `module:attr`; attr may have dots.

    Raises: ImportError or AttributeError when it is not there, and what the import itself raises.
    """
    module, _, path = target.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


_LAZY: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR

BATCH: Final = "handle_batch"
"""The method, or the name of a function, that gets a list of messages."""


class Handler:
    """One handler of a process: the function to call, and what is to do before and after.

    `verbs` are the methods that a class may do its work with, the first one that it has: `handle`
    for messages, `handle_batch` for several at once, `execute` for runs. A function is called
    `handle_batch` where it is to get several. One object serves all threads of the process.
    """

    def __init__(self, target: str, *verbs: str) -> None:
        self._use(load(target), target, verbs)

    @classmethod
    def of(cls, found: object, *verbs: str) -> Handler:
        """Make one of the function or class itself."""
        handler = cls.__new__(cls)
        handler._use(found, getattr(found, "__qualname__", repr(found)), verbs)
        return handler

    def _use(self, found: object, target: str, verbs: Sequence[str]) -> None:
        thing = found() if isinstance(found, type) else found
        verb = next((name for name in verbs if callable(getattr(thing, name, None))), None)
        self._lives = verb is not None
        if verb is not None:
            call = getattr(thing, verb)
        elif not isinstance(found, type) and callable(found):
            call, verb = found, _verb_of(found, target, verbs)
        else:
            raise TypeError(
                f"{target} is neither a function nor a class with a method {' or '.join(verbs)}"
            )
        refuse_lazy(call, target)
        self._object = thing
        self.target = target
        self.takes_many = verb == BATCH
        self.call: Callable[..., Any] = call

    def one(self, message: Message, context: Context) -> None:
        """Call it with one message, whatever it takes.

        Raises: what it raises, or returns; TypeError for work that it has not done.
        """
        if not self.takes_many:
            result = self.call(message, context)
            if result is not None:
                refuse_undone(result, self.target)
            return
        [outcome] = outcomes(self.call([message], context), 1)
        if outcome is not None:
            raise outcome

    def open(self, context: Context) -> None:
        """Call `open`, with the context if it takes an argument, where there is one."""
        _call_optional(self._object if self._lives else None, "open", context)

    def close(self, context: Context) -> None:
        """Call `close` in the same way."""
        _call_optional(self._object if self._lives else None, "close", context)


def _verb_of(found: Callable[..., object], target: str, verbs: Sequence[str]) -> str:
    """Say how a plain function is called. Raises: TypeError when it does not say that itself."""
    name = getattr(found, "__name__", "")
    if BATCH in verbs and (name == BATCH or verbs[0] == BATCH):
        if name != BATCH:
            raise TypeError(
                f"{target} is called with a list of messages, as batch is above 1: call it"
                f" {BATCH}, or give a class with a method {BATCH}"
            )
        return BATCH
    return verbs[0]


def outcomes(result: object, count: int) -> Sequence[BaseException | None]:
    """Read what `handle_batch` returned: an outcome for each message, None for a done one.

    A list that holds exceptions speaks of the messages in their order, as if each had been raised
    for that one alone; with anything else all are done, as the result of `handle` says nothing.
    Raises: TypeError, ValueError when it cannot be so.
    """
    refuse_undone(result, BATCH)
    if not isinstance(result, (list, tuple)):
        return (None,) * count
    errors = [one if isinstance(one, BaseException) else None for one in result]
    if all(error is None for error in errors):
        return (None,) * count
    if len(errors) != count:
        raise ValueError(f"{BATCH} returned {len(errors)} outcomes for {count} messages")
    return errors


class TopicHandlers:
    """The handlers of a job by topic; one object for each, however many topics it serves."""

    def __init__(self, job: Job) -> None:
        targets = {target for target in (job.handler, *job.handlers.values()) if target}
        verbs = (BATCH,) if job.batch > 1 else ("handle", BATCH)
        self._all = {target: Handler(target, *verbs) for target in sorted(targets)}
        self._default = self._all.get(job.handler or "")
        self._by_topic = {topic: self._all[target] for topic, target in job.handlers.items()}
        self._warned: set[str] = set()

    def open(self, context: Context) -> None:
        """Open each handler."""
        for handler in self._all.values():
            handler.open(context)

    def close(self, context: Context) -> None:
        """Close each handler; one that fails does not keep the others from it."""
        for handler in self._all.values():
            try:
                handler.close(context)
            except Exception:
                _log.exception("%s.close() raised an error", handler.target)

    def of(self, topic: str) -> Handler | None:
        """Give the handler of a topic; without one, say so once."""
        handler = self._by_topic.get(topic, self._default)
        if handler is None and topic not in self._warned:
            self._warned.add(topic)
            _log.warning(
                "no handler for topic %s: its messages are acknowledged undone",
                topic,
                extra={"topic": topic},
            )
        return handler


def end_fork(pid: int, error: BaseException | None) -> None:
    """End a fork of the process `pid` that a handler has let run on past its own end.

    `if os.fork() == 0: work()` without an `_exit`, or with a `work` that raises: it would go on as
    a second consumer beside the first, with its queue, its counters and its log.
    """
    if os.getpid() == pid:
        return
    if error is not None:
        traceback.print_exception(error)
    os._exit(ExitCode.OK if error is None else ExitCode.FAILED)


def refuse_lazy(call: Callable[..., Any], target: str) -> None:
    """Refuse what would return at once with its work undone. Raises: TypeError."""
    if type(call) is types.FunctionType and not call.__code__.co_flags & _LAZY:
        return  # what `inspect` would find out in ten calls, in the start of every process
    if inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise TypeError(
            f"{target} is async; write a plain function that calls asyncio.run on its work"
        )
    if inspect.isgeneratorfunction(call):
        raise TypeError(f"{target} is a generator; write a plain function, without yield")


def refuse_undone(result: object, name: str) -> None:
    """Refuse what `refuse_lazy` could not see, as it came of a decorator. Raises: TypeError."""
    if inspect.isgenerator(result) or inspect.iscoroutine(result) or inspect.isasyncgen(result):
        raise TypeError(f"{name} returned a {type(result).__name__}: its body has not run")


def _call_optional(thing: object, name: str, context: Context) -> None:
    method = getattr(thing, name, None)
    if not callable(method):
        return
    if _takes_an_argument(method):
        method(context)
    else:
        method()


def _takes_an_argument(method: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except ValueError:
        return False  # written in C, without a signature
    return any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        or parameter.kind is parameter.VAR_POSITIONAL
        for parameter in parameters
    )
