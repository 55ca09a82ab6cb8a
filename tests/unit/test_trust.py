"""What root obeys: only what nobody else could have written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import trust
from supervisor.errors import ConfigError
from supervisor.loading import load

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to distrust")

SOMEBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a file of root's in folders of root's."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    path = folder / "a.ini"
    path.write_text("[supervisor]\n")
    path.chmod(0o644)
    return path


def test_what_is_roots_alone_is_obeyed(place: Path) -> None:
    assert trust.distrust(place) == ""


def test_a_path_that_leads_nowhere_is_for_its_reader_to_tell(place: Path) -> None:
    assert trust.distrust(place.with_name("none.ini")) == ""


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: os.chown(path, SOMEBODY, -1), "a.ini belongs to"),
        (lambda path: path.chmod(0o664), "a.ini may be written by its group"),
        (lambda path: path.chmod(0o646), "a.ini may be written by everybody"),
        (lambda path: os.chown(path.parent, SOMEBODY, -1), "etc belongs to"),
        (lambda path: path.parent.chmod(0o777), "etc may be written by everybody"),
        (lambda path: path.parent.chmod(0o775), "etc may be written by its group"),
        (lambda path: os.chown(path.parent.parent, SOMEBODY, -1), "belongs to"),
    ],
)
def test_one_step_of_another_is_named_with_its_cure(
    place: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(place)
    fault = trust.distrust(place)
    assert words in fault
    assert "chown root /" in fault or "chmod go-w /" in fault


def test_a_sticky_folder_of_roots_is_fine_and_anothers_is_not(place: Path) -> None:
    place.parent.chmod(0o1777)
    assert trust.distrust(place) == ""
    os.chown(place.parent, SOMEBODY, -1)
    assert "belongs to" in trust.distrust(place)


def test_a_link_counts_with_its_owner_and_with_where_it_leads(place: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link.ini"
    link.symlink_to("../etc/a.ini")
    assert trust.distrust(link) == ""
    place.chmod(0o666)
    assert "a.ini may be written" in trust.distrust(link)
    place.chmod(0o644)
    os.lchown(link, SOMEBODY, -1)
    assert "link.ini belongs to" in trust.distrust(link)


def test_a_link_round_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert trust.distrust(tmp_path / "a") == ""


def test_who_is_not_root_distrusts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert trust.distrust(place) == ""


def test_a_configuration_of_another_is_refused_in_one_line(place: Path) -> None:
    os.chown(place, SOMEBODY, -1)
    with pytest.raises(ConfigError) as refused:
        load(place)
    (problem,) = refused.value.problems
    assert "is not root's alone" in problem.message
    assert f"chown root {place}" in problem.message


def test_an_included_file_counts_too(place: Path) -> None:
    more = place.with_name("more.ini")
    more.write_text("[daemon]\n")
    more.chmod(0o666)
    place.write_text("[include]\nfiles = more.ini\n")
    with pytest.raises(ConfigError) as refused:
        load(place)
    assert f"chmod go-w {more}" in str(refused.value)
    assert refused.value.problems[0].line == 2


@pytest.mark.parametrize("command", ["status", "stop", "check", "start", "queue list"])
def test_every_command_refuses_it(place: Path, command: str) -> None:
    place.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", *command.split(), "-c", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert f"chmod go-w {place}" in done.stderr


def test_the_files_of_a_module_are_found_without_an_import(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    for name in ("__init__", "orders"):
        (package / f"{name}.py").write_text("raise SystemExit\n")
    loose = tmp_path / "loose" / "deep.py"
    loose.parent.mkdir()
    loose.touch()
    search = [str(tmp_path)]
    assert list(trust.module_files("shop.orders", search)) == [
        package / "__init__.py",
        package / "orders.py",
    ]
    assert list(trust.module_files("loose.deep", search)) == [loose.parent, loose]
    assert list(trust.module_files("shop.none", search)) == [package / "__init__.py"]
    assert list(trust.module_files("none.at.all", search)) == []
