"""A paused topic: every consumer leaves it alone, until it is resumed, over restarts too."""

from __future__ import annotations

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANDLERS = """
from ledger import note

def handle(message, context):
    note("done", message.id)
"""

JOBS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders, mail",
    handler="shop:handle",
    processes=2,
)


def test_a_pause_holds_over_restarts_and_is_seen(supervise: Supervise) -> None:
    supervisor = supervise(JOBS, {"shop": HANDLERS, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    assert supervisor.cli("queue", "pause", "orders").returncode == 0
    for restart in (False, True):
        if restart:
            supervisor.kill()
            supervisor.start()
        assert supervisor.cli("publish", "orders", "1", "--id", f"o{restart}").returncode == 0
        assert supervisor.cli("publish", "mail", "1", "--id", f"m{restart}").returncode == 0
        # The later message is done: whoever did it looked at the queue, and left the former.
        ledger.wait("done", f"m{restart}")
        for name in ("orders:0", "orders:1"):
            row = supervisor.wait_process(name, lambda found: found["paused"] == ["orders"])
            assert row["ready"]
    waiting = {row["topic"]: row for row in supervisor.json("queue", "list")}
    assert (waiting["orders"]["depth"], waiting["orders"]["paused"]) == (2, True)
    assert (waiting["mail"]["depth"], waiting["mail"]["paused"]) == (0, False)
    assert "paused: orders" in supervisor.cli("status").stdout
    assert supervisor.cli("queue", "resume", "orders").returncode == 0
    ledger.wait("done", "oFalse")
    ledger.wait("done", "oTrue")
    supervisor.wait_process("orders:0", lambda found: found["paused"] == [])
