"""supervisord.conf as supervisord reads it, and what becomes of every key."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from supervisor import loading
from supervisor.config import Config, Job
from supervisor.errors import ConfigError
from supervisor.importers import draft, supervisord
from supervisor.importers.supervisord_text import File
from supervisor.secret import Secret

HERE = "/srv/shop"
SHIPPED = Path(__file__).resolve().parents[1] / "data" / "supervisord"


def imported(source: str, *, environ: dict[str, str] | None = None) -> str:
    """Give our file for a supervisord.conf that lies in /srv/shop."""
    file = File("supervisord.conf", HERE, textwrap.dedent(source))
    known = environ or {}
    found = supervisord.translate(file, lambda _pattern, _folder: [], "node7", known)
    return draft.written(found, Path("/"), known).text


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Config]:
    def read(source: str) -> Config:
        path = tmp_path / "workers.ini"
        path.write_text(imported(source))
        return loading.load(path)

    return read


@pytest.fixture
def load_job(load: Callable[[str], Config]) -> Callable[[str], Job]:
    def read(keys: str) -> Job:
        source = "[supervisord]\n[program:app]\n" + textwrap.dedent(keys)
        (job,) = load(source).jobs
        return job

    return read


Load = Callable[[str], Config]
LoadJob = Callable[[str], Job]


def test_a_program_lives_as_under_supervisord_unless_told_otherwise(load_job: LoadJob) -> None:
    job = load_job("command = /bin/app")

    assert (job.type, job.command, job.processes) == ("program", ("/bin/app",), 1)
    assert (job.restart, job.expected_exits) == ("on-failure", {0})
    assert (job.stable_after, job.stop_timeout, job.log_backups) == (1.0, 10.0, 10)


def test_every_key_of_a_life_has_its_counterpart(load_job: LoadJob) -> None:
    job = load_job(
        """
        command = /bin/app --speed=9   ; as fast as it goes
        autorestart = true
        exitcodes = 0,2
        startsecs = 5
        startretries = 7
        stopsignal = QUIT
        stopwaitsecs = 25
        directory = /tmp
        umask = 027
        stdout_logfile = /var/log/app.log
        stdout_logfile_maxbytes = 1MB
        stdout_logfile_backups = 0
        redirect_stderr = true
        """
    )

    assert job.command == ("/bin/app", "--speed=9")
    assert (job.restart, job.expected_exits, job.stable_after) == ("always", {0, 2}, 5.0)
    assert job.max_failures == 8, "seven retries after the first start"
    assert (job.stop_signal, job.stop_timeout, job.directory) == (3, 25.0, Path("/tmp"))
    assert job.log_file == Path("/var/log/app.log")
    assert (job.log_max_bytes, job.log_backups) == (1 << 20, 0)


@pytest.mark.parametrize("word", ["0", "22", "027", "0o77"])
def test_a_umask_is_octal_with_any_number_of_digits(load_job: LoadJob, word: str) -> None:
    assert load_job(f"command = app\numask = {word}").rights.umask == int(word, 8)


@pytest.mark.parametrize(
    ("word", "ours"),
    [("true", "always"), ("False", "never"), ("unexpected", "on-failure"), ("1", "always")],
)
def test_autorestart(load_job: LoadJob, word: str, ours: str) -> None:
    assert load_job(f"command = app\nautorestart = {word}").restart == ours


def test_what_does_not_start_by_itself_waits_for_its_scale(load: Load) -> None:
    text = imported("[program:app]\ncommand = app\nautostart = false\n")
    assert "`supervisor scale app=1` starts it" in text
    (job,) = load("[program:app]\ncommand = app\nautostart = false\n").jobs
    assert job.processes == 0


def test_environment_is_taken_apart_as_supervisord_does(load_job: LoadJob) -> None:
    job = load_job(
        """
        command = app
        environment = A="1",B='two, three', C=/x/y.z:4,D="5 %% of $HOME",E="",
          PERCENT="%(program_name)s on %(host_node_name)s"
        """
    )
    assert {name: value.reveal() for name, value in job.environment.items()} == {
        "A": "1",
        "B": "two, three",
        "C": "/x/y.z:4",
        "D": "5 % of $HOME",
        "E": "",
        "PERCENT": "app on node7",
    }


def test_variables_become_ours_and_dollars_stay_dollars(
    load_job: LoadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIN", "/opt/bin")
    monkeypatch.setenv("OWN", "not this one")
    job = load_job(
        """
        command = %(ENV_BIN)s/app '$HOME' ${X} %(here)s 100%% %(ENV_OWN)s
        environment = OWN="mine",BOTH="%(ENV_BIN)s:/bin"
        """
    )
    assert job.command == ("/opt/bin/app", "$HOME", "${X}", HERE, "100%", "mine")
    assert job.environment["BOTH"].reveal() == "/opt/bin:/bin"


def test_a_variable_that_is_not_set_is_for_check_to_tell(load_job: LoadJob) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job("command = %(ENV_NOWHERE_SET)s/app")
    (problem,) = caught.value.problems
    assert problem.key == "command"
    assert "${NOWHERE_SET} is not set" in problem.message


def test_a_variable_that_decides_is_read_at_the_import() -> None:
    source = """
        [program:app]
        command = app
        process_name = %(process_num)d
        numprocs = %(ENV_COUNT)s
        autostart = %(ENV_ON)s
        startsecs = %(ENV_SECONDS)s
    """
    text = imported(source, environ={"COUNT": "3", "ON": "true", "SECONDS": "7"})
    assert "\nprocesses = ${COUNT}\n" in text
    assert "\nstable_after = 7s\n" in text
    assert "# startsecs = %(ENV_SECONDS)s: 7, when this was imported" in text
    with pytest.raises(ConfigError) as caught:
        imported(source, environ={"COUNT": "3", "ON": "true"})
    assert str(caught.value) == (
        "supervisord.conf:7: [program:app] startsecs: the variable SECONDS decides, and is not set"
        " here; set it for the import"
    )


def test_environment_of_supervisord_reaches_every_program(load: Load) -> None:
    found = load(
        """
        [supervisord]
        environment = A="1",B="2"
        [program:plain]
        command = app %(ENV_A)s
        [program:own]
        command = app
        environment = B="3"
        """
    )
    plain, own = found.jobs
    assert _values(plain) == {"A": "1", "B": "2"}
    assert _values(own) == {"A": "1", "B": "3"}
    assert plain.command == ("app", "1")


def _values(job: Job) -> dict[str, str]:
    return {name: Secret.reveal(value) for name, value in job.environment.items()}


def test_processes_that_differ_by_their_number_become_jobs(load: Load) -> None:
    found = load(
        """
        [program:web]
        command = app --port 80%(process_num)02d
        process_name = %(program_name)s_%(process_num)02d
        numprocs = 3
        numprocs_start = 1
        stdout_logfile = /var/log/web-%(process_num)d.log
        """
    )
    assert [(job.name, job.command[2], str(job.log_file)) for job in found.jobs] == [
        ("web_01", "8001", "/var/log/web-1.log"),
        ("web_02", "8002", "/var/log/web-2.log"),
        ("web_03", "8003", "/var/log/web-3.log"),
    ]


def test_processes_that_differ_by_their_log_alone_stay_one_job(load_job: LoadJob) -> None:
    job = load_job(
        """
        command = app
        process_name = %(process_num)02d
        numprocs = 3
        stdout_logfile = /var/log/app-%(process_num)02d.log
        """
    )
    assert (job.processes, job.log_file) == (3, Path("/var/log/app.log"))


def test_groups_give_their_jobs_a_common_beginning(load: Load) -> None:
    found = load(
        """
        [group:Front End]
        programs = web, feed
        [program:web]
        command = app
        [program:feed]
        command = app
        [program:alone]
        command = app
        """
    )
    assert [job.name for job in found.jobs] == ["front-end.web", "front-end.feed", "alone"]


def test_names_are_made_valid_and_unique_and_the_old_one_is_told() -> None:
    text = imported("".join(f"[program:{name}]\ncommand=a\n" for name in ("Web", "WEB", "9", "é")))
    assert [line for line in text.splitlines() if line.startswith("[daemon:")] == [
        "[daemon:web]",
        "[daemon:web-2]",
        "[daemon:job-9]",
        "[daemon:job]",
    ]
    assert "# was [program:WEB] of supervisord (supervisord.conf:3)" in text


@pytest.mark.parametrize("name", ["http", "master", "scheduler", "x" * 90])
def test_names_that_are_taken_or_too_long(load: Load, name: str) -> None:
    (job,) = load(f"[program:{name}]\ncommand=a\n").jobs
    assert job.name != name


def test_priorities_are_suggested_as_dependencies() -> None:
    text = imported(
        """
        [program:db]
        command = a
        priority = -1
        [program:app]
        command = a
        priority = 2
        """
    )
    assert "# priority = -1: here all start at once; depends_on says" in text
    assert "# priority = 2: here all start at once." in text
    assert "\n# depends_on = db\n" in text


def test_nothing_is_lost_without_a_word() -> None:
    """Every key of every section is either one of ours or named in a comment."""
    text = imported((SHIPPED / "supervisord.conf").read_text())
    words = """
        pidfile nodaemon minfds identifier username password inet_http_server rpcinterface
        supervisorctl eventlistener fcgi-program buffer_size socket stderr_logfile_maxbytes
        stopasgroup priority conf.d/*.conf
    """
    assert [word for word in words.split() if word not in text] == []


def test_no_secret_of_what_is_not_imported_is_repeated() -> None:
    text = imported((SHIPPED / "supervisord.conf").read_text())
    assert "s3cret" not in text
    assert text.count("t0ken") == 1, "where it is needed"
    assert "API_TOKEN looks like a secret: better API_TOKEN=${file:PATH}" in text


def test_the_comments_of_a_program_come_with_it() -> None:
    text = imported(
        """
        ; far away

        ; the only one
        [program:a]
        command = a   ; of two
        ; its end
        startsecs = 1
        """
    )
    assert "# the only one\n# command: of two\n# its end\n[daemon:a]" in text
    assert "far away" not in text


def test_a_second_text_of_a_section_counts_as_for_supervisord(load: Load) -> None:
    (job,) = load("[program:a]\ncommand=b\nstartsecs=3\n[program:a]\ncommand=c\n").jobs
    assert (job.command, job.stable_after) == (("c",), 3.0)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("[program:a]\nstartsecs = 1\n", ":1: [program:a] command: missing"),
        ("[program:a]\ncommand = b %x\n", ":2: [program:a] command: supervisord cannot expand it"),
        ("[program:a]\ncommand = 'b\n", ":2: [program:a] command: the quotes do not match"),
        ("[program:a]\ncommand = %(nothing)s\n", ":2: [program:a] command: %(nothing)s is unknown"),
        ("[program:a]\ncommand = b\nstartsecs = soon\n", ':3: [program:a] startsecs: "soon" is no'),
        ("[program:a]\ncommand = b\nautostart = x\n", ':3: [program:a] autostart: "x" is neither'),
        ("[program:a]\ncommand = b\nnumprocs = 2\n", ":3: [program:a] numprocs: above 1"),
        ("[program:a]\ncommand = b\nnumprocs = 9999\n", ":3: [program:a] numprocs: 9999"),
        ("[program:a]\ncommand = b\nenvironment = A\n", ":3: [program:a] environment: not KEY="),
        ("[program:a]\ncommand = %(ENV_A-B)s\n", ":2: [program:a] command: %(ENV_A-B)s is unknown"),
        (
            "[supervisord]\n[group:g]\nprograms = x\n",
            ":3: [group:g] programs: there is no [program:x]",
        ),
        ("[supervisord]\nloglevel = loud\n", ':2: [supervisord] loglevel: "loud" is no level'),
        ("web: gunicorn\n", ":1: no [section] above it"),
        ("[program:a]\ncommand\n", ":2: neither [section] nor key = value"),
    ],
)
def test_what_supervisord_refuses_is_refused_with_its_place(source: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(source)
    assert f"supervisord.conf{line}" in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        imported("[program:a]\ncommand = b\nstartsecs = x\nstopwaitsecs = y\n[program:c]\n")
    assert len(caught.value.problems) == 3


# Any configuration

WORDS = st.text(
    st.characters(
        codec="utf-8", exclude_characters="\0\r\ue000\ue001\n", exclude_categories=["Cs"]
    ),
    max_size=20,
)
INTEGERS = st.integers(0, 99).map(str)
BOOLEANS = st.sampled_from(["true", "FALSE", "on", "0"])
VALUES = {
    "process_name": st.just("%(program_name)s_%(process_num)02d"),
    "numprocs": st.integers(0, 4).map(str),
    "numprocs_start": INTEGERS,
    "autostart": BOOLEANS,
    "autorestart": st.one_of(BOOLEANS, st.just("unexpected")),
    "startsecs": INTEGERS,
    "startretries": INTEGERS,
    "exitcodes": st.sampled_from(["0", "0,2", "", "78", "0, 0"]),
    "stopsignal": st.sampled_from(["TERM", "SIGUSR1", "15", "KILL"]),
    "stopwaitsecs": INTEGERS,
    "stopasgroup": BOOLEANS,
    "umask": st.sampled_from(["022", "0", "77"]),
    "environment": st.one_of(
        WORDS.filter(lambda word: not set(word) & set("%\"'\\")).map('A="{}",B_TOKEN=x'.format),
        st.just("A='1',A-B=2"),
    ),
    "redirect_stderr": BOOLEANS,
    "stdout_logfile": st.sampled_from(["AUTO", "NONE", "syslog", "/tmp/a b.log", "x%(here)s", "~"]),
    "stdout_logfile_maxbytes": st.sampled_from(["1MB", "0", "2gb"]),
    "stderr_logfile": st.sampled_from(["AUTO", "/dev/stderr", "/tmp/e.log"]),
    "priority": INTEGERS,
    "unheard_of": WORDS,
}
COMMANDS = st.one_of(
    WORDS.map(lambda word: f"x {word}"),
    st.sampled_from(["app %(process_num)02d", "sh -c 'a | b; $X'", "%(ENV_PATH)s x", "a\n  b"]),
)
PROGRAMS = st.fixed_dictionaries(
    {"command": COMMANDS, "process_name": VALUES["process_name"]},
    optional={key: value for key, value in VALUES.items() if key != "process_name"},
)
SPOILT = st.dictionaries(
    st.sampled_from(sorted(VALUES)),
    st.one_of(WORDS, st.sampled_from(["-1", "300", "%(process_num)", "1.5MB", "5 apples", "'"])),
    max_size=1,
)
HEADS = st.sampled_from(
    ["program:web", "program:Web", "program:x y", "program:9", "eventlistener:e", "fcgi-program:f"]
)
SECTIONS = st.dictionaries(HEADS, st.builds(dict.__or__, PROGRAMS, SPOILT), max_size=4)
MAIN = st.fixed_dictionaries(
    {},
    optional={
        "logfile": st.sampled_from(["/tmp/log", "syslog", "rel.log"]),
        "logfile_maxbytes": VALUES["stdout_logfile_maxbytes"],
        "loglevel": st.sampled_from(["warn", "blather"]),
        "environment": VALUES["environment"],
        "umask": VALUES["umask"],
        "identifier": WORDS,
    },
)


@given(SECTIONS, MAIN)
def test_any_file_gives_one_that_can_be_loaded_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory,
    sections: dict[str, dict[str, str]],
    main: dict[str, str],
) -> None:
    lines = []
    for head, keys in {"supervisord": main, **sections}.items():
        lines.append(f"[{head}]")
        lines += [f"{key} = {value}" for key, value in keys.items()]
    try:
        text = imported("\n".join(lines) + "\n", environ={"PATH": "/bin"})
    except ConfigError as error:
        event("refused")
        for problem in error.problems:
            assert problem.message
            assert "\n" not in str(problem)
        return
    event("imported")
    path = tmp_path_factory.mktemp("any") / "workers.ini"
    path.write_text(text, newline="")
    found = loading.load(path)
    assert len(found.jobs) == text.count("\n[daemon:")
