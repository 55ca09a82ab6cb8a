"""Loading a configuration: what comes out of a right file, and what is said of a wrong one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from supervisor import config, location, settings
from supervisor.config import Config, Topic
from supervisor.errors import ConfigError, ExitCode
from supervisor.loading import load
from supervisor.location import locate

FINE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

WORKER = "[daemon:w]\ntype = worker\ntarget = shop.w:run\n"
KAFKA = "[daemon:k]\ntype = kafka\ntopics = a\ngroup = g\n"
QUEUE = "[daemon:q]\ntype = queue\nurl = sqlite:///q.db\ntopics = a:5, b\n"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand beside the folder `etc`, as an operator does."""
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Config:
    Path("etc/w.ini").write_text(text)
    return load(Path("etc/w.ini"))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.code is ExitCode.CONFIG
    return str(caught.value).splitlines()


def problem(text: str) -> str:
    (only,) = problems(text)
    return only


# A right file


def test_smallest_file_has_every_default(tmp_path: Path) -> None:
    found = read(WORKER)
    (job,) = found.jobs
    assert (job.name, job.kind, job.type, job.target) == ("w", "daemon", "worker", "shop.w:run")
    assert (job.processes, job.restart, job.backoff, job.backoff_max) == (1, "always", 1, 30)
    assert (job.max_failures, job.failure_window, job.fatal_retry) == (10, 600, 300)
    assert (found.name, found.path) == ("w", tmp_path / "etc/w.ini")
    assert found.pythonpath == (tmp_path / "etc",)
    assert (found.stop_timeout, found.socket_mode) == (35, 0o600)
    assert (found.worker_enable, found.worker_mode) == (True, "standalone")
    assert found.log_file is None
    assert not found.warnings


def test_kinds_section_gives_defaults_to_its_jobs() -> None:
    text = "[daemon]\nbackoff = 5s\nconcurrency = 3\noption.colour = red\n"
    worker, queue = read(text + WORKER + QUEUE + "handler = a:b\noption.size = 4\n").jobs
    assert worker.backoff == queue.backoff == 5
    assert queue.concurrency == 3
    assert {name: text.reveal() for name, text in queue.options.items()} == {
        "colour": "red",
        "size": "4",
    }
    assert queue.origin("backoff") == ("etc/w.ini", 2)
    assert queue.origin("topics") == ("etc/w.ini", 11)
    assert queue.origin("lease") == ("etc/w.ini", 8)


def test_queue(tmp_path: Path) -> None:
    (job,) = read(QUEUE + "handler = s:h\nhandler.b = s:h.b\nprogress_timeout = 1m\n").jobs
    assert job.url is not None
    assert job.url.reveal() == f"sqlite:///{tmp_path}/etc/q.db"
    assert job.topics == (Topic("a", 5), Topic("b", 1))
    assert (job.handler, job.handlers) == ("s:h", {"b": "s:h.b"})
    assert (job.concurrency, job.queue_size, job.batch, job.progress_timeout) == (10, 100, 1, 60)


def test_program_has_no_heartbeat() -> None:
    (job,) = read(
        "[daemon]\nheartbeat_timeout = 5s\n[daemon:p]\ntype = program\ncommand = a b\n"
    ).jobs
    assert job.heartbeat_timeout == 0
    assert job.command == ("a", "b")


def test_scheduled() -> None:
    (job,) = read("[daemon:s]\ntype = scheduled\nhandler = a:b\nrun_at_start = on\n").jobs
    assert (job.interval, job.jitter, job.run_at_start) == (300, 0, True)


def test_jobs_come_in_the_order_of_the_files() -> None:
    Path("etc/more.ini").write_text(WORKER.replace(":w]", ":a]"))
    jobs = read("[include]\nfiles = more.ini\n" + WORKER + WORKER.replace(":w]", ":b]")).jobs
    assert [job.name for job in jobs] == ["w", "b", "a"]
    assert jobs[2].origin("type") == ("etc/more.ini", 2)


def test_jobs_key_chooses() -> None:
    text = "[daemon]\njobs = b\n" + WORKER + WORKER.replace(":w]", ":b]")
    assert [job.name for job in read(text).jobs] == ["b"]


def test_relative_paths_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "etc/sub").mkdir()
    Path("etc/sub/a.ini").write_text(WORKER + "directory = .\nlog_file = w.log\n")
    found = read(
        "[supervisor]\nrun_dir = r\nlog_file = l\npythonpath = sub\n[include]\nfiles = sub/a.ini"
    )
    assert found.run_dir == tmp_path / "etc/r"
    assert found.log_file == tmp_path / "etc/l"
    assert found.pythonpath == (tmp_path / "etc/sub",)
    assert found.jobs[0].directory == tmp_path / "etc/sub"
    assert found.jobs[0].log_file == tmp_path / "etc/sub/w.log"


