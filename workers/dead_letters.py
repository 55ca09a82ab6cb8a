"""What the command line does with dead letters: list, show, replay, purge.

One choice serves all four: what `list` shows with a filter is what `replay` and `purge` take
with it. Works with the supervisor up or down.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from itertools import islice

from supervisor.config import Config
from supervisor.errors import SupervisorError
from supervisor.letters import Choice
from workers import codec
from workers.base import Message
from workers.desks import desk_of, names_of, places_of
from workers.queues import no_such_topic
from workers.sources.desk import Desk, Letter


def dead_list(config: Config, choice: Choice) -> list[dict[str, object]]:
    """Look at dead letters, the newest first. Raises: NoSuchJob."""
    return [_shown(letter) for letter in _letters(config, choice)]


def dead_show(config: Config, choice: Choice) -> list[dict[str, object]]:
    """Look at everything that is known of dead letters.

    Raises: NoSuchJob, or SupervisorError when none is found.
    """
    found = [_whole(letter) for letter in _letters(config, choice)]
    if not found:
        raise _none(choice)
    return found


def dead_replay(config: Config, choice: Choice) -> dict[str, object]:
    """Put dead letters back on the topics that they came from, as if never tried.

    Raises: NoSuchJob, or SupervisorError when there is none of that id.
    """
    replayed = _apply(config, choice, lambda desk, numbers: desk.replay(numbers), None)
    return {"topic": choice.topic, "replayed": replayed}


def dead_purge(
    config: Config, choice: Choice, confirm: Callable[[int], None] | None = None
) -> dict[str, object]:
    """Delete dead letters for good; `confirm` is told how many, and raises to call it off.

    Raises: NoSuchJob, or SupervisorError when there is none of that id.
    """
    purged = _apply(config, choice, lambda desk, numbers: desk.forget(numbers), confirm)
    return {"topic": choice.topic, "purged": purged}


def _apply(
    config: Config,
    choice: Choice,
    change: Callable[[Desk, Iterable[int]], int],
    confirm: Callable[[int], None] | None,
) -> int:
    """Choose first and change then: what dies meanwhile, of a replay even, is left alone."""
    chosen: dict[str, list[int]] = defaultdict(list)
    with ExitStack() as open_desks:
        for place, letter in _walk(config, choice, open_desks):
            chosen[place].append(letter.number)
    count = sum(map(len, chosen.values()))
    if not count and choice.message_id is not None:
        raise _none(choice)
    if confirm is not None and count:
        confirm(count)
    changed = 0
    jobs = places_of(config)
    for place, numbers in chosen.items():
        with desk_of(place, jobs[place]) as desk:
            changed += change(desk, numbers)
    return changed


def _letters(config: Config, choice: Choice) -> list[Letter]:
    with ExitStack() as open_desks:
        return [letter for _, letter in _walk(config, choice, open_desks)]


def _walk(config: Config, choice: Choice, open_desks: ExitStack) -> Iterator[tuple[str, Letter]]:
    """Go through the chosen letters of all queues, the newest first.

    Raises: NoSuchJob for a name under which nothing lies, and nothing could.
    """
    desks = {
        place: open_desks.enter_context(desk_of(place, jobs))
        for place, jobs in places_of(config).items()
    }
    known = _names(config)
    if choice.topic not in known and not any(
        next(desk.walk(choice.topic), None) for desk in desks.values()
    ):
        raise no_such_topic(choice.topic, known)
    streams = [_fitting(place, desk, choice) for place, desk in desks.items()]
    yield from islice(heapq.merge(*streams, key=lambda found: -found[1].at), choice.limit)


def _fitting(place: str, desk: Desk, choice: Choice) -> Iterator[tuple[str, Letter]]:
    for letter in desk.walk(choice.topic, choice.message_id):
        if _fits(choice.where, letter):
            yield place, letter


def _fits(where: str | None, letter: Letter) -> bool:
    """Tell whether the letter holds the text."""
    if where is None or where in letter.error:
        return True
    return any(where in text for text in _data_as_text(letter))


def _names(config: Config) -> set[str]:
    """Give all names under which dead letters of these jobs may lie."""
    return set().union(*map(names_of, config.jobs))


def _none(choice: Choice) -> SupervisorError:
    if choice.message_id is not None:
        words = f"no dead letter of {choice.topic} has the id {choice.message_id}"
    else:
        words = f"no dead letter of {choice.topic}"
    if choice.where is not None:
        words += f" that holds {choice.where!r}" if choice.message_id is None else " and that text"
    return SupervisorError(words)


def _data_as_text(letter: Letter) -> tuple[str, ...]:
    """Give the data in the forms in which an operator may have seen it."""
    data = codec.decode(letter.topic, letter.body, fallback_id=letter.id, attempt=1).data
    if isinstance(data, str):
        return (data,)
    text = json.dumps(data, ensure_ascii=False)
    return text, json.dumps(data), json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _message(letter: Letter) -> Message:
    message = codec.decode(letter.topic, letter.body, fallback_id=letter.id, attempt=1)
    return codec.completed(message, letter.envelope)


def _shown(letter: Letter) -> dict[str, object]:
    message = _message(letter)
    at = datetime.fromtimestamp(letter.at).astimezone()
    return {
        "id": letter.id,
        "topic": letter.topic,
        "error": letter.error,
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "at": at.isoformat(timespec="milliseconds"),
        "data": message.data,
    }


def _whole(letter: Letter) -> dict[str, object]:
    message = _message(letter)
    return _shown(letter) | {
        "traceback": letter.traceback,
        "failures": letter.failures,
        "origin": letter.origin,
        "queue": letter.queue,
        "key": message.key,
        "headers": dict(message.headers),
        "published_at": message.published_at and message.published_at.isoformat(),
    }
