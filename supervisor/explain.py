"""What `why` says: the verdict first, then what comes next, what it waits for, how it died.

Pure; draws the shapes that `inquest` has filled. Called by `insight_commands`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from supervisor.columns import cut, paint
from supervisor.dumps import above_fork
from supervisor.lines import escape
from supervisor.render import amount, duration, local
from supervisor.shapes import Backoff, Death, Stacks, Why

DEATHS_SHOWN: Final = 5

_HOW: Final = {
    "hung": "no heartbeat",
    "not-ready": "not ready in time",
    "recycled": "recycled",
    "asked": "asked to stop",
    "timeout": "took too long",
    "out-of-memory": "out of memory",
    "configuration": "its configuration is wrong",
}
"""The causes of a death that tell more than its exit code or signal."""

_LABEL: Final = 8
# The last line of a traceback: in a record, or behind the stream of a captured line.
_EXCEPTION: Final = r"(?:^|\| )\s*((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$"


def is_well(why: Why) -> bool:
    """Tell whether a process is as it should be."""
    if why["state"] in ("STOPPED", "STOPPING"):
        return why["waits_for"] is None or why["next_action"] != "start"
    return why["ready"]


def worst_first(found: Sequence[Why]) -> list[Why]:
    """Give the processes that are not well, then those that have died last."""
    by_death = sorted(found, key=_last_death, reverse=True)
    return sorted(by_death, key=is_well)


def lines(found: Sequence[Why], *, colour: bool = False, width: int | None = None) -> list[str]:
    """Draw the explanations of some processes; those that are well get one line each."""
    ordered = worst_first(found)
    if len(ordered) == 1:
        return _one(ordered[0], colour, width)
    bad = [why for why in ordered if not is_well(why)]
    drawn = [cut(_headline(ordered, bad), width)]
    for why in ordered:
        drawn += ["", *_one(why, colour, width)] if why in bad else []
    well = [paint(cut(_verdict(why), width), why["state"], colour) for why in ordered[len(bad) :]]
    return [*drawn, *([""] if bad and well else []), *well]


def next_command(found: Sequence[Why]) -> str | None:
    """Give the command to go on with; None when there is no process at all."""
    if not found:
        return None
    worst = worst_first(found)[0]
    name = worst["name"]
    if worst["state"] == "FATAL" and worst["deaths"][-1:] and _last(worst)["code"] == 78:
        return "supervisor check"
    if worst["pid"] is None and worst["waits_for"] is not None:
        return "supervisor status"
    if worst["pid"] is not None and not worst["ready"] and worst["type"] != "program":
        return f"supervisor stacks {name}"
    return f"supervisor logs {name} -n 50"


def stacks_lines(one: Stacks, *, title: bool) -> list[str]:
    """Draw the stacks of one process; `title`: under its name, as others are shown too."""
    shown = [escape(line) for line in above_fork(one["stacks"])]
    return [f"{one['name']} (pid {one['pid']})", *shown, ""] if title else shown


def _headline(found: Sequence[Why], bad: Sequence[Why]) -> str:
    if not found:
        return "no process: none of these jobs is to have any (processes, scale)"
    if not bad:
        return f"all of {len(found)} processes are well"
    told = ", ".join(f"{why['name']} {why['state']}" for why in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"{len(bad)} of {len(found)} processes not well: {told}{more}"


def _one(why: Why, colour: bool, width: int | None) -> list[str]:
    drawn = [paint(cut(_verdict(why), width), why["state"], colour)]
    facts: list[tuple[str, str]] = []
    if cause := _exception(why):
        facts.append(("Cause", cause))
    if why["waits_for"] is not None:
        facts.append(("Waits", f"for {why['waits_for']}"))
    if following := _next(why):
        facts.append(("Next", following))
    deaths = why["deaths"][: -DEATHS_SHOWN - 1 : -1]
    for number, death in enumerate(deaths):
        facts.append(("" if number else "Deaths", _death_line(death)))
    if len(why["deaths"]) > len(deaths):
        facts.append(("", "and earlier ones, which --json shows"))
    if deaths and deaths[0]["log_tail"]:
        facts.append(("Log", f"its last lines before {local(deaths[0]['at'])}:"))
        facts += [("", f"  {line}") for line in deaths[0]["log_tail"]]
    return drawn + [cut(f"  {label:{_LABEL}}{escape(text)}", width) for label, text in facts]


def _verdict(why: Why) -> str:
    state, begin = why["state"], f"{why['name']} ({why['type']}) is {why['state']}"
    since = f" for {duration(why['uptime_s'])}" if why["uptime_s"] is not None else ""
    if state == "RUNNING":
        ready = f" and ready{since}" if why["ready"] else f"{since}, but {_not_ready(why)}"
        return f"{begin}{ready}{_history(why)}"
    if state in ("STARTING", "STOPPING"):
        doing = "not ready yet" if state == "STARTING" else why["why"]
        return f"{begin}{since}: {escape(doing)}{_history(why)}"
    if state == "STOPPED" and is_well(why):
        return f"{begin}: nothing starts it but supervisor start {why['name']}"
    after = f", {duration(_last(why)['uptime_s'])} after its start" if why["deaths"] else ""
    return f"{begin}: {escape(why['why'])}{after if state in ('BACKOFF', 'FATAL') else ''}"


def _not_ready(why: Why) -> str:
    return "not ready: " + escape(why["why"].removeprefix("not ready: "))


def _history(why: Why) -> str:
    if not why["deaths"]:
        return "; it has not died"
    return f"; its last death was at {local(_last(why)['at'])}: {_how(_last(why))}"


def _exception(why: Why) -> str | None:
    """Give the exception of which it died last, if it does not run and that is its last word."""
    if why["state"] not in ("BACKOFF", "FATAL") or not why["deaths"] or not _last(why)["code"]:
        return None
    found = re.search(_EXCEPTION, "".join(_last(why)["log_tail"][-1:]))
    return found[1] if found else None


def _next(why: Why) -> str | None:
    action, in_s = why["next_action"], why["next_action_in_s"]
    if action == "start":
        when = "when that is over" if in_s is None else f"in {_fine(in_s)}"
        return f"{_reckoning(why, in_s)}start {when}"
    if action != "none":
        return action if in_s is None else f"{action}, in {_fine(in_s)}"
    if why["state"] == "FATAL":
        return f"none by itself; supervisor start {why['name']} begins anew"
    return None


def _reckoning(why: Why, in_s: float | None) -> str:
    """Give the arithmetic of the next start, as far as there is one."""
    count = f"{amount(why['failures'], 'failure')} in {duration(why['window_s'])}"
    if why["state"] == "FATAL":
        return f"{count} of {why['max_failures']}: no start before fatal_retry -> "
    backoff = why["backoff"]
    if backoff is None or in_s is None:
        return ""
    return f"{count} of {why['max_failures']}; {_product(backoff)} -> next "


def _product(backoff: Backoff) -> str:
    first, times = _fine(backoff["first_s"]), backoff["doublings"]
    asked = backoff["first_s"] * 2.0 ** min(times, 64)
    most = f", at most {_fine(backoff['max_s'])}" if asked > backoff["max_s"] else ""
    power = f" x 2^{times}{most} = {_fine(backoff['delay_s'])}"
    return f"backoff {first}{power}, jitter {backoff['jitter'] * 100:g} %"


def _fine(seconds: float) -> str:
    """Give a time span to the tenth of a second where it is short."""
    return f"{seconds:.3g}s" if 0.1 <= seconds < 60 else duration(seconds)


def _death_line(death: Death) -> str:
    return f"{local(death['at'])}  {_how(death)}, after {duration(death['uptime_s'])}"


def _how(death: Death) -> str:
    """Say how a process ended, and why where that is known."""
    end = f"exit {death['code']}" if death["signal"] is None else f"killed by {death['signal']}"
    told = _HOW.get(death["cause"])
    if death["cause"] in ("asked", "recycled", "hung", "not-ready"):
        told = escape(death["why"]) or told
    return f"{told} ({end})" if told else end


def _last(why: Why) -> Death:
    return why["deaths"][-1]


def _last_death(why: Why) -> str:
    return why["deaths"][-1]["at"] if why["deaths"] else ""
