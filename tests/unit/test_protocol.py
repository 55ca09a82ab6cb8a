"""The words on the control socket: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import protocol
from supervisor.errors import (
    ConfigError,
    ControlError,
    ExitCode,
    NoSuchJob,
    NotRunning,
    SupervisorError,
    UsageError,
)


def test_a_request_has_a_bounded_number_of_names() -> None:
    with pytest.raises(UsageError, match="256 characters"):
        protocol.names({"names": ["[" * 257]})
    for many in (["x"] * 4097, ["x*"] * 17):
        with pytest.raises(UsageError, match="4096 names and 16 patterns at most"):
            protocol.names({"names": many})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"[]",
        b"null",
        b'"status"',
        b"{}",
        b'{"verb": 1}',
        b'{"verb": NaN}',
        b'{"verb": "status"',
        b'{"verb": "\xff"}',
        b"[" * 60_000,
        b'{"verb":' * 8_000,
        b"1" * 60_000,
    ],
)
def test_what_is_no_request_is_refused_in_one_short_line(line: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        protocol.decode_request(line)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_a_refusal(line: bytes) -> None:
    try:
        verb, _ = protocol.decode_request(line)
    except UsageError:
        return
    assert isinstance(json.loads(line)["verb"], str)
    assert isinstance(verb, str)


@given(st.binary(max_size=300))
def test_a_random_reply_raises_nothing_but_our_errors(line: bytes) -> None:
    try:
        protocol.decode_reply(line)
    except SupervisorError:
        return
    assert json.loads(line)["ok"] is True


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (ExitCode.NO_SUCH_JOB, NoSuchJob, 4),
        (ExitCode.NOT_RUNNING, NotRunning, 3),
        (ExitCode.USAGE, UsageError, 2),
        (ExitCode.CONFIG, ControlError, 78),
        (ExitCode.OK, ControlError, 1),
        (12345, ControlError, 1),
    ],
)
def test_a_refusal_becomes_the_error_with_its_exit_code(
    code: int, kind: type[SupervisorError], exit_code: int
) -> None:
    with pytest.raises(kind, match="because") as caught:
        protocol.decode_reply(protocol.encode(protocol.refusal(code, "because")))
    assert caught.value.code == exit_code


def test_a_result_comes_back_as_it_was_sent() -> None:
    result = {"a": [1, None, "ä\n"]}
    line = protocol.encode(protocol.ok(result))
    assert line.count(b"\n") == 1
    assert protocol.decode_reply(line) == result


def test_json_has_no_infinity() -> None:
    with pytest.raises(ValueError, match="JSON"):
        protocol.encode({"uptime_s": float("inf")})


def test_unknown_keys_of_a_newer_client_are_ignored() -> None:
    verb, request = protocol.decode_request(b'{"verb": "stop", "names": ["a"], "future": {}}')
    assert verb == "stop"
    assert protocol.names(request) == ("a",)


def test_the_parts_of_a_request_are_checked() -> None:
    assert protocol.names({}) == ()
    assert protocol.seconds({"timeout": 2}, "timeout") == 2.0
    assert protocol.seconds({}, "timeout") is None
    assert protocol.count({}, "n", 10) == 10
    for wrong in ("a", [1], {"a": 1}, None):
        with pytest.raises(UsageError):
            protocol.names({"names": wrong})
    for wrong in (-1, "1", True, float("inf"), 1e300):
        with pytest.raises(UsageError):
            protocol.seconds({"timeout": wrong}, "timeout")
    for wrong in (-1, "1", True, 1.5, 1 << 40):
        with pytest.raises(UsageError):
            protocol.count({"n": wrong}, "n", 0)


def test_a_path_too_long_for_a_socket_is_a_configuration_error_that_names_run_dir() -> None:
    assert protocol.socket_path(Path("/run/shop"), "shop") == Path("/run/shop/shop.sock")
    protocol.socket_path(Path("/" + "d" * 99), "a")
    with pytest.raises(ConfigError, match="run_dir"):
        protocol.socket_path(Path("/" + "d" * 100), "a")
