"""The table of every section, type and key that a configuration may hold.

One row a key: how it is read, its default in the file's own words, what it means, which types of
jobs have it, and what a reload does about a change of it. Keys that a later release builds stand
here too, so that a file which uses one is told so, and not that the key is unknown. Errors,
nearest words and README's reference (`python -m supervisor.settings`) come from this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

from supervisor import dependencies, identity, places, rights, urls, values
from supervisor.secret import Given, Secret, plain

T = TypeVar("T")
Reader = Callable[[Given], object]

LIVE: Final = "live"
RESTART: Final = "restart"
SUPERVISOR: Final = "supervisor"
"""What a reload does about a changed key: takes it over, restarts the job, or refuses."""

DAEMON_TYPES: Final = ("worker", "program", "scheduled", "queue", "stream", "kafka", "table")
API_TYPES: Final = ("asgi", "grpc")
CONSUMERS: Final = frozenset({"queue", "stream", "kafka", "table"})
"""The types that take messages from a source and give them to a handler."""

EVERY: Final = frozenset(DAEMON_TYPES + API_TYPES)
DEFAULT_MARK: Final = ".ANY"
"""What the key of a family ends with: `option.ANY` is `option.colour`, `option.size` ..."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of one section. `default` is the text that a file would hold, None for nothing."""

    key: str
    read: Reader
    default: str | None
    meaning: str
    reload: str = RESTART
    types: frozenset[str] = EVERY
    built: bool = True
    needed: bool = False

    @property
    def family(self) -> str | None:
        """Give what the keys of a family begin with (`option.`), None for a single key."""
        return self.key.removesuffix("ANY") if self.key.endswith(DEFAULT_MARK) else None

    def default_value(self) -> object:
        """Read the default, or give None where there is none."""
        if self.default is None:
            return None
        return self.read(Given((plain(self.default),), Path("/")))


def _one(read: Callable[[str], T]) -> Callable[[Given], T]:
    """Make a reader of values that take one line."""
    return lambda given: read(given.line())


def _many(read: Callable[[str], T]) -> Callable[[Given], T]:
    """Make a reader of values that may take several lines."""
    return lambda given: read(given.text())


def _secret(given: Given) -> Secret:
    return given.secret()


def _number(least: int, most: int) -> Reader:
    return _one(values.number(least, most))


def _choice(*words: str) -> Reader:
    return _one(values.choice(*words))


_duration = _one(values.duration)
_positive = _one(values.positive_duration)
_boolean = _one(values.boolean)
_size = _one(values.size)
_text = _one(values.line)
_names = _many(values.items)
_topics = _many(values.topics)
_attribute = _one(values.attribute)

_live = partial(Setting, reload=LIVE)
_later = partial(Setting, built=False)

_SUPERVISOR: Final = (
    Setting("name", _one(values.supervisor_name), None, "the file's stem by default", SUPERVISOR),
    Setting(
        "run_dir",
        places.path,
        None,
        "pid file and control socket; `/run/NAME` as root, else `/run/user/UID/NAME` where that"
        " folder is, else `state_dir/run`",
        SUPERVISOR,
    ),
    Setting(
        "state_dir",
        places.path,
        None,
        "what must outlive a restart; `/var/lib/NAME` as root, else `~/.local/state/NAME`",
        SUPERVISOR,
    ),
    _live(
        "log_level",
        _choice("debug", "info", "warning", "error", "critical"),
        "info",
        "the least level that is logged",
    ),
    Setting(
        "log_format",
        _choice("json", "text"),
        None,
        "json or text; by default text on a terminal, json otherwise",
        SUPERVISOR,
    ),
    Setting("log_file", places.log_file, "-", "`-` is the standard output", SUPERVISOR),
    Setting(
        "log_max_bytes", _size, "50MB", "rotate `log_file` at this size; 0 = never", SUPERVISOR
    ),
    Setting("log_backups", _number(0, 1000), "5", "rotated files to keep", SUPERVISOR),
    _live("stop_timeout", _positive, None, "cap of a whole stop; the longest of the jobs + 5s"),
    Setting(
        "preload",
        _many(values.preload),
        "libraries",
        "what the master imports once before it forks: `none`, `libraries` (the runtime and the"
        " client libraries of the enabled jobs), `handlers` (their modules too), or a list of"
        " modules, which adds to `libraries`",
        SUPERVISOR,
    ),
    Setting(
        "socket_mode",
        _one(values.mode),
        "0600",
        "of the control socket; 0660 with `socket_group`",
        SUPERVISOR,
    ),
    Setting(
        "socket_group",
        _one(identity.group),
        None,
        "group of the control socket; its members may pass `run_dir`, and have the power of the"
        " supervisor's user",
        SUPERVISOR,
    ),
    Setting(
        "pythonpath",
        places.paths,
        None,
        "where handlers are imported from; by default the configuration's folder",
        SUPERVISOR,
    ),
    Setting(
        "user",
        _one(identity.user),
        None,
        "become this user before anything else, as if he had started it: folders, log and jobs are"
        " his; needs root; not together with a `user` of a job",
        SUPERVISOR,
    ),
    Setting("group", _one(identity.group), None, "and this group instead of his own", SUPERVISOR),
)

