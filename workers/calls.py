"""The call of a handler: from a load of the pool to messages, and from what comes back to outcomes.

Runs in the threads of the pool; knows neither the queue nor what becomes of a message.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from workers import codec
from workers.base import Context, Message, Reject, Retry, Skip, Unavailable
from workers.handlers import Handler, TopicHandlers, outcomes
from workers.judge import Unhandled
from workers.pool import Load, Task


class Caller:
    """Calls the handlers of one process. One object for all threads.

    `timeout` is the longest time of a call in seconds, if there is one.
    """

    def __init__(
        self, handlers: TopicHandlers, context: Context, timeout: float | None = None
    ) -> None:
        self._handlers = handlers
        self._context = context
        self._timeout = None if timeout is None else timedelta(seconds=timeout)

    def __call__(self, load: Load) -> None:
        """Handle one message, or a batch of one topic. Raises: what the handler raises."""
        handler = self._handlers.of(load[0].delivery.topic)
        if handler is None:
            for task in load:
                task.error = Unhandled()
        elif handler.takes_many:
            self._call_many(handler, load)
        else:
            [task] = load
            handler.one(_message_of(task), self._of_call())

    def _of_call(self) -> Context:
        """Give the context of one call, which has a deadline of its own."""
        if self._timeout is None:
            return self._context
        return replace(self._context, deadline=datetime.now(UTC) + self._timeout)

    def _call_many(self, handler: Handler, load: Load) -> None:
        messages = [_message_of(task) for task in load]
        found = outcomes(handler.call(messages, self._of_call()), len(load))
        for task, error in zip(load, found, strict=True):
            task.error = error
            if error is not None and not isinstance(error, (Skip, Retry, Reject, Unavailable)):
                task.traceback = "".join(traceback.format_exception(error))


def _message_of(task: Task) -> Message:
    message = codec.message_of(task.delivery)
    task.id = message.id
    return message
