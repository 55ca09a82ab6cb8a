"""One cell of memory for each job with a `rate_limit`, shared by all its processes.

A nameless file that children inherit: no server, and nothing on a disk. The master makes it and
never looks into it; `workers.ratelimit` says what is in it. Locks on it belong to a process, and
end with it.
"""

from __future__ import annotations

import os

from supervisor.config import Job

NONE = -1


class Meters:
    """The cells of a supervisor, by job. A job that comes back finds its own."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def of(self, job: Job) -> int:
        """Give the descriptor of the job's cell, NONE where it has no limit. Raises: OSError."""
        if job.rate_limit is None:
            return NONE
        if job.name not in self._fds:
            self._fds[job.name] = os.memfd_create("supervisor-rate", os.MFD_CLOEXEC)
        return self._fds[job.name]

    def close(self) -> None:
        """Let go of all cells; processes that have one keep it."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
