"""`check --show`: what the command prints around the values."""

from __future__ import annotations

import json

from tests.conftest import Supervise
from tests.helpers.sections import section


def test_check_shows_values_and_says_last_what_is_wrong(supervise: Supervise) -> None:
    jobs = section("naps", command="/bin/sleep 1000", environment="A=1\n  TOKEN=hunter2")
    shop = supervise(jobs + section("lost", target="nowhere:Lost"), start=False)
    done = shop.cli("check", "--show")
    lines = done.stdout.splitlines()
    assert done.returncode == 78
    assert lines[0] == "[supervisor]"
    assert lines[1].split() == ["KEY", "FROM", "VALUE"]
    assert any(line.split() == ["processes", "default", "1"] for line in lines)
    assert "hunter2" not in done.stdout + done.stderr
    assert "nowhere" in done.stderr
    assert lines[-1] == "2 jobs, 1 file: 1 error"
    found = json.loads(shop.cli("check", "--show", "naps", "--json").stdout)
    assert found["ok"] is False
    assert found["settings"].keys() == {"daemon:naps"}
    naps = found["settings"]["daemon:naps"]
    assert naps["environment"]["value"] == "A=1\nTOKEN=***"
    assert naps["command"]["file"] == str(shop.conf)
    assert naps["nice"] == {"value": None, "file": None, "line": None}


def test_names_are_for_show_and_must_be_known(supervise: Supervise) -> None:
    shop = supervise(section("naps", command="/bin/sleep 1000"), start=False)
    assert shop.cli("check", "naps").returncode == 2
    assert shop.cli("check", "--show", "nap").returncode == 4
    shop.configure("[daemon:naps]\ntype = nothing\n")
    done = shop.cli("check", "--show")
    assert (done.returncode, done.stdout) == (78, "1 error\n")
