"""Programs: any executable, exec'd after the fork; when they are ready and what reaches them."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

TOOL = """
import json
import os
import resource
import signal
import socket
import sys
from ledger import is_open, note, sit

def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text, os.environ["NOTIFY_SOCKET"])

def notify(name):
    sit(name)
    say(b"STATUS=warming up")
    say(b"\\xff\\xfe")
    say(b"READY=0\\nX_READY=1")
    note("said", name)
    while not is_open("gate"):
        signal.sigtimedwait([], 0.01)
    say(b"STATUS=at work\\nREADY=1\\n")
    signal.pause()

def show(name):
    names = os.listdir("/proc/self/fd")
    descriptors = {}
    for fd in names:
        try:
            descriptors[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
    print(json.dumps({
        "seen": {
            "environment": dict(os.environ),
            "arguments": sys.argv[3:],
            "folder": os.getcwd(),
            "descriptors": descriptors,
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "blocked": int(status["SigBlk"], 16),
            "leader": os.getsid(0) == os.getpid(),
        }
    }), flush=True)
    signal.pause()

def tells(name):
    note("told", os.environ["PASSWORD"])
    signal.pause()

def hears(name):
    signal.signal(signal.SIGUSR1, lambda *_: (note("heard", "usr1"), sys.exit(0)))
    signal.signal(signal.SIGTERM, lambda *_: note("heard", "term"))
    sit(name)
    while True:
        signal.pause()

globals()[sys.argv[1]](sys.argv[2])
"""

MODULES = {"ledger": SOURCE, "tool": TOOL}


def tool(word: str, *arguments: str, name: str = "tool", **keys: object) -> str:
    command = " ".join([sys.executable, "-S", "tool.py", word, f"{name}:0", *arguments])
    return section(name, command=command, **keys)


def test_with_notify_it_runs_only_after_ready(supervise: Supervise) -> None:
    jobs = tool("notify", notify="yes") + section("plain", command="sleep 1000")
    supervisor = supervise(jobs, MODULES, start=False).start(wait=False)
    ledger = Ledger(supervisor)
    ledger.wait("said")
    supervisor.wait_state("plain:0", "RUNNING")
    assert supervisor.cli("restart", "plain").returncode == 0  # a later event
    assert supervisor.process("tool:0")["state"] == "STARTING"
    assert supervisor.cli("status", "--check").returncode == 1
    ledger.open("gate")
    supervisor.wait_ready()
    assert supervisor.process("tool:0")["state"] == "RUNNING"
    assert supervisor.cli("restart", "tool").returncode == 0
    assert len(ledger.pids("sit")) == 2
    assert supervisor.stop() == 0
    assert not list(supervisor.run_dir.iterdir()), "the socket of NOTIFY_SOCKET is removed"


def test_with_notify_and_without_a_word_it_is_not_ready(supervise: Supervise) -> None:
    keys = {"notify": "yes", "max_failures": 1, "required": "no"}
    supervisor = supervise(tool("notify", ready_timeout="10m", **keys), MODULES)
    Ledger(supervisor).wait("said")
    supervisor.configure(tool("notify", ready_timeout="100ms", **keys))
    supervisor.call("reload")
    fatal = supervisor.wait_state("tool:0", "FATAL")
    assert fatal["last_exit"]["cause"] == "not-ready"
    assert len(Ledger(supervisor).pids("sit")) == 1


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("no-such-program --now", 127, "cannot run no-such-program: no such file"),
        ("./not-executable", 126, "cannot run ./not-executable: Permission denied"),
    ],
)
def test_one_that_cannot_be_run_says_so(
    supervise: Supervise, command: str, code: int, words: str
) -> None:
    jobs = section("broken", command=command, required="no", backoff="10ms", max_failures=2)
    supervisor = supervise(jobs, {}, start=False)
    supervisor.write("not-executable", "#!/bin/sh\n")
    supervisor.start()
    fatal = supervisor.wait_state("broken:0", "FATAL")
    assert fatal["last_exit"]["code"] == code
    line = supervisor.wait_line(words)
    assert (line["job"], line["stream"]) == ("broken", "stderr")
    assert not any("Traceback" in message for message in supervisor.messages())


def test_what_reaches_a_program(supervise: Supervise, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    systemd = {
        "WATCHDOG_USEC": "600000000",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "0",
        "LISTEN_PID": "1",
        "INVOCATION_ID": "abc",
        "JOURNAL_STREAM": "8:1",
    }
    with listening(tmp_path / "notify") as manager:
        environment = systemd | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "FROM_ABOVE": "kept"}
        jobs = tool(
            "show",
            "'two words'",
            '"#; kept"',
            "100%",
            "$$HOME",
            directory="sub",
            environment="\n    ADDED=${FROM_ABOVE} and more\n    SECRET=${file:secret}",
        )
        supervisor = supervise(jobs, MODULES, start=False, environment=environment)
        supervisor.write("secret", "from the file\n")
        folder = supervisor.write("sub/here", "").parent
        supervisor.write("sub/tool.py", TOOL)
        supervisor.write("sub/ledger.py", SOURCE)
        supervisor.start()
        seen = supervisor.wait_line(lambda line: "seen" in line)["seen"]
        assert supervisor.stop() == 0
        words = manager()
    assert seen["arguments"] == ["two words", "#; kept", "100%", "$HOME"]
    assert seen["folder"] == str(folder)
    assert seen["nofile"] == list(limits), "the master has raised its own, not that of its jobs"
    assert seen["blocked"] == 0
    assert seen["leader"]
    found = seen["environment"]
    assert found["ADDED"] == "kept and more"
    assert found["SECRET"] == "from the file"
    assert found["FROM_ABOVE"] == "kept"
    assert found["SUPERVISOR_PROCESS"].endswith("/tool:0")
    assert not {*systemd, "NOTIFY_SOCKET"} & set(found)
    kinds = {fd: target.partition(":")[0] for fd, target in seen["descriptors"].items()}
    assert kinds["0"] == "/dev/null"
    assert (kinds["1"], kinds["2"]) == ("pipe", "pipe")
    others = {target for fd, target in seen["descriptors"].items() if int(fd) > 2}
    assert others <= {str(supervisor.state_dir / "slots" / "tool:0")}, "only the lock of its slot"
    # The words for systemd went to systemd.
    assert "READY=1" in words
    assert "STOPPING=1" in words
    assert any(word.startswith("STATUS=") for word in words)
    assert "WATCHDOG=1" not in words, "WATCHDOG_PID names another process"


@contextmanager
def listening(path: Path) -> Iterator[Callable[[], list[str]]]:
    """Be the manager behind NOTIFY_SOCKET; gives a function that takes the words so far."""

    def take() -> list[str]:
        words: list[str] = []
        with suppress(BlockingIOError):
            while True:
                words += manager.recv(4096).decode().splitlines()
        return words

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        yield take


def test_a_notifying_program_speaks_to_us_and_not_to_systemd(
    supervise: Supervise, tmp_path: Path
) -> None:
    with listening(tmp_path / "notify") as manager:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        supervisor = supervise(
            tool("notify", notify="yes"), MODULES, start=False, environment=environment
        ).start(wait=False)
        ledger = Ledger(supervisor)
        ledger.wait("said")
        supervisor.wait_state("tool:0", "STARTING")
        words = manager()
        assert "READY=1" not in words
        assert "STATUS=warming up" not in words
        ledger.open("gate")
        supervisor.wait_ready()
        eventually(lambda: "READY=1" in manager())


def test_secrets_stay_out_of_the_master_and_of_all_that_is_shown(supervise: Supervise) -> None:
    secret = "q7-never-in-the-master-q7"
    worker = """
    from ledger import note
    def run(context):
        note("has", context.options["password"])
        context.wait(1e6)
    """
    jobs = section("worker", target="worker:run", option_password="${file:secret}")
    jobs += tool("tells", environment="\n    PASSWORD=${file:secret}")
    supervisor = supervise(jobs, MODULES | {"worker": worker}, start=False)
    supervisor.write("secret", f"{secret}\n")
    supervisor.start()
    ledger = Ledger(supervisor)
    assert ledger.wait("has", secret)
    assert ledger.wait("told", secret)
    # Held while we look, so that what we are told of its memory stays so.
    supervisor.send(signal.SIGSTOP)
    eventually(lambda: (facts := kernel.facts(supervisor.pid)) and facts.state == "T")
    found = remembers(supervisor.pid, secret.encode())
    supervisor.send(signal.SIGCONT)
    assert not found
    shown = json.dumps(supervisor.status()) + supervisor.cli("check", "--json").stdout
    shown += supervisor.log_path.read_text()
    assert secret not in shown


def remembers(pid: int, text: bytes) -> bool:
    """Look for a text in all memory that a process can write to."""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in maps:
            place, rights, *_ = line.split()
            if "w" in rights and "/memfd:" not in line:
                begin, end = (int(word, 16) for word in place.split("-"))
                memory.seek(begin)
                if text in memory.read(end - begin):
                    return True
    return False


def test_a_secret_that_is_not_there_is_told_in_one_line(supervise: Supervise) -> None:
    jobs = tool("show", environment="\n    PASSWORD=${file:nowhere}", required="no", max_failures=1)
    supervisor = supervise(jobs, MODULES)
    supervisor.wait_state("tool:0", "FATAL")
    line = supervisor.wait_line("nowhere")
    assert line["message"].startswith("cannot start tool:0: ")
    assert not any("Traceback" in message for message in supervisor.messages())


def test_its_stop_signal_is_its_own(supervise: Supervise) -> None:
    supervisor = supervise(tool("hears", stop_signal="USR1"), MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("sit")
    assert supervisor.cli("restart", "tool").returncode == 0
    ledger.wait("sit", count=2)
    # The death of the master is told by the same signal.
    supervisor.kill()
    ledger.wait("heard", "usr1", count=2)
    eventually(lambda: supervisor.tree() == ())
    assert not ledger.pids("heard", "term")


def test_a_program_killed_by_its_own_stop_signal_has_stopped_gracefully(
    supervise: Supervise,
) -> None:
    supervisor = supervise(section("plain", command="sleep 1000", stop_signal="INT"), {})
    os.kill(supervisor.process("plain:0")["pid"], signal.SIGUSR1)
    supervisor.wait_process("plain:0", lambda row: row["restarts"] == 1)
    assert supervisor.stop() == 0
    messages = supervisor.messages("plain")
    assert "daemon job plain stopped with error: signal USR1" in messages
    assert "daemon job plain stopped gracefully" in messages


def test_the_path_of_its_socket_is_short_enough_wherever_ours_is(supervise: Supervise) -> None:
    name = "a" * 63
    jobs = tool("notify", name=name, notify="yes")
    supervisor = supervise(jobs, MODULES, start=False)
    supervisor.run_dir /= "r" * (107 - len(f"{supervisor.run_dir}//test.sock"))
    supervisor.configure(jobs, run_dir=str(supervisor.run_dir))
    Ledger(supervisor).open("gate")
    supervisor.start()
    assert supervisor.stop() == 0
