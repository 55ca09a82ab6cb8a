"""The table of keys: complete, coherent, and of the same words as the contract and `Job`."""

from __future__ import annotations

from dataclasses import fields

import pytest

from supervisor import reload, settings
from supervisor.config import Config, Job
from supervisor.values import Preload

ROWS = [
    pytest.param(section, row, id=f"{section}-{row.key}-{len(row.types)}")
    for section, rows in settings.SECTIONS.items()
    for row in rows
]


@pytest.mark.parametrize(("section", "row"), ROWS)
def test_default_is_readable_by_its_own_reader(section: str, row: settings.Setting) -> None:
    nothing = row.default in ("off", "none", "-")
    assert row.default is None or row.default_value() is not None or nothing


@pytest.mark.parametrize(("section", "row"), ROWS)
def test_row_says_what_it_means_and_what_a_reload_does(section: str, row: settings.Setting) -> None:
    assert row.meaning
    assert row.reload in (settings.LIVE, settings.RESTART, settings.SUPERVISOR)
    assert not (row.needed and row.default is not None)


@pytest.mark.parametrize("job_type", settings.DAEMON_TYPES + settings.API_TYPES)
def test_no_type_has_two_rows_of_one_key(job_type: str) -> None:
    for section in settings.SECTIONS:
        keys = [row.key for row in settings.of_type(section, job_type)]
        assert len(keys) == len(set(keys))


def test_every_built_key_of_a_job_is_a_field_of_job_and_the_other_way_round() -> None:
    keys = {
        row.key
        for job_type in settings.DAEMON_TYPES
        for row in settings.of_type("daemon:NAME", job_type)
        if row.built
    }
    made = {"handler.ANY": "handlers", "option.ANY": "options", "client.ANY": "client"}
    # The word `group` means another thing to a log.
    own = reload._NOT_KEYS | reload._KEYS.keys()
    assert {made.get(key, key) for key in keys - {"enable", "type"}} == {
        field.name for field in fields(Job)
    } - own - {"type"}


def test_defaults_of_job_are_those_of_the_table() -> None:
    for job_type in settings.DAEMON_TYPES:
        given = settings.defaults("daemon:NAME", job_type)
        job = Job(name="a", kind="daemon", type=job_type)
        for key, value in given.items():
            if key != "enable":
                assert getattr(job, key) == value, key


def test_defaults_of_config_are_those_of_the_table() -> None:
    defaults = {field.name: field.default for field in fields(Config)}
    for key, value in settings.plain_defaults("supervisor").items():
        assert defaults[key] == value or value == Preload(), key


CONTRACT = {
    "supervisor": "name run_dir state_dir log_level log_format log_file log_max_bytes log_backups"
    " stop_timeout preload socket_mode socket_group pythonpath user group",
    "include": "files",
    "worker": "enable mode",
    "daemon": "enable jobs processes backoff",
    "cron": "enable jobs timezone lock lock_error history",
    "api": "enable jobs bind",
    "http": "enable bind token allowed_hosts user",
    "daemon:NAME": "type enable required processes restart expected_exits backoff backoff_max"
    " stable_after max_failures failure_window fatal_retry on_fatal ready_timeout"
    " heartbeat_timeout stop_timeout stop_signal depends_on max_memory max_lifetime max_messages"
    " user group umask nice cpu_affinity directory limit_nofile limit_core limit_memory"
    " environment env_file inherit_environment log_file log_max_bytes log_backups log_rate"
    " option.x target health_interval command notify handler interval jitter run_at_start url"
    " topics order_topics group brokers order auto_offset_reset client.x table key status pending"
    " done failed order_by where batch_size poll_interval claim attempts_column error_column"
    " lease_column handler.x.y concurrency min_concurrency max_concurrency queue_size retries"
    " retry_backoff retry_backoff_max handler_timeout rate_limit dead_letter idempotency"
    " idempotency_key idempotency_ttl lease batch io_timeout progress_timeout latency_limit"
    " pool_size",
    "cron:NAME": "schedule handler enable timezone timeout retries retry_backoff lock lock_timeout"
    " lock_error overlap missed missed_limit deadline dst jitter after start_at end_at max_runs"
    " max_age args ping_url dispatch user group umask nice cpu_affinity directory limit_nofile"
    " environment env_file log_file log_rate stop_timeout stop_signal option.x",
    "api:NAME": "app type servicer bind processes restart stop_timeout",
}


def test_every_section_of_the_contract_is_there() -> None:
    assert set(CONTRACT) == set(settings.SECTIONS)


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section in CONTRACT for key in CONTRACT[section].split()],
)
def test_every_key_of_the_contract_is_known(section: str, key: str) -> None:
    assert settings.rows(section, key)


@pytest.mark.parametrize("key", ["option.", "option", "handler.", "ANY", "option.ANY.", ".x", ""])
def test_a_family_needs_a_member(key: str) -> None:
    assert not settings.rows("daemon:NAME", key) or key == "option.ANY."


@pytest.mark.parametrize(
    ("section", "wrong", "near"),
    [
        ("cron:NAME", "spec", "schedule"),
        ("cron:NAME", "enabled", "enable"),
        ("daemon:NAME", "spec", "schedule in [cron]"),
        ("daemon:NAME", "numprocs", "processes"),
        ("daemon:NAME", "startsecs", "stable_after"),
        ("daemon:NAME", "stopwaitsecs", "stop_timeout"),
        ("daemon:NAME", "autorestart", "restart"),
        ("daemon:NAME", "concurency", "concurrency"),
        ("daemon:NAME", "Backoff_Max", "backoff_max"),
        ("supervisor", "logfile", "log_file"),
        ("daemon:NAME", "zzzzzz", None),
    ],
)
def test_nearest_key(section: str, wrong: str, near: str | None) -> None:
    assert settings.nearest_key(section, wrong) == near


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("supervisord", "supervisor"),
        ("program:web", "daemon:web"),
        ("deamon:orders", "daemon:orders"),
        ("daemons", "daemon"),
        ("Cron", "cron"),
        ("crom: x", "cron:x"),
        ("qqqq", None),
    ],
)
def test_nearest_section(wrong: str, near: str | None) -> None:
    assert settings.nearest_section(wrong) == near


def test_reference_has_a_table_for_each_section_and_a_row_for_each_key() -> None:
    text = settings.reference()
    for section in settings.SECTIONS:
        assert f"### [{section}]\n" in text
    for row in settings.SECTIONS["daemon:NAME"]:
        assert f"| `{row.key}`" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line[:1] == "|"}
    assert widths == {5}
