"""How the fields of an entry of a stream become a message."""

from __future__ import annotations

import json

import pytest

from workers import codec
from workers.base import Message
from workers.sources.redis_stream import body_of
from workers.sources.source import Delivery, Envelope


def message(*fields: bytes) -> Message:
    delivery = Delivery(1, "t", body_of(fields), envelope=Envelope("7-1"))
    return codec.message_of(delivery)


@pytest.mark.parametrize("name", [b"body", b"data"])
def test_one_field_is_the_message_itself(name: bytes) -> None:
    assert message(name, b'{"id": "a", "data": 1}').id == "a"
    assert message(name, b'{"order_id": 7}').data == {"order_id": 7}
    assert message(name, b"no json").data == "no json"
    assert message(name, b"no json").id == "7-1"
    assert message(name, b" 1 ").raw == b" 1 "


def test_a_field_of_another_name_is_an_object() -> None:
    assert message(b"order_id", b"7").data == {"order_id": "7"}


def test_what_publish_writes_comes_back() -> None:
    body = codec.encode("t", {"a": 1}, message_id="x", key="k", headers={"h": "v"})
    for fields in ((b"body", body), (b"body", body, b"for", b"g")):
        found = message(*fields)
        assert (found.id, found.key, found.headers, found.data) == ("x", "k", {"h": "v"}, {"a": 1})
        assert found.raw == body


def test_with_an_id_the_data_are_json_if_they_can_be() -> None:
    fields = (b"id", b"a", b"data", b'{"n": 1}', b"key", b"7", b"headers", b'{"h": "v"}')
    found = message(*fields)
    assert (found.id, found.data, found.key, found.headers) == ("a", {"n": 1}, "7", {"h": "v"})
    assert message(b"id", b"a", b"data", b"{").data == "{"


@pytest.mark.parametrize(
    "fields",
    [
        (b"job", b"sync-user", b"data", b"{}"),
        (b"id", b"1", b"name", b"A"),
        (b"body", b"x", b"kind", b"y"),
    ],
)
def test_all_else_is_an_object_of_text(fields: tuple[bytes, ...]) -> None:
    names, values = fields[::2], fields[1::2]
    found = message(*fields)
    assert found.data == {n.decode(): v.decode() for n, v in zip(names, values, strict=True)}
    assert found.id == "7-1"


def test_bytes_that_are_no_text_are_replaced_in_an_object_only() -> None:
    assert message(b"n", b"\xff").data == {"n": "\N{REPLACEMENT CHARACTER}"}
    assert message(b"body", b"\xff").raw == b"\xff"
    assert json.loads(body_of((b"\xff", b"1"))) == {"\N{REPLACEMENT CHARACTER}": "1"}
