"""The words of the command line: which file is meant, what is refused, which exit code comes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from supervisor import cli, console, entry, launch, workers_commands
from supervisor.errors import ServiceUnavailable


@dataclass(frozen=True)
class Ended:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.delenv("SUPERVISOR_CONF", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["supervisor", *words])
        code = entry.main()
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return call


def configuration(folder: Path, name: str = "shop") -> Path:
    path = folder / f"{name}.ini"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"[supervisor]\nrun_dir = {folder}/run\nstate_dir = {folder}/state\n"
        "[daemon:naps]\ntype = program\ncommand = /bin/sleep 1000\n"
    )
    return path


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    ended = run()
    assert ended.code == 2
    assert "To begin:" in ended.out + ended.err


def all_commands() -> dict[str, click.Command]:
    context = click.Context(cli.cli)
    found = {name: cli.cli.get_command(context, name) for name in cli.cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


@pytest.mark.parametrize("command", sorted(all_commands()))
def test_every_command_says_how_it_is_used(run: Run, command: str) -> None:
    commands = [[command]]
    group = all_commands()[command]
    if isinstance(group, click.Group):
        commands = [[command, name] for name in group.commands]
    for words in commands:
        ended = run(*words, "--help")
        assert ended.code == 0
        assert f"  supervisor {' '.join(words)}" in ended.out, "an example"
        assert "--conf" in ended.out


def test_help_lists_every_command(run: Run) -> None:
    shown = run("--help").out
    assert all(f"  {name} " in shown for name in all_commands())


@pytest.mark.parametrize("words", [(), ("queue",), ("dead",)])
def test_no_line_of_a_list_of_commands_is_cut_short(run: Run, words: tuple[str, ...]) -> None:
    lines = run(*words, "--help").out.splitlines()
    assert not [line for line in lines if line.startswith("  ") and line.endswith("...")]


def test_a_mistyped_command_is_answered_with_the_nearest_one(run: Run) -> None:
    for word, meant in (("chek", "check"), ("publsh", "publish"), ("stat", "start")):
        ended = run(word)
        assert ended.code == 2
        assert f"no command {word!r}; did you mean {meant}?" in ended.err
    for word, meant in cli._INSTEAD.items():
        assert f"no command {word!r}; here it is `supervisor {meant}`" in run(word, "web").err
        first = meant.split()[0]
        assert first in all_commands() or first == "--help"
    assert "No such command 'xyzzy'" in run("xyzzy").err
    assert "No such option '--nonsense'" in run("--nonsense").err


@pytest.mark.parametrize(
    "words",
    [
        ["cron", "list"],
        ["upgrade"],
    ],
)
def test_what_is_still_to_come_says_so(run: Run, words: list[str]) -> None:
    ended = run(*words)
    assert ended.code == 2
    assert "is not in this release" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["status", "--no-such-option"],
        ["logs"],
        ["logs", "a", "-n", "-1"],
        ["start", "--mode", "embedded"],
        ["start", "a", "--daemonize"],
        ["stop", "--timeout", "soon"],
        ["dead", "show"],
        ["dead", "replay", "t", "--where", ""],
        ["dead", "purge", "t", "--id", ""],
        ["dead", "list", "t", "--limit", "0"],
        ["dead", "list", "t", "--limit", "99999999999999999999"],
        ["queue", "pause"],
    ],
)
def test_wrong_words_end_with_two(run: Run, words: list[str]) -> None:
    ended = run(*words)
    assert ended.code == 2
    assert ended.err


def test_no_configuration_says_where_it_was_looked_for(run: Run) -> None:
    ended = run("status")
    assert ended.code == 78
    assert "etc/workers.ini" in ended.err
    assert "--conf" in ended.err
    assert "supervisor init DIR" in ended.err


def test_the_file_is_named_before_or_behind_the_command(run: Run, tmp_path: Path) -> None:
    path = str(configuration(tmp_path))
    for words in (["-c", path, "status"], ["status", "--conf", path]):
        ended = run(*words)
        assert ended.code == 3
        assert ended.err == (
            f"supervisor: shop is not running (nobody listens at {tmp_path}/run/shop.sock); "
            f"start it: supervisor start --conf {path}\n"
        )
    other = str(configuration(tmp_path, "other"))
    assert "other is not running" in run("-c", path, "status", "-c", other).err


def test_the_file_comes_from_the_environment_or_the_usual_place(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration(tmp_path / "etc", "workers")
    ended = run("status")
    assert "workers is not running" in ended.err
    assert ended.err.endswith("start it: supervisor start\n")
    monkeypatch.setenv("SUPERVISOR_CONF", str(configuration(tmp_path, "other")))
    assert "other is not running" in run("status").err
    monkeypatch.setenv("SUPERVISOR_CONF", "")
    assert "workers is not running" in run("status").err


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--json"],
        ["status", "--check"],
        ["start", "naps"],
        ["stop", "naps"],
        ["restart"],
        ["logs", "naps"],
        ["events"],
    ],
)
def test_commands_that_need_a_master_end_with_three(
    run: Run, tmp_path: Path, words: list[str]
) -> None:
    ended = run("-c", str(configuration(tmp_path)), *words)
    assert (ended.code, ended.out) == (3, "")
    assert len(ended.err.splitlines()) == 1


def test_an_unreadable_configuration_ends_with_78(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ini"
    broken.write_text("[supervisor\n")
    for words in (["check"], ["start"]):
        ended = run("-c", str(broken), *words)
        assert ended.code == 78
        assert f"{broken}:1:" in ended.err
        assert "Traceback" not in ended.err


def test_a_folder_that_cannot_be_made_is_told_with_the_keys_that_set_it(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "run").touch()  # where the folder should be, also for root
    ended = run("-c", str(configuration(tmp_path)), "start")
    assert ended.code == 1
    assert ended.err == (
        f"supervisor: {tmp_path}/run: File exists; its user must be able to write run_dir "
        f"{tmp_path}/run and state_dir {tmp_path}/state: set them in [supervisor]\n"
    )


def test_a_daemon_that_was_late_and_is_ready_no_longer_says_all_of_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"master": {"ready": False, "state": "STOPPING"}, "processes": []}
    client = nullcontext(SimpleNamespace(status=lambda: found))
    monkeypatch.setattr(console.Invocation, "client", lambda _: client)
    monkeypatch.setattr(launch, "start_daemon", lambda _path, slow, **_more: slow() or (0, ""))
    ended = run("-c", str(configuration(tmp_path)), "start", "--daemonize")
    assert ended.code == 0
    assert ended.out == "was ready, now not ready: the supervisor is STOPPING\n"
    command = f"supervisor status --conf {tmp_path}/shop.ini"
    assert ended.err == f"not ready yet, still waiting; `{command}` tells for what\n"


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("no-such-program x", "", "no program no-such-program in PATH; "),
        ("/no/such/program", "", "no file /no/such/program; "),
        ("./program", "directory = .", "/program; make it, or correct the path"),
        ("./program", "", ""),
        ("no-such-program", "environment = PATH=/opt/bin", ""),
        ("sh -c no-such-program", "", ""),
        ("/bin/sh", "", ""),
    ],
)
def test_check_warns_of_a_program_that_is_not_there(
    run: Run, tmp_path: Path, command: str, more: str, said: str
) -> None:
    path = tmp_path / "a.ini"
    path.write_text(f"[daemon:a]\ntype = program\ncommand = {command}\n{more}\n")
    ended = run("-c", str(path), "check")
    assert ended.code == 0
    assert ("a.ini:3: warning: [daemon:a] command: no " in ended.err) == bool(said)
    assert said in ended.err


def test_control_characters_of_an_error_are_shown(run: Run) -> None:
    ended = run("-c", "\x1b[2J.ini", "status")
    assert ended.code == 78
    assert "\x1b" not in ended.err


@pytest.mark.parametrize(
    "name",
    [
        "supervisor-4.2.5.dist-info",
        "supervisor-4.3.0.egg-info",
        "supervisor-4.2.5-py3.11.egg-info",
        "Supervisor-3.4.0-py2.7.egg",
    ],
)
def test_pypis_supervisor_beside_ours_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "site" / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    for words in (["version"], ["status"], ["queue", "list"], ["status", "--help"]):
        ended = run(*words)
        assert ended.code == 78
        assert "PyPI's Supervisor" in ended.err


@pytest.mark.parametrize(
    "name",
    ["workers_supervisor-0.1.0.dist-info", "supervisor_twiddler-1.0.dist-info", "supervisor"],
)
def test_other_distributions_are_none_of_our_business(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "site" / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site"), "/does/not/exist"])
    assert run("version").code == 0


def test_version_tells_ours(run: Run) -> None:
    assert run("version").out.startswith("workers-supervisor 0.")
    assert '"version"' in run("version", "--json").out
    assert run("--version").out.startswith("workers-supervisor 0.")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    def publish(*arguments: object) -> list[str]:
        if arguments[1] == "down":
            raise ServiceUnavailable("redis://nowhere does not answer")
        calls.append(arguments)
        payloads = arguments[2]
        assert isinstance(payloads, list)
        return [f"id-{number}" for number in range(len(payloads))]

    monkeypatch.setattr(workers_commands, "load", lambda: SimpleNamespace(publish=publish))
    return calls


def test_publish_sends_json_and_prints_the_id(
    run: Run, published: list[tuple[object, ...]]
) -> None:
    ended = run("-c", "w.ini", "publish", "mails", '{"a": 1}', "--delay", "2m", "--id", "x")
    assert (ended.code, ended.out) == (0, "id-0\n")
    assert published == [(Path("w.ini"), "mails", [{"a": 1}], 120.0, "x", None)]


def test_publish_reads_a_message_a_line(
    run: Run, published: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": 1}\n\n[2]\n"three"\n'))
    assert run("-c", "w.ini", "publish", "mails").out == "id-0\nid-1\nid-2\n"
    assert published[0][2] == [{"a": 1}, [2], "three"]


@pytest.mark.parametrize(
    ("words", "lines", "message"),
    [
        (["hello"], "", "the message is not JSON"),
        (["NaN"], "", "the message is not JSON: NaN"),
        (['{"a": [-Infinity]}'], "", "the message is not JSON: -Infinity"),
        ([], "1\n1e999\n", "line 2 of the input (nothing was published) is not JSON: 1e999"),
        (["1", "--id", ""], "", "--id is empty"),
        (["{"], "", "quotes"),
        ([], '{"a": 1}\n{"a"\n', "line 2 of the input (nothing was published) is not JSON"),
        (["--id", "x"], "1\n2\n", "--id is for one message"),
        (["--delay", "later", "1"], "", "--delay"),
    ],
)
def test_publish_sends_all_or_nothing(
    run: Run,
    published: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    lines: str,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    ended = run("-c", "w.ini", "publish", "mails", *words)
    assert ended.code == 2
    assert message in ended.err
    assert published == []


def test_publish_to_a_topic_that_no_job_could_list_is_refused(
    run: Run, published: list[tuple[object, ...]]
) -> None:
    ended = run("-c", "w.ini", "publish", "a\n", "1", "--url", "sqlite:///q.db")
    assert ended.code == 2
    assert "'a\\n' is no topic name" in ended.err
    assert published == []


def test_a_queue_that_cannot_be_reached_ends_with_69(
    run: Run, published: list[tuple[object, ...]]
) -> None:
    ended = run("-c", "w.ini", "publish", "down", "1")
    assert (ended.code, ended.out) == (69, "")
    assert ended.err == "supervisor: redis://nowhere does not answer\n"


def test_an_error_of_the_system_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(entry, "_refuse_twin", fail)
    ended = run("version")
    assert (ended.code, ended.err) == (1, "supervisor: [Errno 28] No space left on device\n")


def test_an_interrupt_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_refuse_twin", interrupt)
    ended = run("version")
    assert (ended.code, ended.out, ended.err.strip()) == (130, "", "")
