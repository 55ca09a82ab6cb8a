"""PM2's ecosystem.json: what becomes of every key."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import loading
from supervisor.config import Job
from supervisor.errors import ConfigError, Problem
from supervisor.importers import draft, ecosystem
from supervisor.importers.supervisord_text import File


def imported(source: object, folder: Path) -> str:
    text = source if isinstance(source, str) else json.dumps(source)
    found = ecosystem.translate(File("ecosystem.json", str(folder), text), processors=6)
    return draft.written(found, folder, {}).text


def load(folder: Path, *apps: dict[str, Any]) -> list[Job]:
    path = folder / "workers.ini"
    path.write_text(imported({"apps": list(apps)}, folder))
    return list(loading.load(path).jobs)


def test_an_app_lives_as_under_pm2_unless_told_otherwise(tmp_path: Path) -> None:
    (job,) = load(tmp_path, {"script": "./bin/server.js"})
    assert (job.name, job.type, job.command) == ("server", "program", ("node", "./bin/server.js"))
    assert (job.restart, job.max_failures, job.directory) == ("always", 16, tmp_path)
    assert (job.stop_signal, job.stop_timeout, job.stable_after) == (2, 1.6, 1.0)


def test_every_key_of_a_life_has_its_counterpart(tmp_path: Path) -> None:
    (job,) = load(
        tmp_path,
        {
            "name": "API Server",
            "script": "app.py",
            "args": ["--greeting", "it's $5", "100%"],
            "interpreter_args": "-u -X dev",
            "instances": "3",
            "cwd": "..",
            "env": {"A": "1", "N": 3, "ON": True, "NONE": None, "PRICE": "$5 # or more"},
            "stop_exit_codes": [0, 3],
            "min_uptime": "60s",
            "max_restarts": 5,
            "restart_delay": 60000,
            "kill_timeout": 5000,
            "listen_timeout": 8000,
            "out_file": "out.log",
        },
    )
    assert job.name == "api-server"
    assert job.command == (
        "python3", "-u", "-X", "dev", "app.py", "--greeting", "it's $5", "100%",
    )  # fmt: skip
    assert (job.processes, job.directory) == (3, tmp_path.parent)
    assert {name: value.reveal() for name, value in job.environment.items()} == {
        "A": "1",
        "N": "3",
        "ON": "true",
        "PRICE": "$5 # or more",
    }
    assert (job.restart, job.expected_exits) == ("on-failure", {0, 3})
    assert (job.stable_after, job.max_failures) == (60.0, 5)
    assert (job.backoff, job.backoff_max) == (60.0, 60.0)
    assert (job.stop_timeout, job.ready_timeout) == (5.0, 8.0)
    assert job.log_file == tmp_path.parent / "out.log"


def test_arguments_beside_a_line_for_the_shell_are_left_out_as_by_pm2(tmp_path: Path) -> None:
    text = imported([{"script": "npm start", "args": "--fast"}], tmp_path)
    assert "command = npm start\n" in text
    assert "# not imported: args = --fast (ecosystem.json, app 1): PM2 leaves it out too" in text


@pytest.mark.parametrize(
    ("app", "command"),
    [
        ({"script": "run.sh"}, ("bash", "run.sh")),
        ({"script": "./server"}, ("./server",)),
        ({"script": "npm", "args": "run start"}, ("npm", "run", "start")),
        ({"script": "x.js", "interpreter": "none"}, ("x.js",)),
        ({"script": "x.js", "node_args": "--inspect"}, ("node", "--inspect", "x.js")),
        ({"script": "npm run start"}, ("npm", "run", "start")),
        ({"command": "cd web && npm start"}, ("sh", "-c", "cd web && npm start")),
        ({"pm_exec_path": "/srv/my shop/x.js"}, ("node", "/srv/my shop/x.js")),
    ],
)
def test_the_interpreter_is_that_of_the_ending(
    tmp_path: Path, app: dict[str, Any], command: tuple[str, ...]
) -> None:
    (job,) = load(tmp_path, app)
    assert job.command == command


@pytest.mark.parametrize(
    ("instances", "processes"), [("max", 6), (0, 6), (-1, 5), (-9, 1), (2, 2), ("4", 4)]
)
def test_instances(tmp_path: Path, instances: object, processes: int) -> None:
    (job,) = load(tmp_path, {"script": "x.js", "instances": instances})
    assert job.processes == processes


def test_what_has_no_counterpart_is_told_with_its_reason(tmp_path: Path) -> None:
    app = {
        "script": "x.js",
        "exec_mode": "cluster",
        "cron_restart": "0 0 * * *",
        "watch": ["src"],
        "wait_ready": True,
        "treekill": False,
        "error_file": "e.log",
        "out_file": "o.log",
        "env_production": {"API_TOKEN": "t0ken"},
        "max_memory_restart": "300M",
        "wholly_unknown": 1,
    }
    text = " ".join(imported({"apps": [app], "deploy": {"host": "x"}}, tmp_path).split())
    for word in (app.keys() | {"deploy"}) - {"script", "out_file", "max_memory_restart"}:
        assert f"not imported: {word} = " in text
    assert "t0ken" not in text
    assert "max_memory = 300MB" in text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('{"apps": [\n{"script": }]}', "ecosystem.json:2: no JSON: Expecting value, column 12"),
        ("[]", "ecosystem.json: not PM2's"),
        ("7", "ecosystem.json: not PM2's"),
        ("[" * 100_000, "ecosystem.json: JSON that is nested too deep"),
        ('{"apps": [{"name": "a"}]}', "ecosystem.json: app a: script is missing"),
        ('[{"script": "x", "instances": "many"}]', "app number 1: instances: 'many' is no number"),
        ('[{"script": "x", "kill_timeout": "soon"}]', "kill_timeout: 'soon' is no time"),
        ('[{"script": "\\ud800"}]', "ecosystem.json: a character that no configuration holds"),
        ('[{"script": "\\ue000a"}]', "ecosystem.json: a character that no configuration holds"),
        ('[{"script": "x", "env": 7}]', "env is no object"),
        ('[{"script": "x", "args": "\'"}]', "app number 1: No closing quotation"),
        ('[{"script": "x", "args": ["a\\nb"]}]', "an argument holds a line end"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(source, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = """
    name args interpreter instances cwd env max_memory_restart autorestart min_uptime
    max_restarts restart_delay exp_backoff_restart_delay kill_timeout stop_exit_codes
    out_file log_file uid namespace watch exec_mode
"""
APPS = st.builds(
    lambda app, script: {"script": script, **app},
    st.dictionaries(st.sampled_from(KEYS.split()), ANYTHING, max_size=3),
    st.text(min_size=1, max_size=9),
)


@given(st.lists(APPS, min_size=1, max_size=3))
def test_any_file_gives_one_that_can_be_loaded_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, apps: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    problems: tuple[Problem, ...] = ()
    try:
        text = imported(apps, folder)
    except ConfigError as error:
        problems = error.problems
    else:
        path = folder / "workers.ini"
        path.write_text(text, newline="")
        with suppress(ConfigError):
            loading.load(path)
            return
        with pytest.raises(ConfigError) as caught:
            loading.load(path)
        # Only what the machine alone can say.
        assert {problem.key for problem in caught.value.problems} <= {"directory", "user"}
    assert all("\n" not in str(problem) for problem in problems)
