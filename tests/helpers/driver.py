"""A supervisor as an operator has it: a configuration, a process, its log and its control socket.

Black box: nothing of the product is imported but the shape of /proc. Made by the fixture
`supervise`; whatever it started is ended by pid in the end, and nothing may be left.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from supervisor import kernel
from tests.helpers.eventually import PATIENCE_S, eventually

REPOSITORY = Path(__file__).resolve().parents[2]

Line = dict[str, Any]
T = TypeVar("T")


class Supervisor:
    """One configuration and the supervisors that were started with it, one after the other."""

    def __init__(
        self,
        jobs: str,
        modules: Mapping[str, str] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Write the configuration.

        `jobs`: the sections of the INI but [supervisor]; `modules`: source by module name, put
        beside the INI, where handlers are found; `settings`: keys of [supervisor]; `environment`:
        variables of the supervisor, beside our own.
        """
        # Not pytest's tmp_path: the path of a unix socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="sv-"))
        self.conf = self.folder / "test.ini"
        self.log_path = self.folder / "stdout"
        self.errors_path = self.folder / "stderr"
        self.run_dir = self.folder / "run"
        self.state_dir = self.folder / "state"
        self.master: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        self._asked: list[socket.socket] = []
        self._strangers = set(kernel.children(os.getpid()))
        self._settings = dict(settings or {})
        self._environment = {**os.environ, **(environment or {})}
        for name, source in (modules or {}).items():
            self.write(f"{name}.py", source)
        self.configure(jobs)

    # --- files ---------------------------------------------------------------------------------

    def configure(self, jobs: str, **settings: str) -> None:
        """Write the configuration anew."""
        self._settings |= settings
        keys = {
            "name": "test",
            "run_dir": str(self.run_dir),
            "state_dir": str(self.state_dir),
            "log_format": "json",
            **self._settings,
        }
        head = "\n".join(f"{key} = {value}" for key, value in keys.items())
        self.write("test.ini", f"[supervisor]\n{head}\n\n{textwrap.dedent(jobs)}")

    def write(self, name: str, text: str) -> Path:
        """Write a file beside the configuration, whole at once."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(textwrap.dedent(text))
        return fresh.rename(path)

    def read(self, name: str) -> str:
        """Read a file beside the configuration; empty while there is none."""
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return ""

    # --- the process ---------------------------------------------------------------------------

    def start(
        self,
        *arguments: str,
        wait: bool = True,
        stdout: int | None = None,
        within: Sequence[str] = (),
    ) -> Supervisor:
        """Start the supervisor in the foreground; `wait` for all jobs to be ready.

        `stdout` is a descriptor instead of the file that `log_lines` reads; `within` a command
        that runs the words after it.
        """
        program = [sys.executable, "-m", "supervisor"]
        with self.log_path.open("ab") as out, self.errors_path.open("ab") as err:
            self.master = subprocess.Popen(
                [*within, *program, "start", "-c", str(self.conf), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
                cwd=self.folder,
                env=self._environment,
                start_new_session=True,
            )
        self._started.append(self.master)
        if wait:
            self.wait_ready()
        return self

    @property
    def pid(self) -> int:
        """Give the pid of the master."""
        assert self.master is not None, "not started"
        return self.master.pid

    def send(self, number: int) -> None:
        """Send a signal to the master, unless it is gone; its number may be another's then."""
        assert self.master is not None, "not started"
        self.master.send_signal(number)

    def kill(self) -> None:
        """End the master with SIGKILL, as the out-of-memory killer would."""
        self.send(signal.SIGKILL)
        self.wait_exit()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal that stops it, and give the master's exit code."""
        self.send(number)
        return self.wait_exit()

    def wait_exit(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the master's end and give its exit code, negative for a signal."""
        assert self.master is not None, "not started"
        try:
            return self.master.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; {self._last_words()}") from None

    def tree(self) -> tuple[int, ...]:
        """Give the pids of all living processes that came from here, orphans included.

        An orphan is a child of pytest that it did not have when this object was made, and that
        was not started by it: so only one supervisor of a test may be killed with -9.
        """
        roots = set(kernel.children(os.getpid())) - self._strangers
        return tuple(pid for root in roots for pid in (root, *_descendants(root)) if _lives(pid))

    # --- what it says --------------------------------------------------------------------------

    def log_lines(self) -> list[Line]:
        """Give the whole log, each line parsed. Every line must be JSON."""
        text = self.log_path.read_bytes() if self.log_path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def errors(self) -> str:
        """Give what the master wrote to its stderr."""
        return self.errors_path.read_text() if self.errors_path.exists() else ""

    def messages(self, job: str | None = None) -> list[str]:
        """Give the messages of the log, or those of one job."""
        return [line["message"] for line in self.log_lines() if job in (None, line["job"])]

    def wait_line(
        self, wanted: str | Callable[[Line], bool], timeout_s: float = PATIENCE_S
    ) -> Line:
        """Wait for a line of the log: one whose message holds the text, or that fits."""

        def fits(line: Line) -> bool:
            return wanted in line["message"] if isinstance(wanted, str) else wanted(line)

        return self._wait(
            lambda: next(filter(fits, self.log_lines()), None), f"no line {wanted!r}", timeout_s
        )

    # --- the command line and the socket -------------------------------------------------------

    def cli(
        self, *arguments: str, stdin: str = "", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, with our configuration; its exit code is not checked."""
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "supervisor", command, "-c", str(self.conf), *rest],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.folder,
            env=self._environment,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """Run one command with --json and give what it printed, parsed."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr}"
        return json.loads(done.stdout)

    def publish(self, topic: str, count: int) -> list[str]:
        """Publish so many messages, 0 and on; give their ids."""
        lines = "".join(f"{number}\n" for number in range(count))
        ids = self.cli("publish", topic, stdin=lines).stdout.split()
        assert len(set(ids)) == count, "publish gives the id of each message"
        return ids

    def left(self) -> tuple[int, int]:
        """Give how many messages of all queues are not done, and how many are dead."""
        rows = self.json("queue", "list")
        waiting = sum(row["depth"] + row["delayed"] + row["in_flight"] for row in rows)
        return waiting, sum(row["dead"] for row in rows)

    def call(self, verb: str, **arguments: Any) -> Any:
        """Ask the control socket, which is faster than a command. Raises: OSError."""
        answer = self.answer(self._ask(verb, arguments))
        assert answer.get("ok"), answer
        return answer["result"]

    def start_call(self, verb: str, **arguments: Any) -> socket.socket:
        """Ask, and do not wait for the answer: `answer` does, with what this gives."""
        connection = self._ask(verb, arguments)
        self._asked.append(connection)
        return connection

    @staticmethod
    def answer(connection: socket.socket) -> Line:
        """Wait for the whole answer; {} when the master has gone without one."""
        with connection, connection.makefile("rb") as answers:
            found: Line = json.loads(answers.readline() or b"{}")
        return found

    def _ask(self, verb: str, arguments: dict[str, Any]) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.run_dir / "test.sock"))
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
        except OSError:
            connection.close()
            raise
        return connection

    def status(self) -> Line:
        """Give `status --json`, by the socket."""
        found: Line = self.call("status", names=[])
        return found

    def pids(self) -> dict[str, Any]:
        """Give the pid of each process by its name; None where there is none now."""
        return {row["name"]: row["pid"] for row in self.status()["processes"]}

    def process(self, name: str) -> Line:
        """Give the status of one process like `orders:0`."""
        return next(found for found in self.status()["processes"] if found["name"] == name)

    def wait_process(
        self, name: str, fits: Callable[[Line], bool], timeout_s: float = PATIENCE_S
    ) -> Line:
        """Wait until the status of one process fits, and give it."""

        def look() -> Line | None:
            found = self._answered(lambda: self.process(name))
            return found if found is not None and fits(found) else None

        return self._wait(look, f"{name} is not as wanted", timeout_s)

    def wait_state(self, name: str, state: str, timeout_s: float = PATIENCE_S) -> Line:
        """Wait until one process is in this state, and give its status."""
        return self.wait_process(name, lambda found: bool(found["state"] == state), timeout_s)

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until every required job is ready."""
        self._wait(
            lambda: self._answered(lambda: self.status()["master"]["ready"]), "not ready", timeout_s
        )

    # --- the end -------------------------------------------------------------------------------

    def close(self) -> list[str]:
        """End everything that was begun here, by pid, and remove its files.

        Gives what may not be: a process or a file in `run_dir` that a master which was not
        killed has left, a master that no TERM ends, a traceback on its stderr.
        """
        for connection in self._asked:
            connection.close()
        wrong = self._end_master()
        if not any(process.returncode < 0 for process in self._started):
            wrong += [f"process {pid}: {kernel.title_of(pid)}" for pid in self.tree()]
            wrong += [f"file {path}" for path in self.run_dir.glob("*")]
        while left := self.tree():
            for pid in left:
                _end(pid)
        if "Traceback (most recent call last)" in self.errors():
            wrong.append(f"on stderr: {self.errors()[-4000:]}")
        shutil.rmtree(self.folder)
        return wrong

    def _end_master(self) -> list[str]:
        """Ask for a drain, for a fast stop, for a kill, and end whom all of that does not end."""
        wrong = []
        for patience_s in (10, 10, PATIENCE_S):
            if self.master is None or self.master.poll() is not None:
                break
            self.send(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.master.wait(patience_s)
        else:
            if self.master is not None and self.master.poll() is None:
                wrong.append(f"the master, after three TERM: {self._last_words()}")
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
        return wrong

    def _wait(self, look: Callable[[], T | None], complaint: str, timeout_s: float) -> T:
        """Wait for a fact, but not for one that a dead supervisor cannot bring about."""
        deadline = time.monotonic() + timeout_s
        while True:
            # First this, then the look: what it did before it died counts.
            dead = self.master is None or self.master.poll() is not None
            try:
                return eventually(look, 0.0 if dead else 0.25)
            except AssertionError:
                assert not dead, f"{complaint}, and it is gone: {self._last_words()}"
                assert time.monotonic() < deadline, f"{complaint}: {self._last_words()}"

    def _answered(self, ask: Callable[[], T]) -> T | None:
        """Ask a supervisor that may not listen yet, or no more."""
        try:
            return ask()
        except (OSError, StopIteration):
            return None

    def _last_words(self) -> str:
        code = self.master.poll() if self.master is not None else None
        log = self.log_path.read_text() if self.log_path.exists() else ""
        return f"exit={code}\n--- log\n{log[-4000:]}\n--- stderr\n{self.errors()[-4000:]}"


def _descendants(pid: int) -> list[int]:
    found = []
    for child in kernel.children(pid):
        found += [child, *_descendants(child)]
    return found


def _lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


def _end(pid: int) -> None:
    """Kill one process of ours and wait for its end; its parent, or we, reap it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        eventually(lambda: _gone(pid))
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _gone(pid: int) -> bool:
    facts = kernel.facts(pid)
    if facts is not None and facts.zombie and facts.parent == os.getpid():
        os.waitpid(pid, 0)
        return True
    return facts is None
