"""`@task` under a running supervisor: calls from outside and from within, done elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

SHOP = """
from ledger import note
from workers import task

@task("reports")
def build(report_id, left=0):
    note("built", report_id, left)
    if left:
        build.delay(report_id, left=left - 1)
"""

JOBS = section(
    "reports", type="queue", url="sqlite:///q.db", topics="reports", handler="shop:build"
)


def test_a_call_is_made_by_a_process_of_the_job(supervise: Supervise) -> None:
    supervisor = supervise(JOBS, {"shop": SHOP, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    program = "import shop; shop.build(1); shop.build.delay(7, left=2)"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=supervisor.folder,
        env={**os.environ, "SUPERVISOR_CONF": str(supervisor.conf)},
        check=True,
    )
    worker = supervisor.process("reports:0")["pid"]
    assert ledger.wait("built", "7", "0") == [worker]
    assert ledger.pids("built", "7", "1") == [worker]
    assert worker not in ledger.pids("built", "1")
    supervisor.wait_process("reports:0", lambda found: found["done"] == 3)
