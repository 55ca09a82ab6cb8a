"""What the desks of tables have in common, whatever the database: what they refuse."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.errors import UsageError


class TableDesk:
    """The part of a Desk that would put rows in, or delete them."""

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Refuse it."""
        raise UsageError(f"{topic} is a table; insert a row instead")

    def purge(self, topic: str) -> int:
        """Refuse it."""
        raise UsageError(f"{topic} is a table, and its rows are not ours to delete")
