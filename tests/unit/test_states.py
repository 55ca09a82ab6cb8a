"""The state machine: total, and every loop of restarts bounded, whatever happens in which order."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.states import (
    DUMP_BEFORE_KILL_S,
    JITTER,
    TABLE,
    Action,
    Cause,
    Event,
    Goal,
    Kind,
    Policy,
    Restart,
    State,
    Status,
    backoff_delay,
    revised,
    step,
)

POLICY = Policy()


def happen(
    status: Status, kind: Kind, now: float, policy: Policy = POLICY, **more: object
) -> tuple[Status, tuple[Action, ...]]:
    return step(policy, status, Event(kind, now, **more))  # type: ignore[arg-type]  # test shorthand


def running(policy: Policy = POLICY, at: float = 0.0) -> Status:
    status, _ = happen(Status(), Kind.START, at, policy)
    return happen(status, Kind.READY, at, policy)[0]


def test_the_table_has_a_cell_for_every_event_in_every_state() -> None:
    assert set(TABLE) == set(itertools.product(State, Kind))


def test_a_start_spawns_and_gives_the_process_its_time_to_get_ready() -> None:
    status, actions = happen(Status(), Kind.START, 100.0)
    assert actions == (Action.SPAWN,)
    assert (status.state, status.deadline) == (State.STARTING, 130.0)
    assert not status.ready
    status, _ = happen(status, Kind.READY, 101.0)
    assert (status.state, status.deadline, status.ready) == (State.RUNNING, None, True)


def test_a_process_that_never_gets_ready_is_dumped_killed_and_counts_as_failed() -> None:
    status, _ = happen(Status(), Kind.START, 0.0)
    status, actions = happen(status, Kind.DEADLINE, 30.0)
    assert actions == (Action.DUMP_STACKS,)
    assert status.deadline == pytest.approx(30.0 + DUMP_BEFORE_KILL_S)
    status, actions = happen(status, Kind.DEADLINE, 30.2)
    assert actions == (Action.KILL,)
    status, _ = happen(status, Kind.EXIT, 30.3, signal=9)
    assert (status.state, status.cause, len(status.failures)) == (
        State.BACKOFF,
        Cause.NOT_READY,
        1,
    )


def test_a_hung_process_counts_as_failed() -> None:
    status, actions = happen(running(), Kind.HUNG, 70.0)
    assert actions == (Action.DUMP_STACKS,)
    status, actions = happen(status, Kind.DEADLINE, 70.2)
    assert actions == (Action.KILL,)
    status, _ = happen(status, Kind.EXIT, 70.3, signal=9)
    assert (status.cause, len(status.failures)) == (Cause.HUNG, 1)


def test_an_overdue_handler_lets_the_rest_drain_and_counts_as_a_failure() -> None:
    status, actions = happen(running(), Kind.OVERDUE, 70.0)
    assert actions == (Action.ASK_TO_STOP,)
    assert (status.state, status.stop_by) == (State.STOPPING, 70.0 + POLICY.stop_timeout)
    ended, _ = happen(status, Kind.EXIT, 70.3, code=1)
    assert (ended.state, ended.cause, len(ended.failures)) == (State.BACKOFF, Cause.TIMEOUT, 1)
    down, _ = happen(status, Kind.STOP, 70.1)
    down, _ = happen(down, Kind.EXIT, 70.3, code=1)
    assert (down.state, down.cause) == (State.STOPPED, Cause.TIMEOUT)


def test_backoff_doubles_up_to_the_maximum() -> None:
    assert [backoff_delay(POLICY, n) for n in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_backoff_goes_back_only_after_a_stable_run() -> None:
    status = running()
    for uptime, expected in ((0.1, 1.0), (9.9, 2.0), (0.1, 4.0), (10.0, 1.0), (0.1, 2.0)):
        begin = status.started_at or 0.0
        status, _ = happen(status, Kind.EXIT, begin + uptime, code=1)
        assert status.deadline == pytest.approx(begin + uptime + expected)
        status, _ = happen(status, Kind.DEADLINE, status.deadline or 0.0)
        status, _ = happen(status, Kind.READY, status.started_at or 0.0)


def test_the_tenth_failure_within_the_window_is_fatal_and_tried_again_later() -> None:
    status = running()
    for number in range(1, 11):
        status, _ = happen(status, Kind.EXIT, number * 20.0, code=1)
        assert status.state is (State.BACKOFF if number < 10 else State.FATAL)
        if number < 10:
            status, _ = happen(status, Kind.DEADLINE, number * 20.0 + 5)
            status, _ = happen(status, Kind.READY, number * 20.0 + 5)
    assert status.deadline == 200.0 + 300.0
    status, actions = happen(status, Kind.DEADLINE, 500.0)
    assert actions == (Action.SPAWN,)


def test_failures_leave_the_window() -> None:
    policy = replace(POLICY, max_failures=3, failure_window=60.0)
    status = running(policy)
    for at in (10.0, 40.0, 80.0, 110.0, 150.0):
        status, _ = happen(status, Kind.EXIT, at, policy, code=1)
        assert status.state is State.BACKOFF, at
        status, _ = happen(status, Kind.DEADLINE, at + 1, policy)
        status, _ = happen(status, Kind.READY, at + 1, policy)


def test_exit_78_is_fatal_at_once_and_for_good() -> None:
    status, actions = happen(running(), Kind.EXIT, 1.0, code=78)
    assert (status.state, status.deadline, actions) == (State.FATAL, None, ())
    assert status.cause is Cause.CONFIGURATION


def test_a_start_by_hand_forgives() -> None:
    status, _ = happen(running(), Kind.EXIT, 1.0, code=78)
    status, actions = happen(replace(status, failures=(1.0, 2.0)), Kind.START, 5.0)
    assert (actions, status.failures, status.backoff_step) == ((Action.SPAWN,), (), 0)


@pytest.mark.parametrize(
    ("restart", "code", "state"),
    [
        (Restart.ALWAYS, 0, State.BACKOFF),
        (Restart.ALWAYS, 1, State.BACKOFF),
        (Restart.ON_FAILURE, 0, State.EXITED),
        (Restart.ON_FAILURE, 1, State.BACKOFF),
        (Restart.NEVER, 0, State.EXITED),
        (Restart.NEVER, 1, State.FATAL),
    ],
)
def test_what_follows_an_exit_is_the_policys_word(
    restart: Restart, code: int, state: State
) -> None:
    policy = replace(POLICY, restart=restart)
    status, _ = happen(running(policy), Kind.EXIT, 60.0, policy, code=code)
    assert status.state is state
    assert status.ready == (state is State.EXITED)


def test_a_clean_exit_of_a_stable_run_waits_its_backoff_and_is_no_failure() -> None:
    status, _ = happen(running(), Kind.EXIT, 60.0, code=0)
    assert (status.state, status.deadline, status.failures) == (State.BACKOFF, 61.0, ())


def test_a_clean_exit_soon_after_the_start_is_a_failure() -> None:
    status, _ = happen(running(), Kind.EXIT, 1.0, code=0)
    assert len(status.failures) == 1


def test_a_death_by_signal_is_never_expected() -> None:
    policy = replace(POLICY, restart=Restart.ON_FAILURE)
    status, _ = happen(running(), Kind.EXIT, 60.0, policy, signal=15)
    assert status.state is State.BACKOFF


def test_a_stop_is_repeated_each_second_then_dumped_then_killed() -> None:
    policy = replace(POLICY, stop_timeout=3.0)
    status, actions = happen(running(policy), Kind.STOP, 10.0, policy)
    seen = [(10.0, actions)]
    while status.deadline is not None and status.deadline < 15:
        at = status.deadline
        status, actions = happen(status, Kind.DEADLINE, at, policy)
        seen.append((at, actions))
    assert [(round(at, 3), what[0]) for at, what in seen] == [
        (10.0, Action.ASK_TO_STOP),
        (11.0, Action.ASK_TO_STOP),
        (12.0, Action.ASK_TO_STOP),
        (12.8, Action.DUMP_STACKS),
        (13.0, Action.KILL),
        (14.0, Action.KILL),
    ]


def test_a_stop_ends_in_stopped_whatever_the_exit_code() -> None:
    for how in ({"code": 0}, {"code": 1}, {"code": 78}, {"signal": 9}):
        status, _ = happen(running(), Kind.STOP, 10.0)
        status, actions = happen(status, Kind.EXIT, 11.0, **how)
        assert (status.state, status.goal, actions) == (State.STOPPED, Goal.DOWN, ())
        assert status.cause is Cause.ASKED


ANEW = pytest.mark.parametrize(
    ("kind", "cause"), [(Kind.RECYCLE, Cause.RECYCLED), (Kind.RESTART, Cause.ASKED)]
)


@ANEW
@pytest.mark.parametrize("restart", [Restart.ALWAYS, Restart.NEVER])
@pytest.mark.parametrize("how", [{"code": 0}, {"code": 1}, {"signal": 9}])
def test_who_is_to_begin_anew_does_and_that_is_no_failure(
    kind: Kind, cause: Cause, restart: Restart, how: dict[str, int]
) -> None:
    policy = replace(POLICY, restart=restart)
    status, actions = happen(running(), kind, 10.0, policy)
    assert actions == (Action.ASK_TO_STOP,)
    assert status.why == "asked to start anew"
    status, actions = happen(status, Kind.EXIT, 11.0, policy, **how)
    assert (status.state, actions, status.failures) == (State.STARTING, (Action.SPAWN,), ())
    assert status.cause is cause


@ANEW
def test_a_stop_in_the_middle_of_it_wins(kind: Kind, cause: Cause) -> None:
    status, _ = happen(running(), kind, 10.0)
    status, _ = happen(status, Kind.STOP, 10.5)
    status, actions = happen(status, Kind.EXIT, 11.0, code=0)
    assert (status.state, actions) == (State.STOPPED, ())
    assert status.cause is Cause.ASKED


def test_a_second_and_a_third_stop_shorten_the_first() -> None:
    status, _ = happen(running(), Kind.STOP, 10.0)
    status, actions = happen(status, Kind.FAST, 11.0)
    assert (actions, status.stop_by) == ((Action.ASK_TO_HURRY,), 12.0)
    status, actions = happen(status, Kind.KILL, 11.5)
    assert actions == (Action.KILL,)


def test_a_start_that_has_to_wait_is_stopped_with_a_wish() -> None:
    dead, _ = happen(running(), Kind.EXIT, 60.0, code=78)
    for before in (Status(), dead):
        status, actions = happen(before, Kind.WAIT, 100.0, why="waiting for db to be ready")
        assert (status.state, status.goal, status.held) == (State.STOPPED, Goal.UP, True)
        assert (status.deadline, status.why, actions) == (None, "waiting for db to be ready", ())
        status, actions = happen(status, Kind.START, 500.0)
        assert (status.state, status.held, actions) == (State.STARTING, False, (Action.SPAWN,))
        assert status.deadline == 530.0, "its time to get ready begins now"
        assert status.failures == ()


def test_a_stop_ends_the_waiting() -> None:
    for kind in (Kind.STOP, Kind.FAST, Kind.KILL):
        status, _ = happen(Status(), Kind.WAIT, 1.0, why="waiting")
        status, actions = happen(status, kind, 2.0)
        assert (status.state, status.goal, status.held) == (State.STOPPED, Goal.DOWN, False)
        assert actions == ()


def test_who_is_there_does_not_wait() -> None:
    assert happen(running(), Kind.WAIT, 5.0) == (running(), ())


def test_who_is_to_come_back_later_waits_when_it_is_gone() -> None:
    status, _ = happen(running(), Kind.STOP, 10.0)
    status, _ = happen(status, Kind.WAIT, 10.5, why="waiting")
    status, actions = happen(status, Kind.EXIT, 11.0, code=0)
    assert (status.state, status.goal, status.held, actions) == (State.STOPPED, Goal.UP, True, ())
    assert status.cause is Cause.ASKED


@pytest.mark.parametrize("wish", [Kind.START, Kind.RECYCLE, Kind.RESTART])
@pytest.mark.parametrize("restart", [Restart.ALWAYS, Restart.NEVER])
@pytest.mark.parametrize("doom", [Kind.HUNG, Kind.OVERDUE, Kind.DEADLINE])
def test_who_is_wanted_up_while_it_is_ended_for_a_failure_comes_at_once(
    doom: Kind, restart: Restart, wish: Kind
) -> None:
    policy = replace(POLICY, restart=restart)
    before = running() if doom is not Kind.DEADLINE else happen(Status(), Kind.START, 0.0)[0]
    ended, _ = happen(before, doom, 40.0, policy)
    status, _ = happen(ended, wish, 40.1, policy)
    status, actions = happen(status, Kind.EXIT, 40.3, policy, signal=9)
    assert (status.state, actions) == (State.STARTING, (Action.SPAWN,))
    assert status.failures == (), "as if it had been asked for in BACKOFF"
    assert status.cause is ended.doom, "what it died of is told all the same"
    status, _ = happen(ended, wish, 40.1, policy)
    status, _ = happen(status, Kind.STOP, 40.2, policy)
    status, actions = happen(status, Kind.EXIT, 40.3, policy, signal=9)
    assert (status.state, actions) == (State.STOPPED, ()), "the last wish counts"
    status, _ = happen(ended, Kind.WAIT, 40.1, policy, why="waiting")
    status, actions = happen(status, Kind.EXIT, 40.3, policy, signal=9)
    assert (status.state, status.held, actions) == (State.STOPPED, True, ())


def test_a_recycle_tells_its_reason() -> None:
    status, _ = happen(running(), Kind.RECYCLE, 10.0, why="too fat")
    assert status.why == "too fat"


def test_a_fork_that_fails_is_tried_again_and_is_no_failure_of_the_job() -> None:
    status, _ = happen(Status(), Kind.START, 0.0, replace(POLICY, backoff=0.0))
    status, _ = happen(status, Kind.NOT_SPAWNED, 0.0, replace(POLICY, backoff=0.0))
    assert (status.state, status.failures) == (State.BACKOFF, ())
    assert (status.deadline or 0) >= 1.0 - JITTER


# --- whatever happens ------------------------------------------------------------------------

policies = st.builds(
    Policy,
    restart=st.sampled_from(Restart),
    backoff=st.sampled_from([0.0, 0.1, 1.0]),
    backoff_max=st.sampled_from([1.0, 30.0]),
    stable_after=st.sampled_from([0.0, 1.0, 10.0]),
    max_failures=st.integers(1, 12),
    failure_window=st.sampled_from([1.0, 60.0, 600.0]),
    fatal_retry=st.sampled_from([None, 300.0]),
    ready_timeout=st.sampled_from([0.0, 1.0, 30.0]),
    stop_timeout=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
)

events = st.tuples(
    st.sampled_from(Kind),
    st.floats(0, 40),
    st.sampled_from([None, 0, 1, 78]),
    st.floats(0, 1, exclude_max=True),
)


@settings(max_examples=400, deadline=None)
@given(policies, st.lists(events, max_size=60))
def test_invariants_hold_on_every_walk(
    policy: Policy, walk: list[tuple[Kind, float, int | None, float]]
) -> None:
    status, now, processes = Status(), 0.0, 0
    for kind, pause, code, jitter in walk:
        if kind is Kind.EXIT and not processes:
            continue  # what is not there cannot die
        now += pause
        if kind is Kind.EXIT:
            processes -= 1
        before = status
        number = 9 if code is None else None
        status, actions = step(policy, status, Event(kind, now, code, number, jitter))
        processes += actions.count(Action.SPAWN)
        if kind is Kind.NOT_SPAWNED and before.state is State.STARTING:
            processes -= 1
        assert processes == int(status.alive), "one process in a slot, exactly while it is alive"
        if status.state is State.STOPPING:
            assert status.deadline is not None, "no stop without an end"
        if status.state is State.BACKOFF:
            assert status.deadline is not None, "no backoff without a next start"
        if status.state in (State.STOPPED, State.EXITED, State.RUNNING):
            assert status.deadline is None
        if kind is Kind.STOP:
            assert status.goal is Goal.DOWN
        if status.held:
            assert status.goal is Goal.UP
            assert status.state in (State.STOPPED, State.STOPPING)
        assert len(status.failures) <= policy.max_failures or policy.fatal_retry is not None


ways_to_fail = st.sampled_from(
    ["never ready", "dies at once", "ready, then dies", "clean", "hangs"]
)


@settings(max_examples=100, deadline=None)
@given(ways_to_fail, st.sampled_from([0.0, 1.0]), st.integers(1, 12))
def test_no_way_of_failing_is_started_without_bound(way: str, backoff: float, limit: int) -> None:
    """Simulate an hour: the spawns are bounded by the budget and the retries from FATAL."""
    policy = Policy(backoff=backoff, max_failures=limit, stable_after=10.0)
    status, actions = step(policy, Status(), Event(Kind.START, 0.0))
    now, spawns = 0.0, 1
    while now < 3600:
        kind, pause, code = _next(way, status)
        now += pause
        if kind is Kind.DEADLINE:
            now = max(now, status.deadline or now)
        status, actions = step(
            policy, status, Event(kind, now, code, None if code is not None else 9)
        )
        spawns += actions.count(Action.SPAWN)
        if status.state is State.FATAL and status.deadline is None:
            break
    windows = 3600 / policy.failure_window + 1
    retries = 3600 / (policy.fatal_retry or 3600) + 1
    assert spawns <= limit * windows + retries + 1


def _next(way: str, status: Status) -> tuple[Kind, float, int | None]:
    if status.state in (State.BACKOFF, State.FATAL):
        return Kind.DEADLINE, 0.0, None
    if status.state is State.STOPPING:
        return Kind.EXIT, 0.3, None
    if way == "never ready":
        return Kind.DEADLINE, 0.0, None
    if way == "dies at once":
        return Kind.EXIT, 0.01, 1
    if status.state is State.STARTING:
        return Kind.READY, 0.01, None
    if way == "hangs":
        return Kind.HUNG, 60.0, None
    return Kind.EXIT, 0.01, 0 if way == "clean" else 1


def test_another_policy_takes_effect_on_what_waits_now() -> None:
    old, new = Policy(backoff_max=600.0), Policy(backoff_max=10.0, ready_timeout=5.0)
    starting = Status(state=State.STARTING, started_at=100.0, deadline=130.0)
    assert revised(old, new, starting, 101.0).deadline == 105.0
    at_leisure = revised(old, Policy(ready_timeout=0.0), starting, 101.0)
    assert at_leisure.deadline is None
    assert revised(Policy(ready_timeout=0.0), new, at_leisure, 101.0).deadline == 105.0
    waiting = Status(state=State.BACKOFF, deadline=600.0, backoff_step=9)
    assert revised(old, new, waiting, 100.0).deadline == 112.0
    soon = Status(state=State.BACKOFF, deadline=101.0, backoff_step=9)
    assert revised(new, old, soon, 100.0) == soon, "no pause gets longer"
    given_up = Status(state=State.FATAL, deadline=400.0)
    assert revised(Policy(), Policy(fatal_retry=10.0), given_up, 101.0).deadline == 110.0
    assert revised(Policy(), Policy(fatal_retry=None), given_up, 101.0).deadline is None
    stopping = Status(state=State.STOPPING, deadline=120.0, stop_by=130.0)
    assert revised(Policy(), Policy(stop_timeout=1.0), stopping, 101.0) == stopping
    for state in State:
        at_rest = Status(state=state)
        assert revised(old, new, at_rest, 1.0) == at_rest
