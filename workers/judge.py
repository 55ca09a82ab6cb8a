"""From a finished call to what becomes of its message: the decision, its log line, its burial.

The arithmetic is in `retry`; here it meets the settings of a job, the words of an operator's log,
and the dead letters. Called by the consume loop, in the main thread.
"""

from __future__ import annotations

import logging
import random
from typing import Final

from supervisor.config import Job
from workers import codec, retry
from workers.base import Reject, Retry, Skip, Unavailable
from workers.pool import Task
from workers.report import brief
from workers.retry import Decision, Verdict
from workers.sources.source import Burial, SessionLost

Sentence = tuple[Decision, Burial | None]


class Unhandled(Skip):
    """There is no handler for the topic; said once, not for every message."""


class Crashed(Exception):
    """What the dead letter of a message says that killed its processes."""


_WORDS: Final = (Skip, Reject, Retry, Unavailable, Crashed, SessionLost)
"""What speaks for itself, without the name of its class or a traceback."""

_LONGEST_WORDS: Final = 10_000
_LONGEST_TRACE: Final = 100_000
"""Characters of an error, and of its traceback, that are kept. Some errors quote all that they were
given, and a dead letter would carry it, and each list of dead letters."""


class Judge:
    """Decides on the messages of one process, `name`, by the settings of its job."""

    def __init__(self, job: Job, name: str, log: logging.Logger) -> None:
        self._policy = retry.Policy(job.retries, job.retry_backoff, job.retry_backoff_max)
        self._dead_letter = job.dead_letter
        self._name = name
        self._log = log

    def judge(self, task: Task, *, stopping: bool) -> Sentence:
        """Decide on a task whose handler was called."""
        decision = retry.decide(
            task.delivery, task.error, self._policy, chance=random.random(), stopping=stopping
        )
        if task.error is None:
            return decision, None
        self._tell(task, task.error, decision)
        return decision, self._burial(task, decision)

    def spare(self, task: Task, *, briefly: bool = False) -> Sentence:
        """Decide on a task that met a system that is down, or may be."""
        self._log.info(
            "message waits, without a failure: %s",
            _in_words(task.error),
            extra={"topic": task.delivery.topic, "message_id": task.id},
        )
        return retry.spare(task.delivery, self._policy, briefly=briefly), None

    def tell_batch(self, task: Task) -> None:
        """Log that a batch has failed as a whole; `task` is one of it."""
        assert task.error is not None, "a batch is spoiled by an exception"
        self._log.warning(
            "a batch failed, its messages are called one by one: %s",
            _in_words(task.error),
            extra={"topic": task.delivery.topic},
            exc_info=_trace(task.error),
        )

    def condemn(self, task: Task) -> Sentence:
        """Decide on a message that has killed too many processes; its handler is not called."""
        crashes = task.delivery.crashes
        return self._bury(
            task,
            Crashed(f"its process, or its connection, died {crashes} times while it ran alone"),
        )

    def refuse(self, task: Task, reason: str) -> Sentence:
        """Decide on a message that no handler could be called with."""
        return self._bury(task, Reject(reason))

    def _bury(self, task: Task, error: Exception) -> Sentence:
        delivery = task.delivery
        task.id = codec.message_of(delivery).id
        task.error = error
        decision = Decision(Verdict.DEAD, delivery)
        self._tell(task, task.error, decision)
        return decision, self._burial(task, decision)

    def _burial(self, task: Task, decision: Decision) -> Burial | None:
        if decision.verdict is not Verdict.DEAD or self._dead_letter == "off":
            return None
        return Burial(
            delivery=decision.delivery,
            queue=task.delivery.topic if self._dead_letter == "on" else self._dead_letter,
            id=_writable(task.id),
            error=_writable(_in_words(task.error)),
            traceback=_writable(brief(task.traceback, _LONGEST_TRACE)),
            origin=self._name,
        )

    def _tell(self, task: Task, error: BaseException, decision: Decision) -> None:
        """Log what came of a call that did not simply succeed."""
        if isinstance(error, Unhandled):
            return
        about = {
            "topic": task.delivery.topic,
            "message_id": task.id,
            "attempt": decision.delivery.attempts,
        }
        words = _in_words(error)
        if decision.verdict is Verdict.SKIPPED:
            self._log.info("message skipped: %s", words, extra=about)
        elif isinstance(error, SessionLost):
            self._log.warning(
                "message comes again, if it is not done: its connection is lost: %s",
                words,
                extra=about,
            )
        elif decision.verdict is Verdict.RETURNED:
            self._log.info("message given back, it failed during the stop: %s", words, extra=about)
        elif decision.verdict is Verdict.DEAD:
            where = "dropped" if self._dead_letter == "off" else "dead"
            self._log.error("message is %s: %s", where, words, extra=about, exc_info=_trace(error))
        else:
            self._log.warning(
                "message comes again in %.1f s: %s",
                decision.delay_s,
                words,
                extra=about,
                exc_info=_trace(error),
            )


def _in_words(error: BaseException | None) -> str:
    if error is None:
        return ""
    try:
        text = str(error)
    except Exception:  # its own __str__ fails; what it is about is lost, the message is not
        return type(error).__name__
    text = brief(text, _LONGEST_WORDS)
    if isinstance(error, _WORDS):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}"


def _writable(text: str) -> str:
    r"""Escape what no queue can write down: half a character, which `\ud800` is in JSON."""
    return text.encode(errors="backslashreplace").decode()


def _trace(error: BaseException) -> BaseException | None:
    """Give the error where its traceback tells something: not for our own words."""
    return None if isinstance(error, _WORDS) else error