_INCLUDE: Final = (
    Setting("files", _names, None, "more files, as names or patterns (`conf.d/*.ini`)", RESTART),
)

_WORKER: Final = (
    Setting(
        "enable",
        _boolean,
        "true",
        "the main switch; false: `start` says so and exits 0",
        SUPERVISOR,
    ),
    Setting(
        "mode",
        _choice("standalone", "embedded"),
        "standalone",
        "embedded: an application starts the supervisor, `start` needs `--mode standalone`",
        SUPERVISOR,
    ),
)

_KIND: Final = (
    _live("enable", _boolean, "true", "false: no job of this kind runs"),
    _live("jobs", _names, None, "names of the jobs to run; empty: all of this kind"),
)

_CRON_KIND: Final = (
    _later("history", _number(1, 1_000_000), "1000", "runs to remember, a job", LIVE),
)

_PLACE: Final = (
    Setting(
        "user",
        _one(identity.user),
        None,
        "run as this user, a name or a number, with all his groups, HOME, USER, LOGNAME and SHELL;"
        " needs root",
    ),
    # For stream and kafka the word means the consumer group: they run in their user's own group.
    Setting(
        "group",
        _one(identity.group),
        None,
        "run in this group instead of the user's own; needs root",
        types=EVERY - {"stream", "kafka"},
    ),
    Setting("umask", _one(rights.umask), None, "in octal (`022`); inherited by default"),
    Setting("nice", _one(rights.nice), None, "-20 to 19; inherited by default"),
    Setting(
        "cpu_affinity",
        _many(rights.cpus),
        None,
        "processor numbers (`0, 2-3`); inherited by default",
    ),
    Setting("directory", places.folder, None, "working directory; inherited by default"),
    Setting("limit_nofile", _number(16, 1 << 30), None, "open files; inherited by default"),
    Setting(
        "limit_core",
        _one(rights.limit),
        None,
        "size of a core file, or `unlimited`; inherited by default",
    ),
    Setting(
        "limit_memory",
        _one(rights.limit),
        None,
        "RLIMIT_AS: address space, more than what is resident; inherited by default",
    ),
    Setting("environment", values.environment, None, "`KEY=VALUE`, one a line"),
    Setting(
        "env_file",
        places.path,
        None,
        "a file with more such lines, for `environment` to add to; read by the process itself, as"
        " its user",
    ),
)

_LOGS: Final = (
    Setting("log_file", places.log_file, "-", "captured output; `-` is the supervisor's log"),
    Setting("log_max_bytes", _size, "50MB", "rotate `log_file` at this size; 0 = never"),
    Setting("log_backups", _number(0, 1000), "5", "rotated files to keep"),
    Setting(
        "log_rate",
        _number(1, 10_000_000),
        None,
        "lines a second of each process and stream; what is above is dropped, counted and said",
    ),
)

