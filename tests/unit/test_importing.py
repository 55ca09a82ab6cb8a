"""`init DIR --from FILE`: what is read and written, and what the command says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import entry
from supervisor.errors import ConfigError, SupervisorError, UsageError
from supervisor.importing import import_into

PLAIN = "[program:nap]\ncommand = /bin/sleep 1000\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "supervisord.conf"
    path.write_text(PLAIN)
    path.chmod(0o644)
    return path


def test_the_file_is_new_and_its_folder_is_made(source: Path, tmp_path: Path) -> None:
    done = import_into(tmp_path / "a" / "b", source)
    assert (done.path, done.jobs, done.remarks) == (tmp_path / "a" / "b" / "workers.ini", 1, 0)
    assert "[daemon:nap]" in done.path.read_text()
    assert source.read_text() == PLAIN
    assert [path.name for path in done.path.parent.iterdir()] == ["workers.ini"]


def test_no_file_is_ever_overwritten(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "workers.ini"
    there.symlink_to("nowhere")
    with pytest.raises(SupervisorError, match="is there already and is never overwritten"):
        import_into(tmp_path, source)
    there.unlink()
    there.write_text("mine")
    with pytest.raises(SupervisorError, match="is there already and is never overwritten"):
        import_into(tmp_path, source)
    assert there.read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "mode", "result"),
    [
        ("", 0o644, 0o644),
        ("", 0o600, 0o600),
        ("", 0o640, 0o600),
        ('environment = A_TOKEN="x"\n', 0o644, 0o600),
        ('environment = A="redis://a:b@c/"\n', 0o644, 0o600),
        ("environment = A_TOKEN=%(ENV_A_TOKEN)s\n", 0o644, 0o644),
    ],
)
def test_secrets_are_for_the_owner_alone(
    source: Path, tmp_path: Path, more: str, mode: int, result: int
) -> None:
    source.write_text(PLAIN + more)
    source.chmod(mode)
    done = import_into(tmp_path, source, {})
    assert done.path.stat().st_mode & 0o777 == result & ~_umask()


def _umask() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "Umask" in x)
    return int(line.split()[1], 8)


def test_included_files_come_in_their_order(source: Path, tmp_path: Path) -> None:
    source.write_text(PLAIN + "[include]\nfiles = conf.d/*.conf none/*.conf\n")
    for name in ("b", "a"):
        path = tmp_path / "conf.d" / f"{name}.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[program:{name}]\ncommand = %(here)s/{name}\n")
    text = import_into(tmp_path, source).path.read_text()
    assert text.index("[daemon:nap]") < text.index("[daemon:a]") < text.index("[daemon:b]")
    assert f"command = {tmp_path}/conf.d/a\n" in text
    assert "not imported: none/*.conf of [include] (supervisord.conf:4): no file matches" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[program:a]\ncommand = \xff\n", ":2: is not UTF-8 text from here on"),
        (b"[program:a]\ncommand = a\0b\n", ":2: a character that no configuration holds"),
        ("[program:a]\ncommand = \ue000\n".encode(), ":2: a character that no configuration holds"),
        (b"command = a\n", ":1: no [section] above it"),
        (b"[supervisorctl]\n", ": neither a program nor [supervisord] in it"),
        (b"", ": neither a program nor [supervisord] in it"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(
    source: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    source.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        import_into(tmp_path, source)
    assert f"supervisord.conf{message}" in str(caught.value)
    assert not (tmp_path / "workers.ini").exists()


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.conf cannot be read: No such file"):
        import_into(tmp_path, tmp_path / "none.conf")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        import_into(tmp_path, tmp_path)
    (tmp_path / "endless.conf").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"endless\.conf is larger than 16 MB: no configuration"):
        import_into(tmp_path, tmp_path / "endless.conf")
    (tmp_path / "ecosystem.config.js").write_text("module.exports = {}")
    with pytest.raises(UsageError, match="is a program, which is not run here"):
        import_into(tmp_path, tmp_path / "ecosystem.config.js")


# The command

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["supervisor", *words])
        code = entry.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_the_command_ends_with_what_check_says(run: Run, source: Path, tmp_path: Path) -> None:
    source.write_text("[supervisord]\npidfile=/x\n" + PLAIN)
    code, out, err = run("init", str(tmp_path / "new"), "--from", str(source))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"wrote {tmp_path}/new/workers.ini: 1 job; 1 remark in its comments",
        "1 job, 1 file: ok",
    ]


def test_what_check_finds_is_told_and_the_file_stays(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    source.write_text("[program:a]\ncommand = %(ENV_NOT_SET_HERE)s\n")
    code, out, err = run("init", str(tmp_path), "--from", str(source))
    assert code == 78
    assert "workers.ini:" in err
    assert "${NOT_SET_HERE} is not set in the environment" in err
    assert out.startswith(f"wrote {tmp_path}/workers.ini: 1 job")
    assert (tmp_path / "workers.ini").exists()


def test_a_refusal_has_its_exit_code(run: Run, source: Path, tmp_path: Path) -> None:
    assert run("init", str(tmp_path), "--from", str(tmp_path / "none"))[0] == 2
    (tmp_path / "workers.ini").touch()
    code, out, err = run("init", str(tmp_path), "--from", str(source))
    assert (code, out) == (1, "")
    assert err == (
        f"supervisor: {tmp_path}/workers.ini is there already and is never overwritten;"
        " nothing is done\n"
    )


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("Procfile", "nap: sleep 1000\n", "sleep 1000"),
        ("Procfile.dev", "nap: sleep 1000\n", "sleep 1000"),
        ("ecosystem.json", '{"apps": [{"name": "nap", "script": "nap.py"}]}', "python3 nap.py"),
        ("dump.pm2", '[{"name": "nap", "pm_exec_path": "/nap"}]', "/nap"),
        ("anything", PLAIN, "/bin/sleep 1000"),
    ],
)
def test_the_kind_of_file_is_seen(tmp_path: Path, name: str, text: str, command: str) -> None:
    (tmp_path / name).write_text(text)
    done = import_into(tmp_path, tmp_path / name)
    assert f"[daemon:nap]\ntype = program\ncommand = {command}\n" in done.path.read_text()


def test_yaml_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "pm2.yml").touch()
    with pytest.raises(UsageError, match="is YAML, which is not read here; write it as JSON"):
        import_into(tmp_path, tmp_path / "pm2.yml")
