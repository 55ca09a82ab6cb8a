"""A message as the queues hold it: a JSON object `{"id", "topic", "data", …}`.

Any language may write one. What lacks `id` or `data`, or is no JSON at all, was not written by
`publish`: it is taken whole as the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from workers.base import Message

if TYPE_CHECKING:
    from workers.sources.source import Delivery, Known


_read: Final = json.JSONDecoder().raw_decode
"""The reader under `json.loads`, which takes twice as long to call it."""


def new_id() -> str:
    """Give an id that nobody else has: 128 random bits in hex."""
    return os.urandom(16).hex()


def encode(
    topic: str,
    data: object,
    *,
    message_id: str,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> bytes:
    """Build the JSON of one message.

    Raises: TypeError or ValueError when the data has no JSON form (NaN has none).
    """
    fields: dict[str, object] = {"id": message_id, "topic": topic, "data": data}
    if key is not None:
        fields["key"] = key
    if headers:
        fields["headers"] = dict(headers)
    fields["published_at"] = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def decode(topic: str, raw: bytes, *, fallback_id: str, attempt: int) -> Message:
    """Read one message; never raises, since a message that cannot be read is still data."""
    text = raw.decode("utf-8", "replace")
    try:
        fields = _loads(text)
    except (ValueError, RecursionError):
        return Message(id=fallback_id, topic=topic, data=text, attempt=attempt, raw=raw)
    if not isinstance(fields, dict) or "id" not in fields or "data" not in fields:
        return Message(id=fallback_id, topic=topic, data=fields, attempt=attempt, raw=raw)
    headers, key = fields.get("headers"), fields.get("key")
    return Message(
        str(fields["id"]),
        topic,
        fields["data"],
        None if key is None else str(key),
        headers if isinstance(headers, dict) else {},
        attempt,
        _moment(fields.get("published_at")),
        raw,
    )


def message_of(delivery: Delivery) -> Message:
    """Read the message of a delivery, as its next call gets it.

    What the body does not say, the source may know.
    """
    known = delivery.envelope
    message = decode(
        delivery.topic,
        delivery.body,
        fallback_id=str(delivery.number) if known is None else known.id,
        attempt=delivery.attempts + 1,
    )
    return completed(message, known)


def completed(message: Message, known: Known | None) -> Message:
    """Add what the source knows, and the body does not say."""
    if known is None or message.published_at is not None:
        return message
    return replace(
        message,
        key=known.key if message.key is None else message.key,
        headers=message.headers or known.headers,
        published_at=known.published_at,
    )


def _loads(text: str) -> object:
    """Do as `json.loads` does. Raises: ValueError, RecursionError."""
    try:
        value, end = _read(text)
    except ValueError:
        return json.loads(text)  # there is space before it, or it is no JSON
    return value if end == len(text) else json.loads(text)


def is_spoiled(delivery: Delivery) -> bool:
    """Tell whether a body is no text where its source has nothing else."""
    if delivery.envelope is None or not delivery.envelope.is_text:
        return False
    try:
        delivery.body.decode()
    except UnicodeDecodeError:
        return True
    return False


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
