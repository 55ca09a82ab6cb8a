"""What the command line does with queues; loaded by `supervisor` by name, when it is called.

Works with the supervisor up or down. Every function raises SupervisorError with the exit code
that the contract gives for it, and returns what `--json` prints.
"""

from __future__ import annotations

from workers.dead_letters import dead_list, dead_purge, dead_replay, dead_show
from workers.desks import servers
from workers.publishing import publish_all as publish
from workers.queues import queue_list, queue_pause, queue_purge, queue_resume, queue_waiting

__all__ = [
    "dead_list",
    "dead_purge",
    "dead_replay",
    "dead_show",
    "publish",
    "queue_list",
    "queue_pause",
    "queue_purge",
    "queue_resume",
    "queue_waiting",
    "servers",
]