_STOP: Final = (
    _live(
        "stop_timeout",
        _duration,
        "30s",
        "how long a drain may take; then the stacks are dumped and the group is killed",
    ),
    # Not live: a running process listens to the one that it was started with.
    Setting("stop_signal", _one(values.signal_number), "TERM", "asks for the drain, once a second"),
)

_OPTION: Final = (Setting("option.ANY", _secret, None, '`context.options["ANY"]`'),)

_COMMON: Final = (
    _live("enable", _boolean, "true", "false: this job does not run"),
    _live("required", _boolean, "true", "counts for READY"),
    _live("processes", _number(0, 4096), "1", "OS processes of this job; 0 is allowed"),
    _live(
        "restart",
        _choice("always", "on-failure", "never"),
        "always",
        "what follows on an end: always, on-failure or never a new process",
    ),
    _live("expected_exits", _many(values.exit_codes), "0", "exit codes that count as success"),
    _live("backoff", _duration, "1s", "wait before a restart; doubles, 20 % jitter; 0: none"),
    _live("backoff_max", _positive, "30s", "the longest such wait"),
    _live("stable_after", _duration, "10s", "uptime after which a process has proved itself"),
    _live("max_failures", _number(1, 1_000_000), "10", "so many within the window are FATAL"),
    _live("failure_window", _positive, "10m", "sliding"),
    _live(
        "fatal_retry", _one(values.duration_or("never")), "5m", "try again from FATAL; or `never`"
    ),
    _live(
        "on_fatal",
        _choice("keep", "exit"),
        "keep",
        "exit: the supervisor drains everything and exits 1",
    ),
    _live("ready_timeout", _positive, "30s", "not READY by then: killed, a failure"),
    _live(
        "heartbeat_timeout",
        _duration,
        "60s",
        "the work loop has not beaten for so long: stacks to the log, killed, a failure; 0 = off,"
        " always off for `program`",
    ),
    *_STOP,
    _live(
        "depends_on",
        _many(dependencies.read),
        None,
        "`other` or `other:ready`, `other:started`, `other:completed` (its `restart` not always):"
        " a start waits until all processes of the other are so, and blocks nobody else. It waits"
        " on while the other is FATAL or stopped by hand, and for one that does not run here"
        " (`enable`, `jobs`, no processes) not at all. A restart after a death or a recycle does"
        " not wait. At the stop of everything the other is asked when this one is gone",
    ),
    _live(
        "max_memory",
        _one(values.size_or("off")),
        "off",
        "recycle a process whose resident memory is above this: it drains, and its successor"
        " follows at once, one process of a job at a time; looked at every 2s, 10 % jitter"
        " downwards",
    ),
    _live("max_lifetime", _one(values.duration_or("off")), "off", "recycle an older process"),
    _live(
        "max_messages",
        _one(values.number_or("off", 1, 1 << 50)),
        "off",
        "recycle a process after so many messages, or runs of a `scheduled` job",
        types=EVERY - {"worker", "program"},
    ),
    *_PLACE,
    Setting(
        "inherit_environment",
        _boolean,
        "true",
        "false: of the supervisor's environment only PATH, HOME, USER, LOGNAME, SHELL, LANG,"
        " LANGUAGE, LC_*, TZ and SUPERVISOR_CONF",
    ),
    *_LOGS,
    *_OPTION,
)


def _only(rows: tuple[Setting, ...], *types: str, built: bool = True) -> Iterator[Setting]:
    """Give rows that belong to these types alone."""
    for row in rows:
        yield Setting(
            row.key,
            row.read,
            row.default,
            row.meaning,
            row.reload,
            frozenset(types),
            built and row.built,
            row.needed,
        )


_TYPE: Final = Setting(
    "type", _choice(*DAEMON_TYPES), None, "what kind of work this is", needed=True
)

_WORKER_TYPE: Final = (
    Setting(
        "target", _attribute, None, "a `workers.Worker` subclass or `run(context)`", needed=True
    ),
    Setting("health_interval", _positive, "30s", "how often `health_check()` is asked"),
)

