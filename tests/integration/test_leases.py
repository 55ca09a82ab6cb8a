"""What a process held when it ended comes back with its seat, whoever is the master by then."""

from __future__ import annotations

import pytest

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

SLOW = """
import threading
from ledger import is_open, note

def handle(message, context):
    note("began", message.id)
    while not is_open("gate"):
        threading.Event().wait(0.01)
    note("ended", message.id)
"""

JOBS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="slow:handle",
    lease="1h",
    stop_timeout="1s",
)


@pytest.mark.parametrize("how", ["a stop that has to kill", "the master's death"])
def test_a_new_master_takes_back_what_was_held_under_the_old_one(
    supervise: Supervise, how: str
) -> None:
    supervisor = supervise(JOBS, {"slow": SLOW, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    assert supervisor.cli("publish", "orders", "{}", "--id", "one").returncode == 0
    ledger.wait("began", "one")
    if how == "the master's death":
        supervisor.kill()
    else:
        assert supervisor.cli("stop").returncode == 1
        supervisor.wait_exit()
    supervisor.write("gate", "open")
    supervisor.start()
    # Its lease has an hour to go.
    ledger.wait("ended", "one")
