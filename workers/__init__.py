"""What runs in the children of the supervisor, and all that a handler needs to import.

Importing it is cheap: no database, no thread, no configuration is touched.
"""

from __future__ import annotations

from workers.base import Context, Message, Reject, Retry, Skip, Unavailable, Worker
from workers.publishing import publish
from workers.tasks import task

__all__ = [
    "Context",
    "Message",
    "Reject",
    "Retry",
    "Skip",
    "Unavailable",
    "Worker",
    "publish",
    "task",
]
