"""The kinds of values: what is read, what is refused, and that nothing secret is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import values
from supervisor.secret import FileReference, Given, Secret, is_secret_name, mask, plain
from supervisor.values import Preload, Topic


def lines(*texts: str, folder: Path = Path("/etc")) -> Given:
    return Given(tuple(map(plain, texts)), folder)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("7", 7),
        ("1.5", 1.5),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "1e3", "5x", "1 2", "9" * 400, "999d", "\u0665s", "1h30m", "s"]
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        values.duration(text)


@given(st.integers(0, 366 * 86400 * 1000))
def test_duration_comes_back_as_it_was_shown(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert math.isclose(values.duration(values.show_duration(seconds)), seconds, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.5, "500ms"), (1.5, "1.5s"), (90, "90s"), (7200, "2h")]
)
def test_duration_is_shown_in_the_largest_fitting_unit(seconds: float, text: str) -> None:
    assert values.show_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "count"), [("64KB", 65536), ("512MB", 1 << 29), ("2gb", 2 << 30), ("10", 10), ("0", 0)]
)
def test_size(text: str, count: int) -> None:
    assert values.size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1.5MB", "5X", "9999999TB", "MB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|too large"):
        values.size(text)


@given(st.integers(0, 1 << 50))
def test_size_comes_back_as_it_was_shown(count: int) -> None:
    assert values.size(values.show_size(count)) == count


@pytest.mark.parametrize("text", ["true", "YES", "on", "1"])
def test_true(text: str) -> None:
    assert values.boolean(text) is True


@pytest.mark.parametrize("text", ["false", "No", "off", "0"])
def test_false(text: str) -> None:
    assert values.boolean(text) is False


def test_list_takes_commas_and_lines() -> None:
    assert values.items("a, b,\n c\n\n") == ("a", "b", "c")
    assert values.items("") == ()


def test_a_long_list_takes_no_longer_for_each_word_than_a_short_one() -> None:
    many = 300_000  # with time that grows by the square these would be ten minutes
    assert len(values.items(",".join(map(str, range(many))))) == many
    with pytest.raises(ValueError, match=r'"7" is in the list twice; remove one'):
        values.items("7,8,7")


def test_topics_with_weights() -> None:
    assert values.topics("payment.retry:5, system.cleanup") == (
        Topic("payment.retry", 5),
        Topic("system.cleanup", 1),
    )


@pytest.mark.parametrize("text", ["", "a:0", "a:x", "a, a:2", "a b", "a:1:2", "mq/x"])
def test_no_topics(text: str) -> None:
    with pytest.raises(ValueError, match=r"topic|weight|empty"):
        values.topics(text)


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGINT", 2), ("hup", 1), ("9", 9)])
def test_signal(text: str, number: int) -> None:
    assert values.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "999", "NOPE", "-1"])
def test_no_signal(text: str) -> None:
    with pytest.raises(ValueError, match="is no signal"):
        values.signal_number(text)


@pytest.mark.parametrize(("text", "rate"), [("100/s", 100), ("30/m", 0.5), ("36 / h", 0.01)])
def test_rate(text: str, rate: float) -> None:
    assert values.rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["shop.orders:handle", "a:B.c", "_x:_y"])
def test_attribute(text: str) -> None:
    assert values.attribute(text) == text


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":b", "a:b:c", "a-b:c", "a:class", "a.:b", "a/b:c"]
)
def test_no_attribute(text: str) -> None:
    with pytest.raises(ValueError, match="is not module:attr"):
        values.attribute(text)


def test_dotted_name_is_told_where_its_colon_belongs() -> None:
    with pytest.raises(ValueError, match=r"write it as in shop.orders:handle$"):
        values.attribute("shop.orders.handle")


def test_command_is_split_as_a_shell_would() -> None:
    assert values.command("sh -c 'echo \"a b\"'\n-x") == ("sh", "-c", 'echo "a b"', "-x")


@pytest.mark.parametrize("text", ["", "  ", "'", 'a "b', "''"])
def test_no_command(text: str) -> None:
    with pytest.raises(ValueError, match=r"quotes|empty"):
        values.command(text)


def test_preload() -> None:
    assert values.preload("none") == Preload("none")
    assert values.preload("shop.models, handlers") == Preload("handlers", ("shop.models",))
    assert values.preload("shop.models") == Preload("libraries", ("shop.models",))


@pytest.mark.parametrize("text", ["", "none, shop", "none, handlers", "a-b"])
def test_no_preload(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty|together|module name"):
        values.preload(text)


@pytest.mark.parametrize("text", ["A", "1a", "a" * 64, "", "a b", "a/b", "\u00e4"])
def test_no_job_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no job name"):
        values.job_name(text)


@pytest.mark.parametrize("text", sorted(values.TAKEN_NAMES))
def test_taken_job_name(text: str) -> None:
    with pytest.raises(ValueError, match="taken by the supervisor"):
        values.job_name(text)


def test_mode_is_octal() -> None:
    assert values.mode("0640") == 0o640
    assert values.mode("660") == 0o660
    with pytest.raises(ValueError, match="octal"):
        values.mode("0999")


def test_environment() -> None:
    found = values.environment(lines("A=1", "DB_PASSWORD = p=q", "EMPTY="))
    assert {name: secret.reveal() for name, secret in found.items()} == {
        "A": "1",
        "DB_PASSWORD": "p=q",
        "EMPTY": "",
    }
    assert found["DB_PASSWORD"].shown == "***"
    assert found["A"].shown == "1"


def test_line_end_in_a_variable_makes_no_second_key() -> None:
    assert values.environment(lines("A=1\nB=2"))["A"].reveal() == "1\nB=2"


@pytest.mark.parametrize("text", ["A", "=1", "1A=2", "A B=1"])
def test_no_environment(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        values.environment(lines(text))


def test_environment_name_given_twice() -> None:
    with pytest.raises(ValueError, match="A is given twice"):
        values.environment(lines("A=1", "A=2"))


def test_value_of_several_lines_where_one_is_expected() -> None:
    with pytest.raises(ValueError, match="one line is expected"):
        lines("a", "b").line()


def test_secret_file_where_none_may_stand() -> None:
    reference = FileReference("pw", Path("/etc/pw"))
    with pytest.raises(ValueError, match="may stand only in"):
        Given((Secret((reference,)),), Path("/etc")).line()


# Secrets


@pytest.mark.parametrize("show", [str, repr, "{}".format, "%s".__mod__])
def test_secret_does_not_show_itself(show: Callable[[Secret], str]) -> None:
    assert "hush" not in show(plain("hush"))


def test_secrets_of_equal_parts_are_equal() -> None:
    assert plain("a") == plain("a") != plain("b")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://:hush@h/0", "redis://:***@h/0"),
        ("postgresql://u:hu@s/h@h:5/db", "postgresql://u:***@h:5/db"),
        ("http://h/?api_token=hush&x=1", "http://h/?api_token=***&x=1"),
        ("http://h:80/", "http://h:80/"),
        ("plain", "plain"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "name", ["password", "DB_PASSWORD", "api-token", "clientSecret", "ping_url"]
)
def test_secret_name(name: str) -> None:
    assert is_secret_name(name)


@given(st.text())
def test_quoted_value_is_one_short_printable_line(text: str) -> None:
    quoted = values.quoted(text)
    assert quoted.isprintable()
    assert len(quoted) <= 65


@pytest.mark.parametrize(
    "read",
    [
        values.duration,
        values.size,
        values.boolean,
        values.signal_number,
        values.rate,
        values.mode,
        values.exit_codes,
        values.items,
        values.topics,
        values.command,
        values.preload,
        values.attribute,
        values.job_name,
        values.supervisor_name,
        values.number(0, 9),
        values.choice("a", "b"),
        values.word_or("on", "off"),
    ],
)
@given(text=st.text(alphabet=st.one_of(st.characters(), st.sampled_from("0123:,.-'\"\n/smTERM"))))
def test_any_text_is_read_or_refused_with_one_line(
    read: Callable[[str], object], text: str
) -> None:
    message = ""
    try:
        read(text)
    except ValueError as fault:
        message = str(fault)
    assert "\n" not in message