_PROGRAM_TYPE: Final = (
    Setting("command", _many(values.command), None, "what is executed; no shell", needed=True),
    Setting("notify", _boolean, "false", "READY when it says so on its NOTIFY_SOCKET"),
)

_SCHEDULED_TYPE: Final = (
    Setting("handler", _attribute, None, "`module:attr`, called each time", needed=True),
    Setting("interval", _positive, "5m", "from one due time to the next; none during a run"),
    Setting("jitter", _duration, "0s", "up to so much is added to each interval, by chance"),
    Setting("run_at_start", _boolean, "false", "run once at the start, then each interval"),
)

_ORDER_TOPICS: Final = Setting(
    "order_topics",
    _choice("weighted", "strict"),
    "weighted",
    "strict: a topic only when those before it are empty",
)

_QUEUE_TYPE: Final = (
    Setting(
        "url",
        urls.queue_url,
        None,
        "`redis://HOST:PORT/DATABASE`, or `sqlite:///PATH` relative to the file,"
        " `sqlite:////PATH` absolute",
        needed=True,
    ),
    Setting(
        "topics", _topics, None, "`payment.retry:5, system.cleanup`, with weights", needed=True
    ),
    _ORDER_TOPICS,
)

_STREAM_TYPE: Final = (
    Setting("url", urls.stream_url, None, "`redis://HOST:PORT/DATABASE`", needed=True),
    Setting(
        "topics", _topics, None, "names of streams, `payment.retry:5, system.cleanup`", needed=True
    ),
    _ORDER_TOPICS,
    Setting("group", _text, None, "consumer group; made if it is missing", needed=True),
)

_KAFKA_TYPE: Final = (
    Setting("brokers", _many(urls.brokers), None, "`HOST:PORT`, several", needed=True),
    Setting("topics", _topics, None, "names of topics, with weights", needed=True),
    _ORDER_TOPICS,
    Setting("group", _text, None, "consumer group", needed=True),
    Setting(
        "order",
        _choice("partition", "key", "none"),
        "partition",
        "what stays in order: all of a partition, all of one key, or nothing",
    ),
    Setting(
        "auto_offset_reset",
        _choice("earliest", "latest"),
        "earliest",
        "where a group begins that has committed nothing yet",
    ),
    Setting(
        "client.ANY",
        _secret,
        None,
        "a setting of kafka-python: `client.security_protocol = SASL_SSL`",
    ),
)

_TABLE_TYPE: Final = (
    Setting(
        "url",
        urls.table_url,
        None,
        "of its database: `postgresql://USER@HOST:PORT/DATABASE` or `sqlite:///PATH`",
        needed=True,
    ),
    Setting("table", _one(values.topic_name), None, "its name, and that of the topic", needed=True),
    Setting("key", _text, "id", "column that tells its rows apart; the id of a message"),
    Setting("status", _text, "status", "column of the status"),
    Setting("pending", _text, "pending", "word stored for a row to do"),
    Setting("done", _text, "done", "word stored for a row that is done"),
    Setting("failed", _text, "failed", "word stored for a row that failed"),
    Setting("order_by", _text, None, "column of the order; the key by default"),
    Setting("where", _many(values.line), None, "only such rows: trusted SQL about the row `t`"),
    Setting("batch_size", _number(1, 10_000), "100", "rows a claim"),
    Setting("poll_interval", _positive, "1s", "wait after a claim that was not full; 10 % jitter"),
    Setting(
        "claim",
        _choice("lock", "lease"),
        None,
        "how a row is held: lock, by the transaction in which its handler may work too; lease, in"
        " TABLE_work beside it. lock for PostgreSQL, but lease with `batch`",
    ),
    Setting(
        "notify",
        _one(values.line),
        None,
        "channel of PostgreSQL's NOTIFY, which a trigger on the table sends: look at once",
    ),
    Setting("attempts_column", _text, None, "where the calls are counted of a row that is settled"),
    Setting("error_column", _text, None, "where the error is written of a row that failed"),
    _later("lease_column", _text, None, "where the end of a lease is written"),
)