def test_supervisors_stop_timeout_is_that_of_the_slowest_job_and_five_seconds() -> None:
    assert read(WORKER + "stop_timeout = 2m\n").stop_timeout == 125
    assert read("[supervisor]\nstop_timeout = 7\n" + WORKER).stop_timeout == 7


def test_log_format_is_json_where_the_output_is_no_terminal() -> None:
    assert read("[supervisor]\nlog_file = l.log\n" + WORKER).log_format == "json"
    assert read("[supervisor]\nlog_format = text\n" + WORKER).log_format == "text"


def test_environment_is_a_secret_that_knows_its_name() -> None:
    (job,) = read(WORKER + "environment =\n  A=1\n  API_TOKEN=${file:t}\n").jobs
    assert job.environment["A"].shown == "1"
    assert job.environment["API_TOKEN"].shown == "***"
    assert not job.environment["API_TOKEN"].is_plain


def test_secret_option_is_hidden() -> None:
    (job,) = read(WORKER + "option.db_password = hush\n").jobs
    assert job.options["db_password"].shown == "***"
    assert "hush" not in repr(job)


def test_handlers_of_the_kind_serve_only_the_topics_of_a_job() -> None:
    (job,) = read("[daemon]\nhandler.a = s:a\nhandler.x = s:x\n" + QUEUE).jobs
    assert job.handlers == {"a": "s:a"}


# Warnings


def test_no_jobs_is_a_warning() -> None:
    assert [str(each) for each in read("").warnings] == [
        "etc/w.ini: [daemon]: no daemon jobs registered"
    ]
    assert not read("[daemon]\nenable = false\n" + WORKER).warnings


def test_topic_without_handler_is_a_warning() -> None:
    (warning,) = read(QUEUE + "handler.a = s:h\n").warnings
    assert str(warning).startswith("etc/w.ini:1: [daemon:q]: no handler for b:")


# What does not run is not judged


def test_disabled_job_may_use_what_is_not_built() -> None:
    text = "[daemon:k]\nenable = ${ON:-no}\ntype = table\nlease_column = ${NO_SUCH_VARIABLE}\n"
    assert read(text + WORKER).jobs[0].name == "w"


def test_disabled_job_must_still_use_known_keys() -> None:
    found = problem("[daemon:k]\nenable = false\nconcurency = 3\n")
    assert found == "etc/w.ini:3: [daemon:k] concurency: unknown key; did you mean concurrency?"


@pytest.mark.parametrize(
    "text",
    [
        "[cron]\nenable = false\n[cron:x]\nschedule = * * * * *\nhandler = a:b\n",
        "[cron]\n[http]\n[api]\n",
        "[cron:x]\nenable = off\nschedule = @hourly\n",
        "[http]\nbind = 0.0.0.0:8084\n",
        "[http]\nenable = false\n[api]\nenable = no\n",
        "[cron]\nenable = 0\ntimezone = UTC\n",
    ],
)
def test_what_is_not_built_may_stand_switched_off(text: str) -> None:
    assert read(text + WORKER).jobs


# A wrong file


