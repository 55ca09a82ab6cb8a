"""Whose messages come first under a backlog, over every source: strict and weighted topics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from supervisor.values import Topic
from tests.conformance.conftest import Bench, several_topics
from tests.helpers import shop
from tests.helpers.forked import Nursery


def handled(
    bench: Bench, nursery: Nursery, folder: Path, topics: tuple[Topic, ...], order: str
) -> str:
    """Handle 300 messages of each topic, one after the other; give the topics in their order."""
    for topic in ("low", "high"):
        bench.publish(topic, *(f"{topic}{n}" for n in range(300)))
    journal = shop.Journal(folder / "journal")
    job = replace(bench.job(journal.path, concurrency=1), topics=topics, order_topics=order)
    one = nursery.fork(job)
    one.until(lambda: one.page.read().done == 600)
    assert one.stop() == 0
    return "".join(line[1][0] for line in journal.lines() if line[0] == "begin")


@several_topics
def test_strict_takes_the_lower_only_when_the_higher_are_empty(
    bench: Bench, nursery: Nursery, tmp_path: Path
) -> None:
    topics = (Topic("high", 1), Topic("low", 9))
    assert handled(bench, nursery, tmp_path, topics, "strict") == "h" * 300 + "l" * 300


@several_topics
def test_weighted_shares_a_backlog_by_weight(
    bench: Bench, nursery: Nursery, tmp_path: Path
) -> None:
    topics = (Topic("high", 5), Topic("low", 1))
    order = handled(bench, nursery, tmp_path, topics, "weighted")
    # A fetch of up to 100 brings each topic's part together: nowhere exact, and fair in the sum.
    assert 250 - 17 <= order[:300].count("h") <= 250 + 17
    assert "l" in order[:110]
