"""Handlers of tables for tests: a row of theirs holds a message as a queue would, in `body`.

So what is asked of queues can be asked of tables too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.helpers import shop
from workers import Context, Message, codec


def message_in(message: Message) -> Message:
    """Give the message that a row holds."""
    body = _body(message.data)
    return codec.decode(message.topic, body, fallback_id=message.id, attempt=message.attempt)


def body_in(body: bytes) -> bytes:
    """Give what was put into the row whose message this is."""
    return _body(codec.decode("t", body, fallback_id="", attempt=1).data)


def _body(row: Mapping[str, Any]) -> bytes:
    return str(row["body"]).encode("utf-8", "surrogatepass")


def handle(message: Message, context: Context) -> None:
    """Do what the message in the row says."""
    shop.handle(message_in(message), context)


class Packer(shop.Packer):
    """Handles batches of such rows."""

    def handle_batch(self, messages: list[Message], context: Context) -> object:
        """Do what the messages in the rows say."""
        return super().handle_batch([message_in(one) for one in messages], context)


class Shop(shop.Shop):
    """The same as a class."""

    def handle(self, message: Message, context: Context) -> None:
        """Handle as the function does."""
        handle(message, context)