_CONSUMER: Final = (
    Setting("handler", _attribute, None, "`module:attr`; none: acknowledged, with a warning"),
    Setting("handler.ANY", _attribute, None, "the handler of the topic ANY"),
    Setting("concurrency", _number(1, 256), "10", "threads of a bounded pool, a process"),
    Setting(
        "min_concurrency",
        _number(1, 256),
        None,
        "below 20 % of `queue_size` waiting, shrink to so many threads",
    ),
    Setting(
        "max_concurrency",
        _number(1, 256),
        None,
        "above 80 % of `queue_size` waiting, grow to so many; without both `concurrency` is fixed",
    ),
    Setting(
        "queue_size",
        _number(1, 1_000_000),
        None,
        "fetched and waiting; full: fetching stops; the larger of 100 and two batches",
    ),
    Setting("retries", _number(0, 1_000_000), "3", "further calls after the first"),
    Setting("retry_backoff", _positive, "1s", "wait before the first retry; doubles"),
    Setting("retry_backoff_max", _positive, "30s", "the longest such wait"),
    Setting(
        "handler_timeout",
        _positive,
        None,
        "one call longer than that: stacks to the log, the rest drains, the process ends",
    ),
    Setting(
        "rate_limit",
        _one(values.rate),
        None,
        "`100/s`, `30/m`, `5/h`: calls of handlers over all processes of the job, and over all"
        " hosts where its messages are in Redis or PostgreSQL; no more than a tenth of a second's"
        " worth at once",
    ),
    Setting("dead_letter", _one(values.word_or("on", "off")), "on", "on, off or a name"),
    Setting(
        "idempotency",
        urls.store_url,
        "none",
        "none, `redis://...`, `postgresql://...` or `sqlite:///PATH` (the queue's own will do): a"
        " key that was handled is not handled again",
    ),
    Setting(
        "idempotency_key",
        _one(values.message_key),
        "id",
        "id, key or data.FIELD; a message that has none goes to the dead letters",
    ),
    Setting("idempotency_ttl", _positive, "1d", "how long a handled key is remembered"),
    Setting("lease", _positive, "30s", "how long a fetched message is ours; renewed"),
    Setting("batch", _number(1, 100_000), "1", "messages in one call, above 1 of `handle_batch`"),
    Setting("io_timeout", _positive, "5s", "one call to a server"),
    _live("progress_timeout", _positive, "5m", "a backlog and nothing done: not ready"),
    _later("latency_limit", _positive, None, "oldest age that an alert may fire at"),
    Setting(
        "pool_size",
        _number(1, 10_000),
        None,
        "connections of a process to each database of `context.connection(url)`; `concurrency`",
    ),
)

_DAEMON: Final = (
    _TYPE,
    *_COMMON,
    *_only(_WORKER_TYPE, "worker"),
    *_only(_PROGRAM_TYPE, "program"),
    *_only(_SCHEDULED_TYPE, "scheduled"),
    *_only(_QUEUE_TYPE, "queue"),
    *_only(_STREAM_TYPE, "stream"),
    *_only(_KAFKA_TYPE, "kafka"),
    *_only(_TABLE_TYPE, "table"),
    *_only(_CONSUMER, *sorted(CONSUMERS)),
)

_LOCK_ERROR: Final = _choice("skip", "run", "hold")

