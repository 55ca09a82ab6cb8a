"""100 reloads while a queue is consumed: jobs come, go, change, break; the others notice none.

What is asked of each reload is worked out here, by hand, and compared with what has become of the
processes: who was to be touched was, nobody else was, and what did not get ready is as before.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

RELOADS = 100
MESSAGES = 4_000

WORK = """
import time
from ledger import note

def handle(message, context):
    note("begin", message.id)
    time.sleep(0.005)
"""

WORKER = """
from workers import Worker

class Ready(Worker):
    def setup(self):
        if self.context.options["form"].startswith("broken"):
            raise RuntimeError("does not get ready")

    def run(self, context):
        context.wait(1e6)
"""

MODULES = {"ledger": SOURCE, "work": WORK, "ready": WORKER}

ORDERS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="work:handle",
    concurrency=2,
    processes=2,
    directory=".",
)


@dataclass(frozen=True)
class Form:
    """What the file says of one job."""

    word: str = "one"
    processes: int = 1
    backoff: int = 60

    def text(self, name: str) -> str:
        return section(
            name,
            target="ready:Ready",
            option_form=self.word,
            processes=self.processes,
            backoff=f"{self.backoff}s",
            backoff_max="100s",
        )


@dataclass
class World:
    """What the file says, what is in force, and how many forms there were."""

    forms: dict[str, Form] = field(default_factory=dict)
    made: int = 0

    def text(self) -> str:
        return ORDERS + "".join(form.text(name) for name, form in self.forms.items())

    def fresh(self) -> str:
        self.made += 1
        return f"form{self.made}"


def change(world: World, chance: random.Random) -> tuple[World, set[str], str | None]:
    """Give the next file, who is to be begun anew by it, and who fails."""
    forms = dict(world.forms)
    anew: set[str] = set()
    failing = None
    dice = chance.choice(["add", "remove", "change", "live", "scale", "break", "change", "live"])
    if dice == "add" and len(forms) < 8:
        forms[f"job{world.made}"] = Form(world.fresh(), chance.randint(1, 2))
    elif dice == "remove" and len(forms) > 3:
        del forms[chance.choice(sorted(forms))]
    elif dice == "live":
        name = chance.choice(sorted(forms))
        forms[name] = replace(forms[name], backoff=chance.randint(50, 90))
    elif dice == "scale":
        name = chance.choice(sorted(forms))
        forms[name] = replace(forms[name], processes=chance.randint(1, 3))
    else:
        for name in chance.sample(sorted(forms), chance.randint(1, 2)):
            forms[name] = replace(forms[name], word=world.fresh())
            anew.add(name)
        if dice == "break":
            failing = min(anew)
            forms[failing] = replace(forms[failing], word=f"broken{world.fresh()}")
    return World(forms, world.made), anew, failing


def test_no_reload_touches_what_it_does_not_change(supervise: Supervise) -> None:
    chance = random.Random(5)
    world = World({f"job{number}": Form(processes=1) for number in range(4)}, made=4)
    supervisor = supervise(world.text(), MODULES, start=False)
    ids = supervisor.publish("orders", MESSAGES)
    supervisor.start()
    consumers = [supervisor.pids()[f"orders:{number}"] for number in range(2)]
    ledger = Ledger(supervisor)
    before = _weight(supervisor.pid)
    broken_files = 0
    for turn in range(RELOADS):
        if turn % 5 == 4:
            broken_files += 1
            _break_the_file(supervisor, world, chance)
        else:
            world = _reload(supervisor, world, chance)
        assert [supervisor.pids()[f"orders:{number}"] for number in range(2)] == consumers
        if turn == RELOADS // 2:
            ids += supervisor.publish("orders", MESSAGES)
            half = _weight(supervisor.pid)
    assert broken_files == RELOADS // 5
    supervisor.configure(World({f"job{n}": Form() for n in range(4)}).text())
    assert not supervisor.call("reload")["errors"]
    eventually(lambda: len(ledger.pids("begin")) == len(ids))
    after = eventually(lambda: _is_as_light(supervisor.pid, before[0]))
    assert after[1] - half[1] < 3 << 20, "the memory of the second half"
    assert ledger.counts("begin") == Counter(ids), "each exactly once"
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert supervisor.errors() == ""


def _break_the_file(supervisor: Supervisor, world: World, chance: random.Random) -> None:
    before, status = supervisor.pids(), supervisor.status()["master"]["generation"]
    wrong = chance.choice(
        ["nonsense", "[daemon:x]\ntype = worker\ntarget = ready:None\n", "[daemon:y]\nkey = 1\n"]
    )
    supervisor.configure(world.text().replace("orders:", "other:") + wrong)
    report = supervisor.call("reload")
    assert report["errors"], report
    assert (report["applied"], report["jobs"]) == (False, [])
    assert supervisor.pids() == before
    assert supervisor.status()["master"]["generation"] == status


def _reload(supervisor: Supervisor, world: World, chance: random.Random) -> World:
    wanted, anew, failing = change(world, chance)
    before = supervisor.pids()
    supervisor.configure(wanted.text())
    report = supervisor.call("reload")
    assert (report["applied"], report["errors"]) == (True, []), report
    assert [one["name"] for one in report["failed"]] == ([failing] if failing else []), report
    if failing is not None:
        wanted.forms[failing] = world.forms[failing]
    rows: dict[str, Line] = {row["name"]: row for row in supervisor.status()["processes"]}
    expected = {f"{n}:{i}" for n, form in wanted.forms.items() for i in range(form.processes)}
    assert rows.keys() == expected | {"orders:0", "orders:1"}
    assert all(row["ready"] for row in rows.values()), "what failed is back on what it was"
    kept = {name for name, row in rows.items() if row["pid"] == before.get(name)}
    touched = {name for name in before if name in rows and name not in kept}
    allowed = {f"{name}:{number}" for name in anew for number in range(3)}
    assert touched <= allowed, f"{report}: {touched}"
    rolled = {name for name in anew if name != failing}
    assert {name.partition(":")[0] for name in touched} >= rolled
    return wanted


def _weight(pid: int) -> tuple[int, int]:
    """Give how many descriptors a process has, and its resident bytes."""
    return len(os.listdir(f"/proc/{pid}/fd")), kernel.resident_bytes(pid)


def _is_as_light(pid: int, descriptors: int) -> tuple[int, int]:
    weight = _weight(pid)
    # Our own connection may have counted before.
    assert weight[0] <= descriptors, f"{weight[0]} descriptors, {descriptors} before"
    return weight
