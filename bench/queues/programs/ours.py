"""Our handlers, and what publishes for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import page

_QUEUE = os.environ["BENCH_QUEUE"]


def handle(message: Any, _context: Any) -> None:  # noqa: ANN401 - as any handler
    """Handle a message."""
    page.done(message.data)


def handle_row(message: Any, _context: Any) -> None:  # noqa: ANN401 - as any handler
    """Handle a row."""
    page.done(message.data["sent"])


def publish(values: Sequence[int]) -> None:
    """Publish as many messages at once, as the command line does.

    Rows are inserted, and Kafka gets its records as its plain loops do.
    """
    if _QUEUE.startswith("postgresql:"):
        import plain_postgres

        plain_postgres.publish(values)
        return
    if _QUEUE.startswith("127.0.0.1:"):
        import plain_kafka

        plain_kafka.publish(values)
        return
    from pathlib import Path

    from workers import publishing

    publishing.publish_all(Path(), "t", values, 0.0, None, _QUEUE)


def publish_later(value: int, delay_s: float) -> None:
    """Publish one that is to wait."""
    from workers import publish

    publish("t", value, delay=delay_s, url=_QUEUE)