_CRON: Final = (
    _later("schedule", _text, None, "5 fields, 6 with seconds first, `@hourly`, `@every 90s`"),
    _later("handler", _attribute, None, "`module:attr`"),
    _later("enable", _boolean, "true", "false: this job does not run"),
    _later("timezone", _text, "Asia/Shanghai", "of the schedule"),
    _later("timeout", _positive, "10m", "then the run's process group is killed"),
    _later("retries", _number(0, 1_000_000), "0", "further runs after a failure"),
    _later("retry_backoff", _positive, None, "wait before the first retry"),
    _later("lock", _secret, "none", "none, `redis://...` or `postgresql://...`"),
    _later("lock_timeout", _positive, "5m", "renewed while the run lives"),
    _later("lock_error", _LOCK_ERROR, "hold", "when the lock cannot be asked: skip, run, hold"),
    _later("overlap", _choice("skip", "queue", "replace", "allow"), "skip", "the last still runs"),
    _later("missed", _choice("skip", "once", "all"), "skip", "what to do with missed runs"),
    _later("missed_limit", _number(0, 1_000_000), "10", "catch up at most so many"),
    _later("deadline", _positive, "1h", "a run that could not start by then is missed"),
    _later("dst", _choice("once", "both", "skip"), "once", "the hour that comes twice"),
    _later("jitter", _duration, "0s", "up to so much is added, by chance"),
    _later("after", _names, None, "`a, b:failure`: run after these"),
    _later("start_at", _text, None, "not before"),
    _later("end_at", _text, None, "not after"),
    _later("max_runs", _number(1, 1 << 50), None, "then it ends"),
    _later("max_age", _positive, None, "no success for so long: overdue"),
    _later("args", _many(values.line), None, "JSON"),
    _later("ping_url", _secret, None, "called after each run"),
    _later("dispatch", _text, "run", "run or `daemon:NAME/TOPIC`"),
    *_STOP,
    *_PLACE,
    *_LOGS,
    *_OPTION,
)

_API: Final = (
    _later("type", _choice(*API_TYPES), "asgi", "grpc, or leave it out"),
    _later("app", _attribute, None, "ASGI or WSGI application or factory"),
    _later("servicer", _attribute, None, "of a gRPC service"),
    _later("bind", _text, None, "HOST:PORT, unix:PATH or systemd:NAME"),
    *_COMMON,
)

_HTTP: Final = (
    _later("enable", _boolean, "false", "health, metrics and page, a process of its own"),
    _later("bind", _text, "127.0.0.1:8084", "HOST:PORT"),
    _later("token", _secret, None, "at least 16 characters"),
    _later("allowed_hosts", _names, None, "further Host names"),
    _later("user", _text, None, "run as this user"),
)


def _with_defaults(kind: tuple[Setting, ...], jobs: tuple[Setting, ...]) -> tuple[Setting, ...]:
    """Give the keys of `[daemon]`: its own, and those of its jobs as their defaults."""
    own = {row.key for row in kind}
    return (*kind, *(row for row in jobs if row.key not in own))


KINDS: Final = ("daemon", "cron", "api")
"""The kinds of jobs: each has a section of its own and one for each job, `[daemon:NAME]`."""

BUILT_KINDS: Final = frozenset({"daemon"})

SECTIONS: Final = {
    "supervisor": _SUPERVISOR,
    "include": _INCLUDE,
    "worker": _WORKER,
    "daemon": _with_defaults(_KIND, _DAEMON),
    "daemon:NAME": _DAEMON,
    "cron": _with_defaults((*_KIND, *_CRON_KIND), _CRON),
    "cron:NAME": _CRON,
    "api": _with_defaults(_KIND, _API),
    "api:NAME": _API,
    "http": _HTTP,
}
"""All rows by section; several rows of one key belong to different types."""

_OTHER_WORDS: Final = {
    "spec": "schedule",
    "enabled": "enable",
    "autostart": "enable",
    "numprocs": "processes",
    "instances": "processes",
    "replicas": "processes",
    "workers": "processes",
    "startsecs": "stable_after",
    "startretries": "max_failures",
    "stopwaitsecs": "stop_timeout",
    "stopsignal": "stop_signal",
    "autorestart": "restart",
    "exitcodes": "expected_exits",
    "priority": "depends_on",
    "cwd": "directory",
    "env": "environment",
    "cmd": "command",
    "every": "interval",
    "threads": "concurrency",
    "max_retries": "retries",
    "loglevel": "log_level",
    "logfile": "log_file",
    "logfile_maxbytes": "log_max_bytes",
    "logfile_backups": "log_backups",
    "stdout_logfile": "log_file",
    "stdout_logfile_maxbytes": "log_max_bytes",
    "stdout_logfile_backups": "log_backups",
    "pidfile": "run_dir",
    "identifier": "name",
}
_OTHER_SECTIONS: Final = {
    "supervisord": "supervisor",
    "program": "daemon",
    "consumer": "daemon",
    "job": "daemon",
    "scheduler": "cron",
    "web": "api",
    "inet_http_server": "http",
}
"""The words that the seeds and PyPI's Supervisor have for ours."""


