"""The name of an instance: the same for every master of a state_dir, never an empty one."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import remains


def test_every_master_of_a_folder_has_the_same_name(tmp_path: Path) -> None:
    name = remains.instance(tmp_path)
    assert remains.instance(tmp_path) == name
    assert (tmp_path / "instance").read_text() == f"{name}\n"


@pytest.mark.parametrize("torn", [b"", b"\n", b"12ab", b"\xff\xfe", b"0123456789abcdef0"])
def test_a_torn_name_is_replaced(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "instance").write_bytes(torn)
    name = remains.instance(tmp_path)
    assert len(bytes.fromhex(name)) == 8
    assert remains.instance(tmp_path) == name
