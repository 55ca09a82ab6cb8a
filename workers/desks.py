"""The desk of each queue, by its URL: the one place that knows which kinds there are.

Client libraries are loaded here, by who needs them, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from supervisor.errors import ConfigError, Problem, ServiceUnavailable
from supervisor.urls import KAFKA, is_of_stream, is_postgres, is_redis, of_server, of_stream

if TYPE_CHECKING:
    from supervisor.config import Config, Job
    from supervisor.secret import Secret
    from workers.sources.desk import Desk
    from workers.sources.postgres_keys import PostgresKeys

_LOOK_S: Final = 3.0
"""How long `check` waits for one server."""


def place_of(url: str) -> str:
    """Give the one form of a URL, by which two jobs of one queue are known. Raises: ConfigError."""
    if is_redis(url) or is_of_stream(url) or url.startswith(KAFKA):
        return url
    from workers.sources.sqlite_file import path_of

    return f"sqlite:///{path_of(url).absolute()}"


def desk_at(place: str, names: Iterable[str] = (), *, io_timeout: float, create: bool) -> Desk:
    """Give a new desk of a place; it connects when it is used.

    `names` are those under which messages or dead letters may lie, for a place that is shared
    with others and cannot tell which are ours.
    """
    if is_of_stream(place):
        from workers.sources.redis_stream_desk import StreamDesk

        url, _, group = place.partition("#")
        return StreamDesk(of_server(url), names, group=unquote(group), io_timeout=io_timeout)
    if place.startswith(KAFKA):
        from workers import clusters

        return clusters.desk_at(place, io_timeout)
    if is_redis(place):
        from workers.sources.redis_desk import RedisDesk

        return RedisDesk(place, names, io_timeout=io_timeout)
    from workers.sources.sqlite_desk import SqliteDesk
    from workers.sources.sqlite_file import path_of

    return SqliteDesk(path_of(place), io_timeout=io_timeout, create=create)


def revealed(job: Job, key: str, secret: Secret) -> str:
    """Read a secret of a job for a command. Raises: ConfigError when its file cannot be read."""
    try:
        return secret.reveal()
    except OSError as error:
        fault = f"cannot read {error.filename}: {error.strerror}"
    except ValueError as error:
        fault = str(error)
    raise ConfigError(job.problem(key, fault))


def places_of(config: Config) -> dict[str, list[Job]]:
    """Give the places of the configuration, each with the jobs that consume from it."""
    places: dict[str, list[Job]] = {}
    for job in config.jobs:
        if job.type == "kafka":
            from workers import clusters

            places.setdefault(clusters.place_of(job, client_of(job)), []).append(job)
        elif job.url is not None:
            place = _place_of_job(job, revealed(job, "url", job.url))
            places.setdefault(place, []).append(job)
    return places


def client_of(job: Job) -> dict[str, str]:
    """Read the settings of the client of a job for a command. Raises: ConfigError."""
    return {key: revealed(job, f"client.{key}", value) for key, value in job.client.items()}


def shown_place(job: Job) -> str:
    """Give where a job consumes from, as anybody may see it."""
    if job.type == "kafka":
        from workers import clusters

        return clusters.shown(job)
    return job.url.shown if job.url is not None else ""


def url_to_publish(job: Job) -> tuple[str, str]:
    """Give the URL by which the topics of a job are known, and as anybody may see it."""
    if job.type == "kafka":
        from workers import clusters

        return clusters.url_of(job, client_of(job)), clusters.shown(job)
    assert job.url is not None, "every queue has one"
    url, shown = revealed(job, "url", job.url), job.url.shown
    return (of_stream(url), of_stream(shown)) if job.type == "stream" else (url, shown)


def _place_of_job(job: Job, url: str) -> str:
    """Give the place that a job consumes from: of a stream, what its group has to do with it."""
    if job.type == "stream":
        return f"{of_stream(url)}#{quote(job.consumer_group, safe='')}"
    if not job.table:
        return place_of(url)
    from workers.tables import table_of

    return f"{table_of(job)} {url}"


def names_of(job: Job) -> set[str]:
    """Give all names under which messages and dead letters of a job may lie."""
    names = {topic.name for topic in job.topics}
    return names | ({job.dead_letter} - {"on", "off"} if names else set())


def _names(jobs: Iterable[Job]) -> list[str]:
    return sorted(set().union(*map(names_of, jobs)))


def _new_desk(place: str, jobs: list[Job], *, create: bool) -> Desk:
    if jobs[0].type == "kafka":
        from workers import clusters

        return clusters.desk_of(jobs, client_of(jobs[0]), _names(jobs), jobs[0].io_timeout)
    if jobs[0].table:
        from workers import tables

        return tables.desk_of(jobs[0], jobs[0].io_timeout)
    return desk_at(place, _names(jobs), io_timeout=jobs[0].io_timeout, create=create)


@contextmanager
def desk_of(place: str, jobs: list[Job], *, create: bool = False) -> Iterator[Desk]:
    """Open the desk of a place. Raises: ServiceUnavailable, here and for what the block does."""
    with unavailable_in_words():
        desk = _new_desk(place, jobs, create=create)
        try:
            yield desk
        finally:
            desk.close()


@dataclass(frozen=True, slots=True)
class Servers:
    """What a look at the servers and databases of a configuration has found."""

    lost: tuple[Problem, ...] = ()
    wrong: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def servers(config: Config) -> Servers:
    """Ask each server of a configuration whether it would work, and tell what would not."""
    alone = _asked_one_by_one(config)
    return replace(alone, lost=(*_unreachable(config), *alone.lost))


def _asked_one_by_one(config: Config) -> Servers:
    """Ask for what is of one job: a table; topics and a group of a cluster."""
    from workers.sources.source import SourceTrouble

    lost: list[Problem] = []
    wrong: list[Problem] = []
    warnings: list[Problem] = []
    for job in config.jobs:
        if not job.table and job.type != "kafka":
            continue
        key, what = ("brokers", "cluster") if job.type == "kafka" else ("url", "database")
        try:
            with closing(_desk_of_one(job)) as desk:
                warnings += [job.problem("table", words) for words in desk.look()]
        except SourceTrouble as error:
            words = f"the {what} of {shown_place(job)} cannot be used: {error}"
            lost.append(job.problem(key, words))
        except ConfigError as error:
            wrong += error.problems
    return Servers(tuple(lost), tuple(wrong), tuple(warnings))


def _desk_of_one(job: Job) -> Desk:
    """Give a desk that looks at what one job needs. Raises: ConfigError."""
    if job.type == "kafka":
        from workers import clusters

        return clusters.desk_of([job], client_of(job), (), _LOOK_S)
    from workers import tables

    assert job.url is not None, "a table is in a database"
    revealed(job, "url", job.url)
    return tables.desk_of(job, _LOOK_S)


def _unreachable(config: Config) -> tuple[Problem, ...]:
    from workers.sources.source import SourceTrouble

    wanted: dict[str, Problem] = {}
    for job in config.jobs:
        words = "the server of {} cannot be used: "
        if job.idempotency is not None:
            store = revealed(job, "idempotency", job.idempotency)
            wanted[store] = job.problem("idempotency", words.format(job.idempotency.shown))
        if job.url is not None:
            place = _place_of_job(job, revealed(job, "url", job.url))
            wanted[place] = job.problem("url", words.format(job.url.shown))
    places = places_of(config)
    found = []
    for place, problem in wanted.items():
        server = _server_at(place, _names(places.get(place, ())))
        if server is None:
            continue
        try:
            server.look()
        except SourceTrouble as error:
            found.append(replace(problem, message=f"{problem.message}{error}"))
        finally:
            server.close()
    return tuple(found)


def _server_at(place: str, names: list[str]) -> Desk | PostgresKeys | None:
    """Give what can look at the server of a place; None for a file, made when it is missing."""
    if is_postgres(place):
        from workers.sources.postgres_keys import PostgresKeys

        return PostgresKeys(place, "supervisor", lease_s=0.0, ttl_s=0.0, io_timeout=_LOOK_S)
    if is_redis(place) or is_of_stream(place):
        return desk_at(place, names, io_timeout=_LOOK_S, create=False)
    return None


@contextmanager
def unavailable_in_words() -> Iterator[None]:
    """Turn a queue that does not answer into an error with the command line's exit code."""
    from workers.sources.source import SourceTrouble

    try:
        yield
    except SourceTrouble as error:
        raise ServiceUnavailable(f"the queue cannot be used: {error}") from error
