"""Where Python may not write bytecode beside the sources, children still need not compile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import bytecode


@pytest.fixture
def forbidden() -> Iterator[None]:
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    yield
    sys.dont_write_bytecode = before
    assert sys.pycache_prefix is None


@pytest.mark.usefixtures("forbidden")
def test_what_is_compiled_meanwhile_lands_in_the_state_folder(tmp_path: Path) -> None:
    with bytecode.kept_in(tmp_path):
        assert not sys.dont_write_bytecode
        assert sys.pycache_prefix == str(tmp_path / "bytecode")
    assert sys.dont_write_bytecode


@pytest.mark.usefixtures("forbidden")
def test_a_child_looks_there_only_until_it_is_ready(tmp_path: Path) -> None:
    bytecode.look_in(tmp_path)
    assert sys.pycache_prefix == str(tmp_path / "bytecode")
    bytecode.look_beside_sources(tmp_path)
    assert sys.pycache_prefix is None


def test_where_python_keeps_its_own_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with bytecode.kept_in(tmp_path):
        assert sys.pycache_prefix is None
    bytecode.look_in(tmp_path)
    assert sys.pycache_prefix is None
