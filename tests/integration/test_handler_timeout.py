"""`handler_timeout` as an operator meets it: a cause, the stacks in the log, nothing lost."""

from __future__ import annotations

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

STUCK = """
import threading
from ledger import is_open, note

def handle(message, context):
    note("began", message.data)
    while message.data == "stuck" and not is_open("gate"):
        threading.Event().wait(0.01)
    note("ended", message.data)
"""


def test_the_cause_is_told_and_the_message_comes_again(supervise: Supervise) -> None:
    jobs = section(
        "orders",
        type="queue",
        url="sqlite:///queue.db",
        topics="orders",
        handler="stuck:handle",
        handler_timeout="4s",  # for the others too, on a machine that may stand still
        backoff="100ms",
    )
    supervisor = supervise(jobs, {"stuck": STUCK, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    supervisor.cli("publish", "orders", stdin='"stuck"\n1\n2\n3\n')
    row = supervisor.wait_process("orders:0", lambda row: row["last_exit"] is not None)
    assert row["last_exit"]["cause"] == "timeout"
    assert row["last_exit"]["code"] == 1
    supervisor.wait_line("stopped with error: exit 1")
    supervisor.wait_line("RUNNING -> STOPPING: a handler has taken longer than handler_timeout")
    told = supervisor.wait_line("has taken longer than handler_timeout (4s), it is in ")
    assert "it is in handle (stuck.py:" in told["message"]
    supervisor.wait_line(lambda line: "in handle" in line["message"] and "stuck.py" in str(line))
    ledger.open("gate")
    supervisor.wait_process("orders:0", lambda row: row["done"] == 4)
    assert sorted(line[1] for line in ledger.lines() if line[0] == "ended") == [
        "1",
        "2",
        "3",
        "stuck",
    ]