@pytest.mark.parametrize(
    "text",
    [
        "[daemon:x]\ntyp = worker\nprocesses = x\nspec = 1\n",
        "[daemon:x]\ntype = wroker\nprocesses = x\nrestart = y\n",
        "[daemon:x]\ntype = worker\ntraget = a:b\nenable = maybe\nprocesses = x\n",
        "[daemon:x]\nprocesses = x\nstop_timeout = y\n",
        f"[supervisor]\nrun_dir = /{'r' * 107}\nlog_level = x\n[cron]\nenable = x\n[cron:c]\n",
        WORKER + "processes = x\n" + WORKER + "nice = x\n",
    ],
)
def test_three_faults_are_three_lines(text: str) -> None:
    assert len(problems(text)) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[deamon:w]\n", "1: [deamon:w]: unknown section; did you mean [daemon:w]?"),
        (
            "[cron:x]\nspec = 1\nenable = 0\n",
            "2: [cron:x] spec: unknown key; did you mean schedule?",
        ),
        ("[worker]\nenabled = 1\n", "2: [worker] enabled: unknown key; did you mean enable?"),
        ("[worker]\nconcurrency = 1\n", "2: [worker] concurrency: a key of [daemon], unknown"),
        ("[daemon:W]\nenable = 0\n", '1: [daemon:W]: "W" is no job name'),
        ("[daemon:http]\nenable = 0\n", "1: [daemon:http]: the name http is taken"),
        (
            "[daemon:x]\nenable = 0\n[cron:x]\nenable = 0\n",
            "3: [cron:x]: the name is taken by [daemon:x] at etc/w.ini:1; choose another",
        ),
        ("[daemon]\njobs = v\n" + WORKER, '2: [daemon] jobs: no job "v"; one of w'),
        ("[daemon:x]\n", "1: [daemon:x] type: missing; one of worker, program, scheduled, queue"),
        ("[daemon:x]\ntype = wroker\n", '2: [daemon:x] type: "wroker" is not known; did you mean'),
        (KAFKA + "brokers = h\n", '5: [daemon:k] brokers: "h" is no broker; write HOST:PORT, se'),
        (KAFKA + "brokers = h:0, g:1\n", '5: [daemon:k] brokers: "h:0" is no broker; write HOST'),
        (KAFKA + "brokers = k://h:1\n", '5: [daemon:k] brokers: "k://h:1" is no broker; wr'),
        (KAFKA, "1: [daemon:k] brokers: missing; `HOST:PORT`, several"),
        ("[daemon:x]\ntype = worker\n", "1: [daemon:x] target: missing; "),
        ("[daemon:x]\ntype = program\n", "1: [daemon:x] command: missing; "),
        ("[daemon:x]\ntype = scheduled\n", "1: [daemon:x] handler: missing; "),
        ("[cron:x]\nschedule = a\n", "1: [cron:x]: cron jobs are not in this release; set enable"),
        ("[api]\nbind = a\n", "1: [api]: api jobs are not in this release; set enable = false"),
        ("[http]\nenable = true\n", "2: [http] enable: the http process is not in this release"),
        (
            "[daemon]\nlatency_limit = 3\n",
            "2: [daemon] latency_limit: not in this release; leave it out",
        ),
        ("[daemon]\nbackoff = 5x\n", '2: [daemon] backoff: "5x" is no duration; write 500ms, 30s'),
        ("[supervisor]\nname = a b\n", '2: [supervisor] name: "a b" is no name'),
        ("[supervisor]\npythonpath = gone\n", "2: [supervisor] pythonpath: "),
        ("[include]\nfile = a\n", "2: [include] file: unknown key; did you mean files?"),
        (
            WORKER + "command = a\n",
            "4: [daemon:w] command: not a key of type worker, but of program",
        ),
        (WORKER + "processes = -1\n", '4: [daemon:w] processes: "-1" is not a whole number from 0'),
        (WORKER + "ready_timeout = 0\n", '4: [daemon:w] ready_timeout: "0" is too short'),
        (
            WORKER + "restart = maybe\n",
            '4: [daemon:w] restart: "maybe" is not known; one of always',
        ),
        (WORKER + "directory = gone\n", "4: [daemon:w] directory: "),
        (WORKER + "log_file = ${file:x}\n", "4: [daemon:w] log_file: ${file:...} may stand only"),
        (
            WORKER + "backoff = 1m\n",
            "4: [daemon:w] backoff: 1m is more than backoff_max (30s); set",
        ),
        (
            WORKER + "backoff_max = 1ms\n",
            "4: [daemon:w] backoff_max: 1ms is less than backoff; make",
        ),
        (
            WORKER + "option.x =\n",
            "4: [daemon:w] option.x: empty; give a value or leave the key out",
        ),
        (QUEUE + "concurrency = 257\n", '5: [daemon:q] concurrency: "257" is not a whole number'),
        (
            QUEUE + "handler.c = s:h\n",
            '5: [daemon:q] handler.c: "c" is none of topics; one of a, b',
        ),
        (QUEUE + "handler = s.h\n", '5: [daemon:q] handler: "s.h" is not module:attr; write it as'),
        (QUEUE + "batch = 0\n", '5: [daemon:q] batch: "0" is not a whole number from 1 to'),
        (QUEUE.replace("sqlite", "postgres"), "3: [daemon:q] url: postgres:// is not in this rel"),
    ],
)
def test_problem_says_where_what_and_what_would_be_right(text: str, expected: str) -> None:
    assert problem(text).startswith(f"etc/w.ini:{expected}")


def test_all_problems_of_all_files_come_at_once_sorted() -> None:
    Path("etc/a.ini").write_text("[daemon:x]\ntype = worker\nbackoff = x\n")
    found = problems("[include]\nfiles = a.ini\n[worker]\nmode = x\nspec = 1\nspec = 2\n[oops]\n")
    places = [line.partition(" ")[0].rstrip(":") for line in found]
    assert places == [
        "etc/a.ini:1",
        "etc/a.ini:3",
        "etc/w.ini:4",
        "etc/w.ini:5",
        "etc/w.ini:6",
        "etc/w.ini:7",
    ]


