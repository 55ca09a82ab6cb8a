"""The arithmetic of retries: properties, and a row for each word of a handler."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.base import Reject, Retry, Skip, Unavailable
from workers.retry import Policy, Verdict, decide
from workers.sources.source import Delivery, Envelope

seconds = st.floats(0.001, 1e6)
chances = st.floats(0, 1)


@given(seconds, seconds, st.integers(1, 10_000), chances)
def test_a_delay_is_never_above_the_maximum_nor_below_the_doubling(
    base: float, most: float, tries: int, chance: float
) -> None:
    delay = Policy(3, base, most).delay_s(tries, chance)
    assert 0 < delay <= most
    assert delay >= min(most, base * 2.0 ** min(tries - 1, 500)) * 0.999


@given(seconds, st.integers(1, 60), chances)
def test_delays_never_shrink(base: float, tries: int, chance: float) -> None:
    policy = Policy(3, base, 1e9)
    assert policy.delay_s(tries + 1, 0.0) >= policy.delay_s(tries, chance) * (1 / 0.6) * 0.999 or (
        policy.delay_s(tries + 1, 0.0) == 1e9
    )


def test_delays_are_1_2_4_and_at_most_the_maximum() -> None:
    policy = Policy(9, 1.0, 5.0)
    assert [policy.delay_s(tries, 0.0) for tries in (1, 2, 3, 4)] == [1, 2, 4, 5]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5))
def test_a_message_is_called_once_more_than_it_has_retries(
    retries: int, snoozes: int, crashes: int
) -> None:
    delivery = Delivery(1, "t", b"", crashes=crashes)
    for _ in range(snoozes):
        delivery = decide(delivery, Retry(after=1), Policy(retries), chance=0).delivery
    calls = 0
    verdict = Verdict.RETRIED
    while verdict is Verdict.RETRIED:
        decision = decide(delivery, ValueError(), Policy(retries), chance=0)
        verdict, delivery = decision.verdict, decision.delivery
        calls += 1
    assert calls == retries + 1
    assert delivery.failures == calls
    assert delivery.attempts == calls + snoozes
    assert delivery.crashes == crashes


@pytest.mark.parametrize(
    ("error", "verdict", "delay", "failures"),
    [
        (None, Verdict.DONE, 0, 0),
        (Skip("x"), Verdict.SKIPPED, 0, 0),
        (Reject("x"), Verdict.DEAD, 0, 0),
        (Retry(after=7), Verdict.RETRIED, 7, 0),
        (Retry(), Verdict.RETRIED, 1, 0),
        (ValueError(), Verdict.RETRIED, 1, 1),
        (SystemExit(1), Verdict.RETRIED, 1, 1),
    ],
)
def test_words(error: BaseException | None, verdict: Verdict, delay: float, failures: int) -> None:
    decision = decide(Delivery(1, "t", b"", suspect=True), error, Policy(), chance=0)
    assert decision.verdict is verdict
    assert decision.delay_s == delay
    assert decision.delivery.failures == failures
    assert decision.delivery.attempts == 1
    assert not decision.delivery.suspect


def test_a_failure_during_a_stop_counts_nothing() -> None:
    delivery = Delivery(1, "t", b"", attempts=3, failures=3)
    decision = decide(delivery, ValueError(), Policy(3), chance=0, stopping=True)
    assert decision.verdict is Verdict.RETURNED
    assert decision.delivery == delivery


def test_a_word_of_the_handler_holds_during_a_stop_too() -> None:
    decision = decide(Delivery(1, "t", b""), Reject("x"), Policy(), chance=0, stopping=True)
    assert decision.verdict is Verdict.DEAD


@pytest.mark.parametrize("after", [-1, math.nan, math.inf, 1e300])
def test_a_delay_that_is_none_is_refused(after: float) -> None:
    with pytest.raises(ValueError, match="a delay is 0 s to"):
        Retry(after=after)


@pytest.mark.parametrize("error", [None, ValueError(), Retry(), Skip(), Reject(), Unavailable("x")])
def test_what_its_source_knows_of_a_message_stays_with_it(error: Exception | None) -> None:
    known = Envelope("t-0-7", "key", {"a": "b"})
    delivery = Delivery(7, "t", b"", envelope=known, lane=3)
    decision = decide(delivery, error, Policy(), chance=0)
    assert (decision.delivery.envelope, decision.delivery.lane) == (known, 3)
