"""The way into the background: what the terminal learns, and what the daemon lets go of."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.eventually import PATIENCE_S, eventually

PRELUDE = """
import json, os, sys
from pathlib import Path
from supervisor import daemonize
from supervisor.errors import AlreadyRunning, ConfigError, Problem

def body(daemon):
    daemon.log_to(Path("deep/er.log"))
{body}

code, message = daemonize.detached(body, lambda: None)
print(json.dumps([code, message]))
"""


def script(body: str) -> list[str]:
    text = PRELUDE.replace("{body}", "\n".join(f"    {line}" for line in body.splitlines()))
    return [sys.executable, "-c", text]


def detach(folder: Path, body: str, pass_fds: tuple[int, ...] = ()) -> tuple[int, str]:
    done = subprocess.run(
        script(body),
        cwd=folder,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
        pass_fds=pass_fds,
    )
    code, message = json.loads(done.stdout)
    return code, message


class Line:
    """Two named pipes between the test and a daemon: it says a word, and waits for one."""

    def __init__(self, folder: Path) -> None:
        for name in ("said", "heard"):
            os.mkfifo(folder / name)
        # Neither open waits for the daemon, and neither end breaks when it leaves.
        self._said, self._heard = (
            os.open(folder / name, os.O_RDWR | os.O_NONBLOCK) for name in ("said", "heard")
        )

    def hear(self) -> str:
        poll = select.poll()
        poll.register(self._said, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), "the daemon says nothing"
        return os.read(self._said, 4096).decode()

    def tell(self) -> None:
        os.write(self._heard, b"go\n")

    def close(self) -> None:
        os.close(self._said)
        os.close(self._heard)


SAY = "open('said', 'w').write(json.dumps({}))\n"
WAIT = "open('heard').readline()\n"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.close()


def test_a_daemon_that_is_ready_lets_the_terminal_go(tmp_path: Path, line: Line) -> None:
    outer, inner = os.pipe()
    facts = "[os.getpid(), os.getsid(0), os.getcwd(), os.readlink('/proc/self/fd/0')]"
    body = (
        "os.write(daemon.ready_fd, b'ready\\n')\nos.close(daemon.ready_fd)\n"
        + SAY.format(facts)
        + WAIT
        + "print('bye', flush=True)\n"
        + SAY.format("'gone'")
        + "return 0"
    )
    assert detach(tmp_path, body, pass_fds=(inner,)) == (0, "")
    os.close(inner)
    # The end of the pipe proves that the daemon, which still lives, holds nothing of its caller's.
    assert os.read(outer, 1) == b""
    os.close(outer)
    pid, session, folder, stdin = json.loads(line.hear())
    assert session != pid, "a session leader could get a terminal again"
    assert session != os.getsid(0)
    assert (folder, stdin) == (str(tmp_path), "/dev/null")
    line.tell()
    assert json.loads(line.hear()) == "gone"
    log = tmp_path / "deep/er.log"
    assert log.read_text() == "bye\n"
    assert [path.stat().st_mode & 0o777 for path in (log.parent, log)] == [0o700, 0o600]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise AlreadyRunning('pid 7 is here')", 75, "pid 7 is here"),
        (
            "raise ConfigError(*[Problem('w.ini', n, 's', 'k', 'x' * 100) for n in range(3000)])",
            78,
            "w.ini:2999: [s] k: " + "x" * 100,
        ),
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("daemon.end(1, 'see the log'); return 1", 1, "see the log"),
        ("raise ZeroDivisionError('a bug')", 1, "ZeroDivisionError('a bug')"),
        ("os.kill(os.getpid(), 9)", 1, "killed before it was ready"),
        ("os.write(daemon.ready_fd, b'a:0 is FATAL\\0001\\n'); return 0", 1, "a:0 is FATAL"),
    ],
)
def test_a_daemon_that_fails_tells_the_terminal_why(
    tmp_path: Path, body: str, code: int, message: str
) -> None:
    ended, said = detach(tmp_path, body)
    assert ended == code
    assert message in said
    assert bool(said) == bool(message)


SECOND_FORK_FAILS = """
import errno, os
real, forks = os.fork, []
def fork():
    forks.append(1)
    if len(forks) == 2:
        raise OSError(errno.EAGAIN, "no more of them")
    return real()
os.fork = fork
"""


def test_a_terminal_hears_that_there_is_no_process_to_be_had(tmp_path: Path) -> None:
    python, option, text = script("return 0")
    done = subprocess.run(
        [python, option, SECOND_FORK_FAILS + text],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    words = "no process to run the supervisor in: no more of them"
    assert json.loads(done.stdout) == [1, words]


def test_a_bug_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    detach(tmp_path, "raise ZeroDivisionError('a bug')")
    # The terminal is told first.
    eventually(lambda: "ZeroDivisionError: a bug" in (tmp_path / "deep/er.log").read_text())


def test_the_terminal_may_leave_first(tmp_path: Path, line: Line) -> None:
    body = (
        SAY.format("'here'")
        + WAIT
        + "try:\n    os.write(daemon.ready_fd, b'ready\\n')\n"
        + "except BrokenPipeError:\n    "
        + SAY.format("'nobody waits'")
        + "return 0"
    )
    with subprocess.Popen(script(body), cwd=tmp_path) as terminal:
        assert json.loads(line.hear()) == "here"
        terminal.send_signal(signal.SIGKILL)
        terminal.wait(PATIENCE_S)
    line.tell()
    assert json.loads(line.hear()) == "nobody waits"


def test_whoever_waits_long_hears_that_once(tmp_path: Path, line: Line) -> None:
    text = script(WAIT + "return 0")[-1]
    text = text.replace("def body", "daemonize.SLOW_S = 0.01\ndef body")
    text = text.replace("lambda: None", "lambda: " + SAY.format("'not yet'").strip())
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd=tmp_path, stdout=subprocess.PIPE
    ) as terminal:
        assert json.loads(line.hear()) == "not yet"
        line.tell()
        said, _ = terminal.communicate(timeout=PATIENCE_S)
    assert json.loads(said) == [0, ""], "and it waits on"
