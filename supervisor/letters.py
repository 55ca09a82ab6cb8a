"""Which dead letters an operator means: said on the command line, found by the workers' side.

Pure. Made by `dead_commands`; it goes through `workers_commands` as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """Dead letters that lie under a name or are of a topic, the newest first.

    `where` is a text that stands in the error or in the data, as `dead list` shows them; `limit`
    how many at most, None for all.
    """

    topic: str
    message_id: str | None = None
    where: str | None = None
    limit: int | None = None
