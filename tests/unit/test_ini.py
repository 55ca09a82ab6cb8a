"""The grammar of the INI files: lines kept, nothing guessed, every fault noted."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import ini
from supervisor.errors import ConfigError


def read(folder: Path, text: str | bytes) -> ini.Document:
    path = folder / "w.ini"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return ini.read(path)


def faults(document: ini.Document) -> list[str]:
    return [f"{problem.line}: {problem.message}" for problem in document.problems]


def test_every_key_keeps_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "# head\n\n[a]\nx = 1\n; note\ny=2\n[b]\nx = 3\n")
    lines = {
        (s.name, e.key): e.line for s in document.sections.values() for e in s.entries.values()
    }
    assert lines == {("a", "x"): 4, ("a", "y"): 6, ("b", "x"): 8}
    assert not document.problems


def test_comments_are_whole_lines_only(tmp_path: Path) -> None:
    document = read(tmp_path, "[a]\ncommand = echo # ; not a comment\n")
    assert document.sections["a"].entries["command"].lines == ["echo # ; not a comment"]


def test_indented_lines_continue_a_value_over_comments_and_blank_lines(tmp_path: Path) -> None:
    document = read(tmp_path, "[a]\nx = 1\n  2\n\n  # no\n\t3\ny =\n  4\n")
    entries = document.sections["a"].entries
    assert entries["x"].lines == ["1", "2", "3"]
    assert entries["y"].lines == ["4"]


def test_percent_and_equals_are_plain_in_values(tmp_path: Path) -> None:
    document = read(tmp_path, "[a]\nx = 100% = all\n")
    assert document.sections["a"].entries["x"].lines == ["100% = all"]


def test_byte_order_mark_and_windows_line_ends_are_stepped_over(tmp_path: Path) -> None:
    document = read(tmp_path, b"\xef\xbb\xbf[a]\r\nx = 1\r\n")
    assert document.sections["a"].entries["x"].lines == ["1"]
    assert not document.problems


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1\n", "1: x stands before the first [section]"),
        ("[a\nx = 1\n", "1: a section without its closing bracket; write [name]"),
        ("[a] # b\n", "1: text after [a]; comments begin a line"),
        ("[ ]\n", "1: a section without a name"),
        ("[a]\nhello\n", "2: neither [section] nor key = value"),
        ("[a]\n= 1\n", "2: neither [section] nor key = value"),
        ("[a]\n  x = 1\n", "2: an indented line continues a value, but none is above it"),
        ("[a]\nx = \x1b[0m\n", "2: a control character in this line; remove it"),
        ("[a]\nx = a\rb\n", "2: a control character in this line; remove it"),
    ],
)
def test_fault_is_named_with_its_line(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(read(tmp_path, text)) == [fault]


def test_key_given_twice_names_both_lines(tmp_path: Path) -> None:
    document = read(tmp_path, "[a]\nx = 1\nx = 2\n")
    assert faults(document) == [f"3: given twice, first at {tmp_path}/w.ini:2; remove one"]


def test_section_given_twice_names_both_places_over_files(tmp_path: Path) -> None:
    (tmp_path / "more.ini").write_text("\n[a]\ny = 1\n")
    document = read(tmp_path, "[include]\nfiles = more.ini\n[a]\nx = 1\n")
    (problem,) = document.problems
    assert str(problem) == (
        f"{tmp_path}/more.ini:2: [a]: given twice, first at {tmp_path}/w.ini:3; make them one"
    )


# Includes


def test_include_is_relative_to_the_file_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc/conf.d/deep").mkdir(parents=True)
    (tmp_path / "etc/w.ini").write_text("[include]\nfiles = conf.d/*.ini\n")
    (tmp_path / "etc/conf.d/b.ini").write_text("[b]\n")
    (tmp_path / "etc/conf.d/a.ini").write_text("[a]\n[include]\nfiles = deep/c.ini\n")
    (tmp_path / "etc/conf.d/deep/c.ini").write_text("[c]\n")
    document = ini.read(Path("etc/w.ini"))
    shown = {section.name: section.source.shown for section in document.sections.values()}
    assert shown == {
        "a": "etc/conf.d/a.ini",
        "b": "etc/conf.d/b.ini",
        "c": "etc/conf.d/deep/c.ini",
    }
    assert not document.problems


def test_pattern_without_a_match_is_fine_but_a_missing_file_is_not(tmp_path: Path) -> None:
    document = read(tmp_path, "[include]\nfiles = conf.d/*.ini, gone.ini\n")
    assert faults(document) == [f"2: {tmp_path}/gone.ini: no such file"]


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "b.ini").write_text("[b]\n[include]\nfiles = w.ini\n  *.ini\n")
    document = read(tmp_path, "[a]\n[include]\nfiles = b.ini\n")
    assert sorted(document.sections) == ["a", "b"]
    assert not document.problems


def test_wanted_section_in_the_first_file_spares_the_includes(tmp_path: Path) -> None:
    path = tmp_path / "w.ini"
    path.write_text("[supervisor]\n[include]\nfiles = gone.ini\n")
    assert not ini.read(path, wanted="supervisor").problems
    assert ini.read(path, wanted="other").problems


# Files that are none


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.ini: no such file$"):
        ini.read(tmp_path / "gone.ini")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; a file is expected$"):
        ini.read(tmp_path)


def test_device_is_refused_as_it_could_block() -> None:
    with pytest.raises(ConfigError, match=r"/dev/null: is not a regular file$"):
        ini.read(Path("/dev/null"))


def test_a_file_too_large_to_be_a_configuration_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "w.ini").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"w\.ini: is larger than 16 MB$"):
        ini.read(tmp_path / "w.ini")


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"w\.ini:2: is not UTF-8"):
        read(tmp_path, b"[a]\nx = \xff\n")


# Variables


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("${HOST}:${PORT:-6379}", "db:6379"),
        ("${EMPTY:-x}${EMPTY}", "x"),
        ("${GONE:-${HOST}}", "db"),
        ("${GONE:-}", ""),
        ("$$HOME $${HOST}", "$HOME ${HOST}"),
        ("${DOLLAR}", "$HOST${HOST}"),
        ("{}$${}", "{}${}"),
        ("100%", "100%"),
    ],
)
def test_variable(text: str, value: str) -> None:
    environ = {"HOST": "db", "EMPTY": "", "DOLLAR": "$HOST${HOST}"}
    assert ini.expand(text, Path("/etc"), environ).reveal() == value


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("${GONE}", "not set in the environment"),
        ("$HOME", "a \\$ alone"),
        ("cost: 5$", "a \\$ alone"),
        ("${HOST", "closing brace"),
        ("${}", "a variable is written"),
        ("${a-b}", "a variable is written"),
        ("${file:}", "a file is written"),
        ("${file:${file:x}}", "a file is written"),
        ("${A:-" * 20 + "}" * 20, "nested more than"),
    ],
)
def test_wrong_variable(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        ini.expand(text, Path("/etc"), {"HOST": "db"})


def test_secret_file_is_relative_to_its_file_and_read_on_demand(tmp_path: Path) -> None:
    secret = ini.expand("redis://:${file:${DIR}/pw}@h", tmp_path, {"DIR": "run"})
    assert secret.shown == "redis://:***@h"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pw").write_text("hush\n")
    assert secret.reveal() == "redis://:hush@h"


def test_a_secret_file_that_would_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "latin").write_bytes(b"\xff")
    faults = {
        "fifo": "fifo is not a regular file",
        "/dev/zero": "/dev/zero is not a regular file",
        ".": "is a folder; a file is expected",
        "large": "large is larger than 1 MB",
        "latin": "latin is not UTF-8 text",
    }
    for name, fault in faults.items():
        with pytest.raises(ValueError, match=f"{fault}$"):
            ini.expand(f"${{file:{name}}}", tmp_path).reveal()


def test_many_variables_take_no_longer_each_than_few(tmp_path: Path) -> None:
    secret = ini.expand("${A:-b}$$" * 200_000, tmp_path, {})
    assert secret.reveal() == "b$" * 200_000


@given(st.text(alphabet="${}:-file AB\n$", max_size=60))
def test_any_text_expands_or_raises_value_error(text: str) -> None:
    with suppress(ValueError):
        ini.expand(text, Path("/etc"), {"A": "$", "B": ""})
