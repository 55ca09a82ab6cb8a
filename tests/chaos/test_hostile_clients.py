"""The control socket under siege: a master that serves its children first, and no malformed word.

FUZZ_REQUESTS=1000000 makes a long run of the fuzzer; FUZZ_SEED repeats one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from supervisor import connection
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.hostile import hostile_clients
from tests.helpers.ledger import SOURCE as LEDGER
from tests.helpers.ledger import Ledger
from tests.helpers.sections import section

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "10000"))
BATCH = connection.FAULTS - 1
"""So many on one connection: with one more it is hung up on."""

MODULES = {
    "ledger": LEDGER,
    "work": """
        from ledger import sit

        def steady(context):
            sit(context.name)
            context.wait(1e6)
    """,
}
STEADY = section("steady", target="work:steady", backoff=0, processes=3, max_failures=1000)


def test_two_hundred_hostile_clients_keep_nobody_from_coming_back(supervise: Supervise) -> None:
    supervisor = supervise(STEADY, MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("sit", count=3)
    with hostile_clients(supervisor.run_dir / "test.sock"):
        for count in range(4, 14):
            victim = ledger.pids("sit")[-1]
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            ledger.wait("sit", count=count)
            print(f"back after {(time.monotonic() - begun) * 1000:.0f} ms")

        def operator() -> bool:
            done = supervisor.cli("status", "--check")
            assert (done.returncode, done.stdout) == (0, "ready: 3 of 3\n"), done.stderr
            return True

        # He is let in too, beside all of them; one who is too slow is let go, and comes again.
        eventually(operator)
    assert ledger.no_twins()
    assert supervisor.stop() == 0
    assert not [line for line in supervisor.log_lines() if line["level"] in ("error", "critical")]


def test_no_malformed_request_changes_anything(supervise: Supervise) -> None:
    supervisor = supervise(STEADY, MODULES)
    Ledger(supervisor).wait("sit", count=3)
    seed = int(os.environ.get("FUZZ_SEED", str(random.randrange(1 << 32))))
    print(f"FUZZ_SEED={seed}")
    fuzzer = Fuzzer(seed)
    before = state(supervisor)
    sent = 0
    while sent < REQUESTS:
        lines = [fuzzer.malformed() for _ in range(BATCH)]
        for line, answer in zip(lines, ask(supervisor, lines), strict=True):
            assert answer["ok"] is False, (seed, line, answer)
            assert answer["code"] in (2, 4), (seed, line, answer)
            assert "internal error" not in answer["error"]
            assert all(part.isprintable() for part in answer["error"].split("\n"))
        sent += len(lines)
    assert state(supervisor) == before
    assert supervisor.stop() == 0
    assert supervisor.errors() == ""
    assert not [line for line in supervisor.log_lines() if "exc_info" in line]


def ask(supervisor: Supervisor, lines: list[bytes]) -> list[dict[str, Any]]:
    """Send requests over one connection, all at once, and give the answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(supervisor.run_dir / "test.sock"))
        answers = []
        with connection.makefile("rb") as file:
            # Some at a time: who does not read is not read either.
            for start in range(0, len(lines), 20):
                part = lines[start : start + 20]
                connection.sendall(b"".join(line + b"\n" for line in part))
                answers += [json.loads(file.readline()) for _ in part]
    return answers


def state(supervisor: Supervisor) -> object:
    """Give all that a request could have changed."""
    found = supervisor.status()
    moving = {"uptime_s", "rss_bytes", "heartbeat_age_s"}
    rows = [
        {key: value for key, value in row.items() if key not in moving}
        for row in found["processes"]
    ]
    master = {key: value for key, value in found["master"].items() if key not in moving}
    return master, rows, found.get("jobs"), supervisor.call("events")


