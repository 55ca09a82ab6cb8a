"""Which processes the names of an operator mean."""

from __future__ import annotations

import pytest

from supervisor.errors import NoSuchJob
from supervisor.selection import fits, select

JOBS = {
    "orders": ["orders:0", "orders:1"],
    "order-mails": ["order-mails:0"],
    "idle": [],
}


def test_no_name_means_every_process() -> None:
    assert select([], JOBS) == ("orders:0", "orders:1", "order-mails:0")


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["orders"], ("orders:0", "orders:1")),
        (["orders:1"], ("orders:1",)),
        (["order*"], ("orders:0", "orders:1", "order-mails:0")),
        (["*:0"], ("orders:0", "order-mails:0")),
        (["orders:[1-9]"], ("orders:1",)),
        (["order-mails", "orders:0", "orders"], ("orders:0", "orders:1", "order-mails:0")),
        (["idle"], ()),
        (["*"], ("orders:0", "orders:1", "order-mails:0")),
    ],
)
def test_a_name_is_a_job_a_process_or_a_glob(patterns: list[str], meant: tuple[str, ...]) -> None:
    assert select(patterns, JOBS) == meant


def test_every_unknown_name_is_told_with_the_nearest_known_one() -> None:
    with pytest.raises(NoSuchJob) as caught:
        select(["ordres", "orders", "q\x1b[31m*"], JOBS)
    assert str(caught.value).splitlines() == [
        "no such job: ordres; did you mean orders?",
        r"no such job: q\x1b[31m*",
    ]


def test_of_many_unknown_names_ten_are_told() -> None:
    with pytest.raises(NoSuchJob) as caught:
        select([f"x{number}" for number in range(1000)], JOBS)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 990 more"


def test_master_is_a_name_only_where_it_is_allowed() -> None:
    assert select(["master"], JOBS, extra=["master"]) == ("master",)
    assert "master" not in select(["*"], JOBS, extra=["master"])
    with pytest.raises(NoSuchJob):
        select(["master"], JOBS)


@pytest.mark.parametrize(
    ("patterns", "name", "meant"),
    [
        ([], "orders:0", True),
        ([], "master", False),
        (["orders"], "orders:7", True),
        (["orders:1"], "orders:0", False),
        (["order*"], "order-mails:0", True),
        (["*"], "master", False),
        (["*", "master"], "master", True),
    ],
)
def test_one_name_fits_as_it_would_be_chosen(
    patterns: list[str], name: str, *, meant: bool
) -> None:
    assert fits(patterns, name) is meant
