"""`@task`: what is called later is the same function with the same arguments, or it is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import NoSuchJob
from supervisor.loading import load
from supervisor.probe import probe
from workers import Retry, Skip, commands, publishing, task
from workers.testing import run

CALLS: list[tuple[object, ...]] = []


@task("reports")
def build(report_id: int, *, colour: str = "red") -> int:
    """Build a report."""
    CALLS.append((report_id, colour))
    if report_id < 0:
        raise Skip("no such report")
    return report_id * 2


@task("reports")
def tear_down(anything: Any = None) -> None:  # a test of all kinds of data
    CALLS.append(("torn", anything))


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "w.ini"
    path.write_text(
        "[daemon:r]\ntype = queue\nurl = sqlite:///q.db\ntopics = reports\n"
        f"handler.reports = {__name__}:build\n"
    )
    monkeypatch.setenv("SUPERVISOR_CONF", str(path))
    yield path
    for desk in publishing._here.desks.values():
        desk.close()
    publishing._here.desks.clear()


def test_a_plain_call_is_a_plain_call() -> None:
    assert build(3, colour="blue") == 6
    assert CALLS == [(3, "blue")]
    assert (build.__doc__, build.__name__) == ("Build a report.", "build")
    assert repr(build) == f"<task {__name__}:build on reports>"


def test_a_delayed_call_is_a_message_of_its_topic(conf: Path) -> None:
    message_id = build.delay(7, colour="blue")
    build.apply_later(3600, 8)
    [row] = commands.queue_list(load(conf))
    assert (row["topic"], row["depth"], row["delayed"]) == ("reports", 1, 1)
    assert len(message_id) == 32
    assert CALLS == []


def test_the_check_takes_a_task_for_a_handler(conf: Path) -> None:
    assert probe(load(conf), 60.0) == ()


def test_without_a_job_that_lists_the_topic_it_is_refused(conf: Path) -> None:
    @task("elsewhere")
    def lost() -> None: ...

    with pytest.raises(NoSuchJob, match="elsewhere"):
        lost.delay()


def test_the_data_of_a_call_runs_it() -> None:
    data = build.data(7, colour="blue")
    assert data == {"task": f"{__name__}:build", "args": [7], "kwargs": {"colour": "blue"}}
    assert run(build, data).ok
    assert run(build, {"task": f"{__name__}:build", "args": [1]}).ok
    assert run(build, tear_down.data("x")).ok, "another task of the topic"
    assert CALLS == [(7, "blue"), (1, "red"), ("torn", "x")]


def test_the_words_of_handlers_count() -> None:
    assert run(build, build.data(-1)).status == "skipped"

    @task("t")
    def later() -> None:
        raise Retry(after=5)

    assert run(later, later.data()).after == 5

    @task("t")
    def undone() -> object:
        return (each for each in ())

    assert "undone returned a generator: its body has not run" in run(undone, undone.data()).reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (7, "no call of a task"),
        ({"args": [7]}, "no call of a task"),
        ({"task": f"{__name__}:build", "args": "7"}, "no call of a task"),
        ({"task": "os:remove", "args": ["x"]}, "no task os:remove of topic reports"),
        ({"task": f"{__name__}:build", "args": [1, 2]}, "too many positional arguments"),
        ({"task": f"{__name__}:build", "args": []}, "missing a required argument"),
    ],
)
def test_what_is_no_call_goes_to_the_dead_letters(data: object, reason: str) -> None:
    outcome = run(build, data)
    assert outcome.status == "dead"
    assert reason in outcome.reason
    assert CALLS == []


def test_a_task_of_another_topic_is_not_called() -> None:
    @task("money")
    def pay() -> None:
        CALLS.append(("paid",))

    assert run(build, pay.data()).status == "dead"
    assert CALLS == []


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((1, 2), "argument 1 is or holds a value of type tuple, .*; give a list"),
        ({1, 2}, "argument 1 is or holds a value of type set"),
        ({"a": [{7: 1}]}, "argument 1 has the key 7"),
        (object(), "argument 1 is or holds a value of type object"),
        (b"x", "argument 1 is or holds a value of type bytes"),
        (float("nan"), "argument 1 is nan"),
        ([float("inf")], "argument 1 is inf"),
        (CIRCLE, "argument 1 is nested too deeply"),
    ],
)
def test_what_json_would_change_is_refused_by_name(conf: Path, value: object, reason: str) -> None:
    with pytest.raises(TypeError, match=f"tear_down: {reason}"):
        tear_down.delay(value)
    assert not (conf.parent / "q.db").exists()


def test_arguments_that_do_not_fit_are_refused_at_the_call(conf: Path) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'report_id'"):
        build.delay()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="color"):
        build.delay(1, color="red")  # type: ignore[call-arg]


def test_a_topic_and_a_plain_function_are_needed() -> None:
    with pytest.raises(TypeError, match=r'write the topic of the calls: @task\("reports"\)'):
        task(lambda: None)  # type: ignore[arg-type]

    async def slow() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TypeError, match="async"):
        task("t")(slow)


def test_a_function_of_the_program_itself_cannot_be_imported_by_a_job(tmp_path: Path) -> None:
    program = tmp_path / "shop.py"
    program.write_text(
        "from workers import task\n"
        "@task('t')\n"
        "def build(): ...\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        print(build.data()['task'])\n"
        "    except TypeError as error:\n"
        "        print(error)\n"
    )

    def said(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert said("shop.py").startswith("__main__:build is in the program itself")
    assert said("-m", "shop") == "shop:build\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner)
    ),
    max_leaves=10,
)


@given(JSON)
def test_what_is_not_refused_arrives_as_it_was_given(value: object) -> None:
    CALLS.clear()
    try:
        data = tear_down.data(value)
    except TypeError:
        assert value != json.loads(json.dumps(value)) or _has_odd_float(value)
        return
    outcome = run(tear_down, data)
    assert outcome.ok, outcome
    assert [("torn", value)] == CALLS
    assert repr(CALLS[0][1]) == repr(value)


def _has_odd_float(value: object) -> bool:
    return any(word in json.dumps(value) for word in ("NaN", "Infinity"))
