"""Functions that are called later, elsewhere: `@task("topic")`, `.delay()`, `.apply_later()`.

The call is a message like any other, `{"task": NAME, "args": [...], "kwargs": {...}}`, on a topic
that some job lists; the function is its handler (`handler.reports = shop.reports:build`). Arguments
arrive as they were given or are refused where they are given: JSON would turn tuples into lists,
and numbers that are keys into texts, without a word.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar

from workers.base import Context, Message, Reject
from workers.publishing import publish

P = ParamSpec("P")
R = TypeVar("R")

_DEEPEST: Final = 100
"""So deep may an argument be nested; a circle is deeper than anything."""


def task(topic: str) -> Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """Make a function one that can be called later, by a job that lists the topic.

    Raises: TypeError for `@task` without its topic, and for an async function.
    """
    if not isinstance(topic, str):
        raise TypeError('write the topic of the calls: @task("reports")')

    def decorate(function: Callable[P, R]) -> TaskFunction[P, R]:
        return TaskFunction(topic, function)

    return decorate


class TaskFunction(Generic[P, R]):
    """A function, and the same function to be called later. A plain call is a plain call.

    `name` is written into the messages; `handle` makes it the handler of its topic, for the other
    tasks of this topic too that were imported by then.
    """

    def __init__(self, topic: str, function: Callable[P, R]) -> None:
        # Here, as every import of `workers` would pay for them, and few have tasks.
        import inspect

        from workers.handlers import refuse_lazy

        self.topic = topic
        self.name = f"{_module_of(function)}:{function.__qualname__}"
        refuse_lazy(function, self.name)
        self._function = function
        self._signature = inspect.signature(function)
        update_wrapper(self, function)
        _known[topic, self.name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        """Name the function and its topic."""
        return f"<task {self.name} on {self.topic}>"

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Have the function called by a job; give the id of the message.

        It is on the disk when this returns. Raises: TypeError for arguments that the function
        does not take or JSON cannot carry, and whatever `publish` raises.
        """
        return publish(self.topic, self.data(*args, **kwargs))

    def apply_later(self, seconds: float, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Do as `delay` does, and let so many seconds pass before the call."""
        return publish(self.topic, self.data(*args, **kwargs), delay=seconds)

    def data(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, object]:
        """Give the data of the message for a call, as `workers.testing.run` takes it."""
        if self.name.startswith("__main__:"):
            raise TypeError(f"{self.name} is in the program itself; a job can import modules only")
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        named = [*((str(place), value) for place, value in enumerate(args, 1)), *kwargs.items()]
        for name, value in named:
            if wrong := _unfit(value):
                raise TypeError(f"{self.name}: argument {name} {wrong}")
        return {"task": self.name, "args": list(args), "kwargs": dict(kwargs)}

    def handle(self, message: Message, _context: Context) -> None:
        """Make the call that a message asks for.

        Raises: Reject for a message that is no call of a task of this topic.
        """
        call = message.data if isinstance(message.data, Mapping) else {}
        name, args, kwargs = call.get("task"), call.get("args", []), call.get("kwargs", {})
        if not isinstance(name, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
            raise Reject(f'no call of a task, which is {{"task": "{self.name}", "args": [...]}}')
        found = self if name == self.name else _known.get((self.topic, name))
        if found is None:
            raise Reject(f"no task {name} of topic {self.topic} was imported with {self.name}")
        found.run(args, kwargs)

    def run(self, args: list[object], kwargs: dict[str, object]) -> None:
        """Call the function with what a message holds. Raises: Reject when it does not fit."""
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Reject(f"{self.name}: {error}") from None
        # Here for the same reason as above.
        from workers.handlers import refuse_undone

        refuse_undone(self._function(*args, **kwargs), self.name)  # type: ignore[arg-type]  # bound just above


_known: Final[dict[tuple[str, str], TaskFunction[..., Any]]] = {}
"""All tasks of this process; a message can call these, and nothing else by its name."""


def _module_of(function: Callable[..., object]) -> str:
    """Give the name by which others import the function's module, under `python -m` too."""
    name = function.__module__
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return name if spec is None else str(spec.name).removesuffix(".__main__")


def _unfit(value: object, depth: int = 0) -> str:
    """Say why a value would not arrive as it is; nothing when it would."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return ""
    if isinstance(value, float) and kind is float:
        return "" if math.isfinite(value) else f"is {value}, which JSON has no word for"
    if depth > _DEEPEST:
        return "is nested too deeply"
    if isinstance(value, list) and kind is list:
        return _first(_unfit(item, depth + 1) for item in value)
    if isinstance(value, dict) and kind is dict:
        odd = next((key for key in value if type(key) is not str), None)
        if odd is not None:
            return f"has the key {odd!r}; the keys of a JSON object are texts"
        return _first(_unfit(item, depth + 1) for item in value.values())
    hint = "; give a list" if isinstance(value, tuple | set | frozenset) else ""
    what = f"is or holds a value of type {kind.__name__}"
    return f"{what}, which does not pass through JSON as it is{hint}"


def _first(faults: Iterable[str]) -> str:
    return next(filter(None, faults), "")
