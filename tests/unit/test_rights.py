"""How rights, limits and files of variables are written, and what they need of the machine."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from supervisor import envfile, identity, kernel, prerequisites, rights
from supervisor.config import Config
from supervisor.identity import Group, User
from supervisor.loading import load
from supervisor.rights import Rights

APP = User("app", 1000, 1000, "/home/app", "/bin/sh", (4, 1000))
WEB = Group("web", 33)


def test_the_groups_of_a_user_go_with_him() -> None:
    assert Rights(user=APP).gid == 1000
    assert Rights(user=APP).groups == [4, 1000]


def test_another_group_takes_the_place_of_the_users_own() -> None:
    chosen = Rights(user=APP, group=WEB)
    assert (chosen.gid, chosen.groups) == (33, [4, 33])
    alone = Rights(group=WEB)
    assert (alone.gid, alone.groups) == (33, [33])


@pytest.mark.parametrize("word", ["root", "0", " root "])
def test_users_and_groups_are_found_by_name_and_number(word: str) -> None:
    assert identity.user(word).uid == 0
    assert identity.group(word).gid == 0


@pytest.mark.parametrize("word", ["no-such-one", "4000000001", "99999999999999999999", "-1"])
def test_unknown_ones_are_told(word: str) -> None:
    with pytest.raises(ValueError, match="is no user of this machine"):
        identity.user(word)
    with pytest.raises(ValueError, match="is no group of this machine"):
        identity.group(word)


def test_processors_nice_values_masks_and_limits() -> None:
    assert rights.cpus("0, 2-4") == {0, 2, 3, 4}
    assert rights.nice("-5") == -5
    assert rights.umask("027") == 0o027
    assert rights.limit("unlimited") == resource.RLIM_INFINITY
    assert rights.limit("64MB") == 64 << 20


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-", "-1", "9999", "1 2"])
def test_what_is_no_processor(text: str) -> None:
    with pytest.raises(ValueError, match=r"no processor|empty"):
        rights.cpus(text)


@pytest.mark.parametrize("text", ["20", "-21", "x", "1.5", ""])
def test_what_is_no_nice_value(text: str) -> None:
    with pytest.raises(ValueError, match="-20 to 19"):
        rights.nice(text)


@pytest.mark.parametrize("text", ["8", "0999", "u=rwx", ""])
def test_what_is_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="in octal, as in 022"):
        rights.umask(text)


def test_a_clean_environment_keeps_what_every_program_needs() -> None:
    environ = {"PATH": "/bin", "LC_ALL": "C", "HOME": "/root", "PGPASSWORD": "x", "MAIL": "/m"}
    rights.clothe(environ, None, inherit=False)
    assert environ == {"PATH": "/bin", "LC_ALL": "C", "HOME": "/root"}


def test_a_user_gets_his_home_and_nothing_of_the_former_session() -> None:
    environ = {"PATH": "/bin", "HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "A": "1"}
    rights.clothe(environ, APP, inherit=True)
    assert environ == {
        "PATH": "/bin",
        "A": "1",
        "HOME": "/home/app",
        "USER": "app",
        "LOGNAME": "app",
        "SHELL": "/bin/sh",
    }


# A file of variables


def test_every_form_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text(
        "# a comment\n\n; another\nA=1\nexport B = two words \nC='a \"b\" \\n $X'\n"
        'D="a \\"b\\" \\\\ #"\nE=\nF=a#b=c\r\n'
    )
    assert envfile.read(path) == {
        "A": "1",
        "B": "two words",
        "C": 'a "b" \\n $X',
        "D": 'a "b" \\ #',
        "E": "",
        "F": "a#b=c",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"A=1\nhunter2\n", "2: neither KEY=VALUE"),
        (b"9A=hunter2\n", "1: neither KEY=VALUE"),
        (b"A='hunter2\n", "1: a value that begins with ' ends with one"),
        (b'A="hunter2" # why\n', '1: a value that begins with " ends with one'),
        (b"A=hunter2\nA=2\n", "2: A is given twice"),
        (b"\xff=hunter2\n", "1: is not UTF-8"),
        (b"A=hunter2\0\n", "1: a zero byte"),
        (b"#" * (1 << 20) + b"hunter2", "is larger than 1 MB"),
    ],
)
def test_a_fault_is_told_with_its_line_and_without_the_value(
    tmp_path: Path, text: bytes, words: str
) -> None:
    path = tmp_path / "env"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="env:") as refused:
        envfile.read(path)
    assert f"{path}:" in str(refused.value)
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_fifo_of_variables_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "env")
    with pytest.raises(ValueError, match="env: is not a regular file"):
        envfile.read(tmp_path / "env")


# What it needs of the machine


def configuration(folder: Path, keys: str) -> Config:
    path = folder / "a.ini"
    path.write_text(f"[daemon:w]\ntype = program\ncommand = true\n{keys}\n")
    return load(path)


def problem(folder: Path, keys: str) -> str:
    (only,) = prerequisites.problems(configuration(folder, keys))
    return str(only)


def test_a_processor_that_is_not_there(tmp_path: Path) -> None:
    assert "a.ini:4: [daemon:w] cpu_affinity: processor 8191 is not there" in problem(
        tmp_path, "cpu_affinity = 8191"
    )


def test_a_file_of_variables_that_is_not_there(tmp_path: Path) -> None:
    assert "env_file: " in problem(tmp_path, "env_file = none.env")
    (tmp_path / "some.env").touch(mode=0o600)
    assert not prerequisites.problems(configuration(tmp_path, "env_file = some.env"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to distrust")
def test_what_another_could_write_is_not_obeyed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "some.env").touch()
    (tmp_path / "some.env").chmod(0o666)
    assert "env_file: " in (said := problem(tmp_path, "env_file = some.env"))
    assert "chmod go-w" in said
    code = tmp_path / "code"
    code.mkdir()
    code.chmod(0o777)
    said = problem(tmp_path, "[supervisor]\npythonpath = code")
    assert "a.ini:5: [supervisor] pythonpath: " in said
    assert f"chmod go-w {code}" in said


def test_more_files_than_there_may_be(tmp_path: Path) -> None:
    assert "limit_nofile: more than" in problem(tmp_path, f"limit_nofile = {1 << 30}")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("user = root", "user: to run as root needs root"),
        ("group = root", "group: to run in group root needs root"),
        ("nice = -20", "nice: below"),
    ],
)
def test_what_needs_root(
    tmp_path: Path, keys: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, keys)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(kernel, "may", lambda capability: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 1 << 20))
    (only,) = prerequisites.problems(config)
    assert words in str(only)


@pytest.mark.skipif(os.geteuid() != 0, reason="about a root that has not all of root's power")
def test_a_root_without_capabilities_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, "user = nobody\nnice = -20\nlimit_core = unlimited")
    monkeypatch.setattr(kernel, "may", lambda capability: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    found = "\n".join(map(str, prerequisites.problems(config)))
    assert re.findall("needs root with ([A-Z_]+)", found) == [
        "CAP_SETUID",
        "CAP_SYS_NICE",
        "CAP_SYS_RESOURCE",
    ]


def test_ones_own_user_needs_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path, "user = nobody\nlimit_memory = 1GB")
    monkeypatch.setattr(os, "geteuid", lambda: identity.user("nobody").uid)
    monkeypatch.setattr(kernel, "may", lambda capability: False)
    assert prerequisites.problems(config) == ()


def test_a_hard_limit_is_not_raised_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, "limit_core = unlimited\nlimit_memory = 2GB")
    monkeypatch.setattr(kernel, "may", lambda capability: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 1 << 30))
    found = [str(problem) for problem in prerequisites.problems(config)]
    assert [("limit_core" in one, "limit_memory" in one) for one in found] == [
        (True, False),
        (False, True),
    ]


def test_what_many_jobs_inherit_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "a.ini"
    jobs = "".join(f"[daemon:w{n}]\ntype = program\ncommand = true\n" for n in range(3))
    path.write_text(f"[daemon]\ncpu_affinity = 8191\n{jobs}")
    assert len(prerequisites.problems(load(path))) == 1


def test_an_unknown_user_is_an_error_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"a.ini:4: \[daemon:w\] user: .*useradd"):
        configuration(tmp_path, "user = no-such-one")