def test_inherited_mistake_is_told_once() -> None:
    assert problem("[daemon]\nbackoff = x\n" + WORKER + QUEUE).startswith("etc/w.ini:2: [daemon]")


def test_too_many_processes_in_all() -> None:
    found = problem(WORKER + "processes = 4000\n" + QUEUE + "processes = 97\n")
    assert found == (
        "etc/w.ini:9: [daemon:q] processes: 4097 processes in all; at most 4096 for all jobs"
    )


def test_password_in_a_wrong_value_is_not_shown() -> None:
    assert "hush" not in problem(QUEUE.replace("sqlite:///q.db", "ftp://u:hush@h"))


def test_unset_variable() -> None:
    assert "${NO_SUCH_VARIABLE} is not set" in problem(WORKER + "log_file = ${NO_SUCH_VARIABLE}\n")


# Where the supervisor is


def test_folders_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    Path("etc/shop.ini").write_text("")
    found = locate(Path("etc/shop.ini"))
    assert found == location.Location("shop", Path("/run/shop"), Path("/var/lib/shop"))


def test_folders_of_a_user_follow_from_the_password_file_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # daemon: there everywhere, without /run/user/1
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    Path("etc/shop.ini").write_text("")
    found = locate(Path("etc/shop.ini"))
    assert found.state_dir.parts[-3:] == (".local", "state", "shop")
    assert "elsewhere" not in str(found.state_dir)
    assert found.run_dir == found.state_dir / "run"


def test_user_without_a_home_must_name_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321987)
    Path("etc/shop.ini").write_text("")
    with pytest.raises(ConfigError, match="no home in the password file; set state_dir"):
        locate(Path("etc/shop.ini"))


def test_locate_does_not_mind_faults_elsewhere(tmp_path: Path) -> None:
    Path("etc/w.ini").write_text("[supervisor]\nname = shop\nrun_dir = r\noops\n[daemon:x]\n[x\n")
    found = locate(Path("etc/w.ini"))
    assert (found.name, found.run_dir) == ("shop", tmp_path / "etc/r")


def test_locate_and_load_agree() -> None:
    Path("etc/more.ini").write_text("[supervisor]\nname = shop\nstate_dir = s\n")
    found = read("[include]\nfiles = more.ini\n" + WORKER)
    assert locate(Path("etc/w.ini")) == location.Location(
        found.name, found.run_dir, found.state_dir
    )


def test_file_whose_stem_is_no_name_must_name_itself() -> None:
    Path("etc/my workers.ini").write_text("")
    with pytest.raises(ConfigError, match=r"the file's stem would be the name.*; set name$"):
        locate(Path("etc/my workers.ini"))


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"^etc/gone\.ini: no such file$"):
        load(Path("etc/gone.ini"))


# Garbage

WORDS = st.sampled_from(
    sorted(
        {row.key for rows in settings.SECTIONS.values() for row in rows}
        | {f"[{name}]" for name in settings.SECTIONS}
        | {"[daemon:a]", "[cron:b]", "[x", "]", "=", " = ", "\n", "\n  ", "#", "$", "${A:-", "}"}
        | {
            "worker",
            "queue",
            "program",
            "scheduled",
            "a:b",
            "1",
            "-1",
            "true",
            "off",
            "sqlite:///q",
        }
        | {"${file:x}", "*", "conf.d/*.ini", "\x00", "nan", "\u2028", ",", "'"}
    )
)


@hypothesis_settings(suppress_health_check=FINE, max_examples=300)
@given(text=st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text(), st.binary()))
def test_any_text_is_a_config_or_a_config_error(text: str | bytes) -> None:
    path = Path("etc/w.ini")
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with suppress(ConfigError):
        assert load(path).name == "w"
    with suppress(ConfigError):
        locate(path)


LINES = st.builds(
    "{} = {}\n".format,
    st.sampled_from(sorted({row.key for row in settings.SECTIONS["daemon:NAME"]})),
    st.one_of(st.sampled_from(["1", "5s", "a:b", "on", "sqlite:///q", "a", "queue"]), st.text()),
)


@hypothesis_settings(suppress_health_check=FINE, max_examples=200)
@given(job_type=st.sampled_from(settings.DAEMON_TYPES), lines=st.lists(LINES, max_size=12))
def test_every_problem_names_a_line_of_the_file(job_type: str, lines: list[str]) -> None:
    path = Path("etc/w.ini")
    text = f"[daemon:a]\ntype = {job_type}\n" + "".join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found: tuple[config.Problem, ...] = ()
    try:
        load(path)
    except ConfigError as error:
        found = error.problems
    for each in found:
        assert each.file == "etc/w.ini"
        assert 0 < each.line <= text.count("\n") + 1
        assert "\n" not in str(each)
