"""The call of a handler: from a load of the pool to messages, and from what comes back to outcomes.

Runs in the threads of the pool; knows neither the queue nor what becomes of a message.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from workers import codec
from workers.base import Context, Message, Reject, Retry, Skip, Unavailable
from workers.connections import Connections
from workers.handlers import Handler, TopicHandlers, outcomes
from workers.judge import Unhandled
from workers.pool import Load, Task
from workers.sources.source import Session, SessionLost


class Caller:
    """Calls the handlers of one process. One object for all threads.

    `timeout` is the longest time of a call in seconds, if there is one.
    """

    def __init__(
        self,
        handlers: TopicHandlers,
        context: Context,
        connections: Connections,
        timeout: float | None = None,
    ) -> None:
        self._handlers = handlers
        self._context = context
        self._connections = connections
        self._timeout = None if timeout is None else timedelta(seconds=timeout)

    def __call__(self, load: Load) -> None:
        """Handle one message, or a batch of one topic. Raises: what the handler raises.

        What it wrote on connections of the context is committed, or undone; that of a message's
        session at last, together with the word that it is done.
        """
        session = load[0].delivery.session
        if session is None:
            self._call_and_keep(load, self._of_call())
            return
        session.enter()
        try:
            self._call_and_keep(load, self._of_call(session))
            if load[0].error is None:
                session.finish(load[0].delivery.attempts + 1)
        except SessionLost:
            raise
        except Exception as error:
            if session.is_lost():
                raise SessionLost(str(error)) from error
            raise
        finally:
            session.leave()

    def _call_and_keep(self, load: Load, context: Context) -> None:
        try:
            self._call(load, context)
            self._connections.keep()
        except BaseException:
            self._connections.undo()
            raise

    def _call(self, load: Load, context: Context) -> None:
        handler = self._handlers.of(load[0].delivery.topic)
        if handler is None:
            for task in load:
                task.error = Unhandled()
        elif handler.takes_many:
            _call_many(handler, load, context)
        else:
            [task] = load
            handler.one(_message_of(task), context)

    def _of_call(self, session: Session | None = None) -> Context:
        """Give the context of one call, which may have a deadline and a session of its own."""
        if self._timeout is None and session is None:
            return self._context
        deadline = None if self._timeout is None else datetime.now(UTC) + self._timeout
        row = None if session is None else session.connection
        return replace(self._context, deadline=deadline, row=row)


def _call_many(handler: Handler, load: Load, context: Context) -> None:
    messages = [_message_of(task) for task in load]
    found = outcomes(handler.call(messages, context), len(load))
    for task, error in zip(load, found, strict=True):
        task.error = error
        if error is not None and not isinstance(error, (Skip, Retry, Reject, Unavailable)):
            task.traceback = "".join(traceback.format_exception(error))


def _message_of(task: Task) -> Message:
    message = codec.message_of(task.delivery)
    task.id = message.id
    if codec.is_spoiled(task.delivery):
        raise Reject("its bytes are no UTF-8 text")
    return message