@cache
def _index(section: str) -> dict[str, tuple[Setting, ...]]:
    found: dict[str, list[Setting]] = {}
    for row in SECTIONS[section]:
        found.setdefault(row.family or row.key, []).append(row)
    return {key: tuple(rows) for key, rows in found.items()}


def rows(section: str, key: str) -> tuple[Setting, ...]:
    """Give the rows of a key, one for each group of types; none when the key is not known."""
    index = _index(section)
    if key in index and not key.endswith("."):
        return index[key]
    begin, dot, rest = key.partition(".")
    return index.get(begin + dot, ()) if rest else ()


@lru_cache(4096)
def row_of(section: str, key: str, job_type: str) -> Setting | None:
    """Give the row of a key for one type of jobs, if that type has it."""
    return next((row for row in rows(section, key) if job_type in row.types), None)


@cache
def of_type(section: str, job_type: str) -> tuple[Setting, ...]:
    """Give the rows that a job of this type has."""
    return tuple(row for row in SECTIONS[section] if job_type in row.types)


@cache
def defaults(section: str, job_type: str) -> dict[str, object]:
    """Give the default values of a job of this type, without those that have none."""
    return {
        row.key: row.default_value()
        for row in of_type(section, job_type)
        if row.built and row.default is not None
    }


@cache
def plain_defaults(section: str) -> dict[str, object]:
    """Give the default values of a section that is no job, without those that have none."""
    return {
        row.key: row.default_value()
        for row in SECTIONS[section]
        if row.built and row.default is not None
    }


def nearest_key(section: str, key: str) -> str | None:
    """Give the known key that a wrong one most likely meant, and its section when it is another."""
    known = {row.key for row in SECTIONS[section]}
    other = _OTHER_WORDS.get(key.lower())
    if other in known:
        return other
    if other is not None and (place := elsewhere(section, other)):
        return f"{other} in [{place}]"
    return values.nearest(key, known)


def nearest_section(name: str) -> str | None:
    """Give the known section that a wrong one most likely meant."""
    begin, colon, rest = name.partition(":")
    begin = begin.strip().lower()
    known = KINDS if colon else tuple(section for section in SECTIONS if ":" not in section)
    near = _OTHER_SECTIONS.get(begin) or values.nearest(begin, known)
    if near is None:
        return None
    return f"{near}:{rest.strip() or 'NAME'}" if colon and near in KINDS else near


def elsewhere(section: str, key: str) -> str | None:
    """Give another section that has this very key."""
    for other in SECTIONS:
        if other != section and rows(other, key):
            return other
    return None


def reference() -> str:
    """Write the table as Markdown, a table for each section."""
    lines: list[str] = []
    for section, table in SECTIONS.items():
        lines += [f"### [{section}]", ""]
        if section in KINDS:
            lines += [f"Any key of [{section}:NAME] too, as the default of its jobs.", ""]
        lines += ["| key | default | meaning | on reload |", "| --- | --- | --- | --- |"]
        shown = (row for row in table if section not in KINDS or row in (*_KIND, *_CRON_KIND))
        lines += [*map(_reference_row, shown), ""]
    return "\n".join(lines)


def _reference_row(row: Setting) -> str:
    types = "" if row.types == EVERY else f" ({', '.join(sorted(row.types))})"
    later = "" if row.built else " *Not in this release.*"
    default = "needed" if row.needed else f"`{row.default}`" if row.default is not None else ""
    meaning = row.meaning.replace("|", "\\|")
    return f"| `{row.key}`{types} | {default} | {meaning}{later} | {row.reload} |"


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
