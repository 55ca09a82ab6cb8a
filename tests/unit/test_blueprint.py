"""What `init` writes, and what it leaves alone."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from supervisor import blueprint
from supervisor.errors import SupervisorError
from supervisor.loading import load


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/srv/shop", "shop"),
        ("/srv/My Shop!", "My-Shop"),
        ("/etc", "workers"),
        ("/", "workers"),
        ("/srv/---", "workers"),
        ("/srv/Käse", "K-se"),
        (f"/srv/{'x' * 200}", "x" * 63),
    ],
)
def test_the_name_is_that_of_the_folder_as_far_as_it_is_one(folder: str, name: str) -> None:
    assert blueprint.name_for(Path(folder)) == name


def test_what_is_written_is_a_configuration(tmp_path: Path) -> None:
    written = blueprint.write(tmp_path / "a" / "shop")
    assert written.conf == tmp_path / "a" / "shop" / "workers.ini"
    config = load(written.conf)
    assert config.name == "shop"
    assert [job.name for job in config.jobs] == ["orders", "report", "listener"]
    assert config.warnings == ()
    assert [path.name for path in written.others] == ["handlers.py", "shop.service"]


def test_nothing_is_writable_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written = blueprint.write(tmp_path / "shop")
    finally:
        os.umask(before)
    for path in (tmp_path / "shop", written.conf, *written.others):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022


@pytest.mark.parametrize("name", ["workers.ini", "handlers.py", "shop.service"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / name).symlink_to("nowhere")  # a link that leads nowhere is something, too
    with pytest.raises(SupervisorError, match=rf"{name}: there already; nothing was written"):
        blueprint.write(folder)
    assert [path.name for path in folder.iterdir()] == [name]


def test_an_attempt_that_fails_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(SupervisorError, match="nothing was written"):
        blueprint.write(file / "shop")
    with pytest.raises(SupervisorError, match="nothing was written"):
        blueprint.write(tmp_path / "new\nline")
    assert list(tmp_path.iterdir()) == [file]


def test_the_unit_starts_this_program_with_this_file(tmp_path: Path) -> None:
    folder = tmp_path / "100 % $mine"
    unit = blueprint.write(folder).others[1].read_text()
    conf = f'"{tmp_path}/100 %% $$mine/workers.ini"'
    for line, verb in (
        ("ExecStart=", "start"),
        ("ExecReload=", "reload"),
        ("ExecStopPost=-", "stop"),
    ):
        assert re.search(rf"^{line}.+ {verb} --conf {re.escape(conf)}$", unit, re.MULTILINE)
    assert "RuntimeDirectory=100-mine\nRuntimeDirectoryMode=0700\n" in unit
