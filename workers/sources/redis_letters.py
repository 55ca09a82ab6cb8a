"""A dead letter as `mq:TOPIC:dead` holds it: a JSON object that any program can read."""

from __future__ import annotations

import base64
import json
import time

from workers.sources.desk import Letter
from workers.sources.source import Burial


def encode(burial: Burial, **more: str) -> bytes:
    """Build the JSON of one letter. Its body is text, or base64 where it is no UTF-8."""
    delivery = burial.delivery
    fields: dict[str, object] = {
        "number": time.time_ns(),
        "queue": burial.queue,
        "topic": delivery.topic,
        "id": burial.id,
        "error": burial.error,
        "traceback": burial.traceback,
        "attempts": delivery.attempts,
        "failures": delivery.failures,
        "crashes": delivery.crashes,
        "origin": burial.origin,
        "at": time.time(),
        **more,
    }
    try:
        fields["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        fields["body_base64"] = base64.b64encode(delivery.body).decode()
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")


def decode(raw: bytes, queue: str) -> Letter | None:
    """Read one letter; None for what somebody else has put there."""
    try:
        fields = json.loads(raw)
        coded = fields.get("body_base64")
        return Letter(
            number=int(fields["number"]),
            queue=queue,
            topic=str(fields["topic"]),
            id=str(fields["id"]),
            body=str(fields["body"]).encode() if coded is None else base64.b64decode(coded),
            error=str(fields["error"]),
            traceback=str(fields["traceback"]),
            attempts=int(fields["attempts"]),
            failures=int(fields["failures"]),
            crashes=int(fields["crashes"]),
            origin=str(fields["origin"]),
            at=float(fields["at"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def group_of(raw: bytes) -> str:
    """Give the consumer group that gave a message of a stream up; of a readable letter."""
    return str(json.loads(raw).get("group", ""))
