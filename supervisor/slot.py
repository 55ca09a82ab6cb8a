"""The seam: what the master hands to a child, and the words that they exchange.

`workers.runtime.main(slot)` gets a Slot; nothing else passes from the parent's world into the
child's. Lines go down the control pipe (master to child) and up the report pipe (child to
master); the end of the control pipe means that the master is dead.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from supervisor.board import Page
from supervisor.config import Job

STOP: Final = b"stop"
"""`stop REASON`: drain and leave; the reason is one of stop, recycle, reload."""

FAST: Final = b"fast"
"""What is in flight gets one second more, then the child leaves with exit code 1."""

FALLEN: Final = b"fallen"
"""`fallen JSON`: a sibling is dead; its leases are to be released now."""

QUIET: Final = b"quiet"
"""Take nothing new, finish what was begun, and stay alive."""

RESUME: Final = b"resume"
"""Take new work again."""

LEVEL: Final = b"level"
"""`level WORD`: send log records from this level on, as in `level debug`."""

READY: Final = b"ready"
"""The child can do its work. Sent once, and after each `unready`."""

UNREADY: Final = b"unready"
"""`unready WHY`: it runs, and cannot do its work for a reason outside of it."""

OVERDUE: Final = b"overdue"
"""A call of a handler has outlived `handler_timeout`: the child drains the rest and leaves."""

LOG: Final = b"log"
"""`log JSON`: one structured log record of the child itself."""


@dataclass(frozen=True, slots=True)
class Fallen:
    """A dead process of the same job: who it was, and what its handlers were working on."""

    owner: str
    suspects: tuple[int, ...]

    def encode(self) -> bytes:
        """Give the JSON that follows the word `fallen` on the control pipe."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, text: bytes) -> Fallen:
        """Read what `encode` wrote."""
        fields = json.loads(text)
        return cls(fields["owner"], tuple(fields["suspects"]))


@dataclass(frozen=True, slots=True)
class Slot:
    """One seat at the supervisor's table: the process that sits in it now, and its tools.

    A new process of a slot may take it as a fact that every earlier incarnation of the same slot
    is dead; the master guarantees it, over its own death too.
    """

    job: Job
    process: int
    incarnation: int
    supervisor: str
    instance: str
    state_dir: Path
    page: Page
    control_fd: int
    report_fd: int
    fallen: tuple[Fallen, ...] = ()
    quiet: bool = False
    rate_fd: int = -1

    @property
    def name(self) -> str:
        """Give the name of the process, as in `orders:0`."""
        return f"{self.job.name}:{self.process}"

    @property
    def seat(self) -> str:
        """Give what all incarnations of this slot share in the name of their leases."""
        return f"{self.instance}/{self.name}/"

    @property
    def owner(self) -> str:
        """Give the name under which this very process takes leases."""
        return f"{self.seat}{self.incarnation}"
