"""A Procfile: lines for a shell as commands that need none, or `sh -c`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import loading, values
from supervisor.config import Job
from supervisor.errors import ConfigError
from supervisor.importers import draft, procfile
from supervisor.importers.commands import of_shell
from supervisor.importers.supervisord_text import File


def imported(source: str, folder: Path, *, has_env: bool = False) -> str:
    found = procfile.translate(File("Procfile", str(folder), source), has_env=has_env)
    return draft.written(found, folder, {}).text


def jobs(source: str, folder: Path) -> dict[str, Job]:
    path = folder / "workers.ini"
    path.write_text(imported(source, folder))
    return {job.name: job for job in loading.load(path).jobs}


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("gunicorn shop.wsgi --workers=4", "gunicorn shop.wsgi --workers=4"),
        ("exec gunicorn shop.wsgi", "gunicorn shop.wsgi"),
        ("python -c 'print(1); x'", "python -c 'print(1); x'"),
        ('run "two words" 5%', "run 'two words' 5%"),
        ("puma -p $PORT", "sh -c 'exec puma -p $PORT'"),
        ("puma -p ${PORT} 2>&1", "sh -c 'exec puma -p ${PORT} 2>&1'"),
        ("a | b", "sh -c 'a | b'"),
        ("cd app && run", "sh -c 'cd app && run'"),
        ("A=1 run", "sh -c 'exec env A=1 run'"),
        ("A=$B run", "sh -c 'A=$B run'"),
        ("run *.txt", "sh -c 'exec run *.txt'"),
        ("sh -c 'echo $A'", "sh -c 'echo $A'"),
        ("export A=1; run", "sh -c 'export A=1; run'"),
    ],
)
def test_a_line_becomes_its_words_or_is_run_by_a_shell(line: str, command: str) -> None:
    assert of_shell(line) == command


@pytest.mark.parametrize(
    "line",
    [
        """printf '%s|' plain "two words" 'a $HOME' a\\ b "$((1 + 2))" """,
        """printf '%s|' "$GREETING" $GREETING '"' "it's" # a remark""",
        """A="x y" B=$GREETING sh -c 'printf "%s|" "$A" "$B"'""",
        """printf '%s\\n' c b a | sort | tr '\\n' '|'""",
        """cd / && pwd; false || printf done""",
        """exec printf '%s|' ~ ${GREETING} [abc]""",
        """if [ -n "$GREETING" ]; then printf yes; fi""",
    ],
)
def test_it_does_what_the_shell_does(line: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/srv", "GREETING": "good  day"}

    def said(words: tuple[str, ...]) -> str:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    assert said(values.command(of_shell(line))) == said(("sh", "-c", line))


def test_every_line_is_a_job_that_runs_in_the_folder_of_the_file(tmp_path: Path) -> None:
    found = jobs("# ours\nweb: serve -p $PORT\nWorker_2 : work '5 %'\n\nrelease: move\n", tmp_path)

    assert found["web"].command == ("sh", "-c", "exec serve -p $PORT")
    assert found["web"].environment["PORT"].reveal() == "5000"
    assert found["worker_2"].command == ("work", "5 %")
    assert {job.directory for job in found.values()} == {tmp_path}
    assert (found["release"].processes, found["release"].restart) == (0, "never")


def test_ports_are_those_of_foreman(tmp_path: Path) -> None:
    found = jobs("a: x\nb: y $PORT\nc: z ${PORT}\n", tmp_path)
    assert "PORT" not in found["a"].environment
    assert [found[name].environment["PORT"].reveal() for name in "bc"] == ["5100", "5200"]


def test_variables_of_a_file_beside_it_are_read(tmp_path: Path) -> None:
    assert f"env_file = {tmp_path}/.env" in imported("a: x\n", tmp_path, has_env=True)
    assert "env_file" not in imported("a: x\n", tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a: x\nnonsense\n", "Procfile:2: not `name: command`"),
        ("a: run 'x\n", "Procfile:1: the command of a: No closing quotation"),
        ("# nothing\n", "Procfile: no `name: command` in it"),
    ],
)
def test_what_is_no_procfile_is_refused(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(source, tmp_path)
    assert str(caught.value) == message


LINES = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=30)


@given(st.lists(LINES, max_size=4))
def test_any_file_gives_one_that_can_be_loaded_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    source = "".join(f"job{number}: {line}\n" for number, line in enumerate(lines))
    folder = tmp_path_factory.mktemp("any")
    refusal = None
    try:
        found = jobs(source, folder)
    except ConfigError as error:
        refusal = error
    if refusal is not None:
        assert all(str(problem).startswith("Procfile") for problem in refusal.problems)
        return
    told = [line for line in source.splitlines() if line.strip()]
    assert len(found) + imported(source, folder).count("# [daemon:") == len(told)
