"""A Procfile to a draft: `name: command for a shell`, one a line.

Source: devcenter.heroku.com/articles/procfile; foreman(1), which gives each line PORT = 5000, 5100
and so on, stops what is left when one ends, and reads `.env` beside the file.
"""

from __future__ import annotations

import re
from typing import Final

from supervisor.errors import ConfigError, Problem
from supervisor.importers.commands import of_shell
from supervisor.importers.draft import Draft, Names, Section
from supervisor.importers.supervisord_text import File

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9_-]+)\s*:\s*(?P<command>.+)")
_FIRST_PORT: Final = 5000
_PORTS_APART: Final = 100
_AT_DEPLOY: Final = "release"
"""The line that Heroku runs once before a deploy."""


def translate(main: File, *, has_env: bool) -> Draft:
    """Read a Procfile; `has_env`: a `.env` lies beside it. Raises: ConfigError, all faults."""
    draft = Draft()
    top = draft.section()
    top.note(f"Imported from {main.shown}, a Procfile.")
    top.note("A line that needs a shell is run by `sh -c`; every other one as it is, without.")
    defaults = draft.section("daemon")
    defaults.key("directory", main.folder)
    if has_env:
        defaults.key("env_file", f"{main.folder}/.env")
    names = Names()
    problems: list[Problem] = []
    for number, line in enumerate(main.text.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            problems.append(_problem(main, number, "not `name: command`"))
            continue
        job = draft.section(f"daemon:{names.take(found['name'])}")
        try:
            _job(job, found["name"], found["command"], len(draft.sections) - 3)
        except ValueError as fault:
            problems.append(_problem(main, number, f"the command of {found['name']}: {fault}"))
    if len(draft.sections) == 2:
        problems.append(_problem(main, 0, "no `name: command` in it"))
    if problems:
        raise ConfigError(*problems)
    return draft


def _job(job: Section, name: str, line: str, position: int) -> None:
    if job.name != f"daemon:{name}":
        job.note(f"was {name}")
    job.key("type", "program")
    job.key("command", of_shell(line))
    if name == _AT_DEPLOY:
        job.note("Heroku runs it once before a deploy, and so does `supervisor scale release=1`")
        job.key("processes", 0)
        job.key("restart", "never")
    elif name == "web" or re.search(r"\$\{?PORT\b", line):
        job.note("the PORT that foreman gives; another process of this job would want another one")
        job.environment({"PORT": str(_FIRST_PORT + _PORTS_APART * position)})


def _problem(main: File, line: int, message: str) -> Problem:
    return Problem(main.shown, line, "", "", message)