class Fuzzer:
    """Makes requests each of which is wrong in at least one way."""

    NAMED = ("status", "why", "stacks", "start", "stop", "restart", "quiet", "resume", "logs")
    VERBS = (*NAMED, "events", "signal", "scale", "reload", "shutdown")

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._ways: list[Callable[[], bytes]] = [
            self._noise,
            self._torn,
            self._no_object,
            self._no_verb,
            self._unknown_verb,
            self._wrong_names,
            self._stranger,
            self._wrong_value,
            self._deep,
            self._wrong_signal,
        ]

    def malformed(self) -> bytes:
        """Give one line, without its end."""
        return self._random.choice(self._ways)()

    def _noise(self) -> bytes:
        raw = self._random.randbytes(self._random.choice((0, 1, 7, 60, 900)))
        return b"\xff" + raw.replace(b"\n", b"")

    def _torn(self) -> bytes:
        whole = json.dumps({"verb": self._random.choice(self.VERBS), "names": ["steady"]})
        return whole[: self._random.randrange(len(whole))].encode()

    def _no_object(self) -> bytes:
        return self._random.choice(
            (b"1", b"null", b"[]", b'"stop"', b"NaN", b'["shutdown"]', b"1e999", b"\xef\xbb\xbf{}")
        )

    def _no_verb(self) -> bytes:
        verb = self._random.choice((None, 1, [], {}, True, ["stop"], {"verb": "stop"}))
        return self._encode({"verb": verb, "names": ["steady"]})

    def _unknown_verb(self) -> bytes:
        verb = self._random.choice(self.VERBS)
        change = self._random.choice(
            (str.upper, str.title, lambda v: f" {v}", lambda v: f"{v}\0", lambda v: f"_{v}",
             lambda v: f"{v}.__class__", lambda v: v[::-1], lambda v: f"\u202e{v}\x1b[31m")
        )  # fmt: skip
        return self._encode({"verb": change(verb), "names": self._maybe_names()})

    def _wrong_names(self) -> bytes:
        names = self._random.choice(
            ("steady", 0, None, {"steady": 1}, [1], [None], [["steady"]], [{}], ["x" * 257],
             ["*"] * 17, ["steady"] * 4097, [True, "steady"], 1.5)
        )  # fmt: skip
        return self._encode({"verb": self._random.choice(self.NAMED), "names": names})

    def _stranger(self) -> bytes:
        name = self._random.choice(
            ("stead", "steady:3", "steady:-1", "steady:0 ", "", "\0", "../steady", "[", "x*", "?",
             "STEADY", "\u202e", "a" * 256, "steady:0:0", "[!s]*", ":", "steady:*x")
        )  # fmt: skip
        names = [*self._maybe_names(), name]
        self._random.shuffle(names)
        return self._encode({"verb": self._random.choice(self.NAMED), "names": names})

    def _wrong_value(self) -> bytes:
        key, verbs = self._random.choice(
            (
                ("timeout", ("stop", "shutdown")),
                ("n", ("logs", "events")),
                ("follow", ("logs", "events")),
                ("dry_run", ("reload",)),
                ("counts", ("scale",)),
            )
        )
        wrong: list[object] = ["5", [], {}, "soon", -1, 1e300, [1], {"a": 1}, "true"]
        if key in ("timeout", "n"):
            wrong += [True, False]
        value = self._random.choice(wrong)
        names = ["steady"] if verbs[0] != "scale" else self._maybe_names()
        return self._encode({"verb": self._random.choice(verbs), key: value, "names": names})

    def _wrong_signal(self) -> bytes:
        wrong: list[object] = ["", "NOPE", 9, None, [], "SIG", "KILL TERM", "-9", "99999", {}, "\0"]
        return self._encode(
            {"verb": "signal", "names": ["steady"], "signal": self._random.choice(wrong)}
        )

    def _deep(self) -> bytes:
        depth = self._random.choice((500, 5000, 30000))
        opening, closing = self._random.choice((("[", "]"), ('{"a":', "}")))
        return (opening * depth + closing * self._random.choice((0, depth)))[:60000].encode()

    def _maybe_names(self) -> list[str]:
        return self._random.choice(([], ["steady"], ["steady:0"], ["s*"], ["master"]))

    def _encode(self, request: object) -> bytes:
        return json.dumps(request).encode()
