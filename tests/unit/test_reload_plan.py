"""The planner: what differs, what it needs, and that nothing is forgotten. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supervisor import dependencies, reload, settings
from supervisor.config import Config, Job
from supervisor.dependencies import Dependency
from supervisor.reload import Change
from supervisor.secret import plain
from supervisor.values import Preload, Topic

LIVE = {
    "required": st.booleans(),
    "processes": st.integers(0, 5),
    "restart": st.sampled_from(["always", "on-failure", "never"]),
    "backoff": st.sampled_from([0.5, 1.0]),
    "max_failures": st.integers(1, 3),
    "ready_timeout": st.sampled_from([1.0, 30.0]),
    "heartbeat_timeout": st.sampled_from([0.0, 60.0]),
    "stop_timeout": st.sampled_from([5.0, 30.0]),
    "progress_timeout": st.sampled_from([5.0, 300.0]),
    "fatal_retry": st.sampled_from([None, 300.0]),
}
RESTART = {
    "handler": st.sampled_from([None, "shop:handle", "shop:other"]),
    "concurrency": st.integers(1, 3),
    "topics": st.sampled_from([(Topic("a"),), (Topic("a", 2), Topic("b"))]),
    "url": st.sampled_from([plain("sqlite:///a.db"), plain("sqlite:///b.db")]),
    "stop_signal": st.sampled_from([15, 2]),
    "options": st.dictionaries(st.sampled_from("xyz"), st.sampled_from([plain("1"), plain("2")])),
    "handlers": st.dictionaries(st.sampled_from("ab"), st.sampled_from(["m:f", "m:g"])),
    "directory": st.sampled_from([None, Path("/tmp")]),
}


def job(name: str) -> st.SearchStrategy[Job]:
    return st.fixed_dictionaries({**LIVE, **RESTART}).map(
        lambda found: Job(name=name, kind="daemon", type="queue", **found)
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    return Config(
        name="shop",
        path=Path("/shop.ini"),
        run_dir=Path("/run/shop"),
        state_dir=Path("/var/lib/shop"),
        log_level=draw(st.sampled_from(["info", "debug"])),
        stop_timeout=draw(st.sampled_from([35.0, 60.0])),
        socket_mode=draw(st.sampled_from([0o600, 0o660])),
        preload=draw(st.sampled_from([Preload(), Preload("none")])),
        jobs=tuple(draw(job(name)) for name in names),
    )


def by_name(config: Config) -> dict[str, Job]:
    return {one.name: one for one in config.jobs}


@given(configs())
def test_the_same_file_changes_nothing(config: Config) -> None:
    assert all(step.change is Change.UNCHANGED for step in reload.plan(config, config).steps)
    assert reload.merged(config, config) == config


@given(configs(), configs())
def test_every_job_has_one_step_and_the_right_one(old: Config, new: Config) -> None:
    plan = reload.plan(old, new)
    before, after = by_name(old), by_name(new)
    steps = {step.name: step for step in plan.steps if step.name != reload.MASTER}
    assert list(steps) == [*after, *(name for name in before if name not in after)]
    for name, step in steps.items():
        if name not in before or name not in after:
            assert step.change is (Change.REMOVED if name in before else Change.ADDED)
            continue
        keys = {key.partition(".")[0] for key in step.fields}

        was, now = before[name], after[name]
        differing = {key for key in (*LIVE, *RESTART) if getattr(was, key) != getattr(now, key)}
        assert (step.change is Change.UNCHANGED) == (was == now)
        assert (step.change is Change.LIVE) == bool(differing and differing <= LIVE.keys())
        assert keys - {"option", "handler"} <= differing
        assert ("options" in differing) == any(key.startswith("option.") for key in step.fields)
        assert ("handlers" in differing) == any(key.startswith("handler.") for key in step.fields)


@given(configs(), configs())
def test_the_live_form_takes_what_it_can_and_nothing_else(old: Config, new: Config) -> None:
    before, after = by_name(old), by_name(new)
    for name in before.keys() & after.keys():
        form = reload.live_form(before[name], after[name])
        for key in LIVE:
            assert getattr(form, key) == getattr(after[name], key)
        for key in RESTART:
            assert getattr(form, key) == getattr(before[name], key)
        step = reload.compare(before[name], after[name])
        if step.change in (Change.UNCHANGED, Change.LIVE):
            assert form == after[name], "nothing is left over for a restart"
        # What is left to be done needs a new process, and only that.
        assert reload.compare(form, after[name]).change in (Change.UNCHANGED, Change.RESTART)


@given(configs(), configs())
def test_what_is_applied_leaves_only_what_a_restart_can_change(old: Config, new: Config) -> None:
    applied = reload.merged(old, new)
    assert (applied.socket_mode, applied.preload) == (old.socket_mode, old.preload)
    assert (applied.log_level, applied.stop_timeout) == (new.log_level, new.stop_timeout)
    assert applied.jobs == new.jobs
    left = [step for step in reload.plan(applied, new).steps if step.change != Change.UNCHANGED]
    assert all(step.change is Change.SUPERVISOR for step in left)
    # Applied once more it is told once more, and changes no job.
    told = {key for step in left for key in step.fields}
    assert told == {
        key for key in ("socket_mode", "preload") if getattr(old, key) != getattr(new, key)
    }


def test_every_field_of_a_configuration_has_its_place() -> None:
    for field in fields(Job):
        key = reload._KEYS.get(field.name, field.name)
        is_key = settings.rows("daemon:NAME", key) or key in ("options", "handlers", "client")
        assert is_key or field.name in reload._NOT_KEYS, field.name
    for key in ("name", "run_dir", "state_dir", "preload", "socket_mode", "worker_enable"):
        assert reload._of_supervisor(key) == settings.SUPERVISOR
    for key in ("log_level", "stop_timeout"):
        assert reload._of_supervisor(key) == settings.LIVE


def _config(**needs: tuple[str, ...]) -> Config:
    jobs = tuple(
        Job(
            name=name,
            kind="daemon",
            type="worker",
            depends_on=tuple(Dependency(other) for other in others),
        )
        for name, others in needs.items()
    )
    paths: dict[str, Any] = dict.fromkeys(("path", "run_dir", "state_dir"), Path("/x"))
    return Config(name="shop", jobs=jobs, **paths)


def test_the_way_back_makes_no_circle() -> None:
    old = _config(a=("b",), b=()).jobs[0]
    now = _config(a=(), b=("a",))
    back = reload.going_back(now, old)
    assert back == replace(old, depends_on=())
    graph = {"a": [one.job for one in back.depends_on], "b": ["a"]}
    assert not dependencies.circles(graph)


def test_the_way_back_waits_for_nobody_who_is_gone() -> None:
    old = _config(a=("b",), b=()).jobs[0]
    assert reload.going_back(_config(a=()), old).depends_on == ()
    assert reload.going_back(_config(a=(), b=()), old) == old
