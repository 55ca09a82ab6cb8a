"""What `check --show` says: every key with its value and its place, and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor import effective
from supervisor.effective import Value
from supervisor.errors import NoSuchJob
from supervisor.loading import load

FILE = """\
[supervisor]
run_dir = run
state_dir = state

[include]
files = more.ini

[daemon]
backoff = 3s

[daemon:mails]
type = queue
url = sqlite:///queue.db
topics = mail.send:2
handler.mail.send = mails:send
option.colour = ${COLOUR:-blue}
option.api_token = abcdef
environment =
    MODE=production
    DB_PASSWORD=hunter2
    DB=postgres://me:hunter2@db/x
"""

MORE = """\
[daemon:tool]
type = program
command = tool --db-password=hunter2 --token hunter2 --url http://me:hunter2@x/ --quick
processes = 0
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "more.ini").write_text(MORE)
    path = tmp_path / "shop.ini"
    path.write_text(FILE)
    return path


def values(conf: Path, section: str, *names: str) -> dict[str, Value]:
    parts = {part.section: part for part in effective.parts(load(conf), conf, names)}
    return {value.key: value for value in parts[section].values}


def test_each_value_has_its_place_or_is_a_default(conf: Path) -> None:
    mails = values(conf, "daemon:mails")
    assert mails["topics"] == Value("topics", "mail.send:2", str(conf), 14)
    assert mails["backoff"] == Value("backoff", "3s", str(conf), 9)
    assert mails["retries"] == Value("retries", "3", None, None)
    assert mails["user"].value is None
    assert mails["option.colour"].value == "blue"
    assert mails["handler.mail.send"].line == 15
    tool = values(conf, "daemon:tool")
    assert tool["command"].file == str(conf.parent / "more.ini")
    assert tool["heartbeat_timeout"].value == "0s"
    assert "topics" not in tool


def test_what_is_resolved_is_shown_resolved(conf: Path) -> None:
    supervisor = values(conf, "supervisor")
    assert supervisor["name"] == Value("name", "shop", None, None)
    assert supervisor["run_dir"].value == str(conf.parent / "run")
    assert supervisor["stop_timeout"].value == "35s"
    assert values(conf, "worker")["mode"].value == "standalone"
    url = f"sqlite:///{conf.parent}/queue.db"
    assert values(conf, "daemon:mails")["url"].value == url


def test_no_secret_is_shown(conf: Path) -> None:
    shown = str(effective.parts(load(conf), conf, ()))
    assert "hunter2" not in shown
    assert "abcdef" not in shown
    environment = values(conf, "daemon:mails")["environment"].value
    assert environment == "MODE=production\nDB_PASSWORD=***\nDB=postgres://me:***@db/x"
    command = values(conf, "daemon:tool")["command"].value
    assert command == "tool --db-password=*** --token *** --url http://me:***@x/ --quick"


def test_a_name_chooses_jobs_also_those_without_a_process(conf: Path) -> None:
    config = load(conf)
    for name in ("tool", "to*"):
        (part,) = effective.parts(config, conf, (name,))
        assert part.section == "daemon:tool"
    assert [part.section for part in effective.parts(config, conf, ("mails:0",))] == [
        "daemon:mails"
    ]
    with pytest.raises(NoSuchJob, match="did you mean tool"):
        effective.parts(config, conf, ("tol",))
