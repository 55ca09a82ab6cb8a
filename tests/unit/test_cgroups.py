"""Control groups: ours, and those of the processes, on a folder that stands for the tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor import cgroups
from supervisor.cgroups import Tree
from tests.helpers.lacks import MachineLacks


def test_each_process_has_a_group_below_that_of_its_job(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    assert tree.make("orders", 0) == tmp_path / "orders" / "0"
    assert tree.make("orders", 1) == tmp_path / "orders" / "1"
    assert tree.make("orders", 1) == tmp_path / "orders" / "1", "it may be there already"
    assert (tmp_path / "orders" / "1").is_dir()


def test_a_job_cannot_have_the_name_of_a_file_of_the_kernel(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    assert tree.make("cgroup.procs", 0) == tmp_path / "_cgroup.procs" / "0"
    assert tree.make("tasks", 0) == tmp_path / "_tasks" / "0"


def test_a_group_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "orders").touch()
    assert Tree(tmp_path, "/unit").make("orders", 0) is None


@pytest.mark.parametrize(
    ("path", "slot"),
    [
        ("/unit/orders/0", "orders:0"),
        ("/unit/orders/12/made/by/itself", "orders:12"),
        ("/unit/_cgroup.procs/3", "cgroup.procs:3"),
        ("/unit", None),
        ("/unit/orders", None),
        ("/unit/init.scope/x", None),
        ("/unitary/orders/0", None),
        ("/", None),
    ],
)
def test_a_process_is_known_by_its_group(
    tmp_path: Path, path: str, slot: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "membership", lambda pid: path)
    assert Tree(tmp_path, "/unit").slot_of(1) == slot


def test_the_groups_are_removed_with_what_programs_made_below(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "/unit")
    made = tree.make("orders", 0)
    assert made is not None
    (made / "deep" / "er").mkdir(parents=True)
    tree.make("mails", 0)
    (tmp_path / "foreign").mkdir()
    tree.remove()
    assert os.listdir(tmp_path) == ["foreign"]


def test_joining_and_killing_write_what_the_kernel_expects(tmp_path: Path) -> None:
    for name in ("cgroup.procs", "cgroup.kill"):
        (tmp_path / name).touch()
    cgroups.join(tmp_path)
    cgroups.kill(tmp_path)
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    assert (tmp_path / "cgroup.kill").read_text() == "1"
    cgroups.join(tmp_path / "gone")
    cgroups.kill(tmp_path / "gone")
    cgroups.kill(None)


def test_what_is_said_to_be_ours_lists_us() -> None:
    found = cgroups.own()
    if found is None:
        raise MachineLacks("this machine shows no control groups of version 2")
    assert str(os.getpid()) in (found / "cgroup.procs").read_text().split()


def test_a_tree_that_was_not_delegated_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "own", lambda: tmp_path)
    assert cgroups.delegated() is None
    assert os.listdir(tmp_path) == []


def test_a_tree_that_systemd_has_delegated_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "own", lambda: tmp_path)
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    tree = cgroups.delegated()
    assert tree is not None
    assert tree.top == tmp_path
