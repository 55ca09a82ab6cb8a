"""A file in which the processes of a supervisor under test write down what they do.

`SOURCE` is put beside the configuration as the module `ledger`, for handlers and programs alike;
`Ledger` reads it. Each line is one write: `WORD… PID`. `sit` looks whether an earlier process of
the same slot lives, and writes `twin` if so: that is how two of one kind would be seen at any
instant, by the one who comes second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually

SOURCE = '''
import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
PATH = os.path.join(FOLDER, "ledger")

def note(*words):
    """Append the words and our pid in one write."""
    line = " ".join(map(str, (*words, os.getpid()))) + "\\n"
    fd = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, line.encode())
    os.close(fd)

def sit(slot):
    """Say that we are the process of this slot now, and who else is still there."""
    for line in _lines():
        words = line.split()
        if words[:2] == ["sit", slot] and _birth(words[-1]) == words[2]:
            note("twin", slot, words[-1])
    join(slot)

def join(slot):
    """Say that we were begun by the process of this slot, and count as a part of it."""
    note("sit", slot, _birth(os.getpid()))

def has(*words):
    """Look for a line that begins with these words."""
    start = " ".join(map(str, words)) + " "
    return any(line.startswith(start) for line in _lines())

def is_open(gate):
    """Say whether the test has opened this gate."""
    return os.path.exists(os.path.join(FOLDER, gate))

def _lines():
    try:
        with open(PATH) as file:
            return [line for line in file if line.endswith("\\n")]
    except FileNotFoundError:
        return []

def _birth(pid):
    """Give the start time of a living process: with its pid, a name for ever."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
'''


def counts(lines: Iterable[list[str]], word: str) -> Counter[str]:
    """Count what follows a first word in these lines: `begin ID PID`, `end ID PID`."""
    return Counter(line[1] for line in lines if line[0] == word)


class Ledger:
    """Reads what the processes of one supervisor have written down."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def lines(self) -> list[list[str]]:
        """Give each whole line as its words, oldest first."""
        text = self._supervisor.read("ledger")
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    def pids(self, *words: str) -> list[int]:
        """Give who wrote the lines that begin with these words, oldest first."""
        return [int(line[-1]) for line in self.lines() if tuple(line[: len(words)]) == words]

    def counts(self, word: str) -> Counter[str]:
        """Count what follows a first word."""
        return counts(self.lines(), word)

    def wait(self, *words: str, count: int = 1, timeout_s: float = PATIENCE_S) -> list[int]:
        """Wait for so many lines that begin with these words; give who wrote them."""
        return eventually(self._enough(words, count), timeout_s)

    def index(self, *words: str, nth: int = 0) -> int:
        """Give the place of the nth such line among all."""
        places = [at for at, line in enumerate(self.lines()) if tuple(line[: len(words)]) == words]
        return places[nth]

    def open(self, gate: str) -> None:
        """Let those go on that ask `is_open(gate)`."""
        self._supervisor.write(gate, "")

    def no_twins(self) -> bool:
        """Tell whether no process ever met another one of its slot."""
        return not self.pids("twin")

    def _enough(self, words: tuple[str, ...], count: int) -> Callable[[], list[int]]:
        def look() -> list[int]:
            found = self.pids(*words)
            assert len(found) >= count, f"no {count} lines {words} in {self.lines()[-30:]}"
            return found

        return look
