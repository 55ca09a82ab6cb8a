"""What became of the processes of a job, read from the transitions that the master tells."""

from __future__ import annotations

from tests.helpers.driver import Supervisor


def most_away(supervisor: Supervisor, job: str) -> int:
    """Count how many processes of a job were away at once, after all of them had been there."""
    here: set[str] = set()
    everybody = {row["name"] for row in supervisor.status()["processes"] if row["job"] == job}
    most, begun = 0, False
    for event in supervisor.call("events", names=[job]):
        (here.add if event["to"] == "RUNNING" else here.discard)(event["name"])
        begun = begun or here == everybody
        most = max(most, len(everybody - here)) if begun else 0
    assert begun
    return most
