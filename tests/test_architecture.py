"""The walls of the house: what may import what, and the habits that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports from the rows below its own only.
LAYERS = (
    "__main__",
    "entry",
    "cli",
    "init_command completion",
    "check_command",
    "launch blueprint log_commands hand_commands queue_commands dead_commands insight_commands",
    "importing",
    "effective watching",
    "frames screen",
    "workers_commands importers",
    "console supervisor explain",
    "verbs recycling",
    "crew reloading shutdown",
    "examination",
    "arrivals inquest rolling stacks client render nursery burial orders outside vigil precedence",
    "control capture probe preload rehearsal seat remains followers",
    "prerequisites reload connection loading",
    "agreement columns logs process descendants slot meters stream",
    "config child sink ring",
    "complaint passage",
    "location protocol seatlock outlet lines pidfile notify daemonize",
    "ini settings",
    "rights envfile dependencies places urls",
    "values",
    "loop states board memory rate selection gaps",
    "tallies",
    "signals errors secret kernel bytecode trust identity cgroups letters shapes dumps",
    "reading",
)

SEEN_BY_WORKERS = {
    f"supervisor.{name}"
    for name in (
        *("board", "bytecode", "client", "config", "errors", "letters", "loading", "slot"),
        "urls",
    )
}

SEEN_BY_SOURCES = {"workers.base", "workers.codec", "supervisor.errors"}

LINES = 450
# A clear long file beats two tangled short ones; each one here has its reason.
LONGER = {
    "supervisor/settings.py": "one table of every key, with its meaning",
    "supervisor/states.py": "half of it is the drawing and the meaning of the table",
    "supervisor/supervisor.py": "the story of the master, told in one piece",
    "workers/consumer.py": "the one loop, told in one piece",
    "tests/integration/test_control.py": "every harm that a client can mean",
}

FUNCTION_LINES = 60


def product() -> list[Path]:
    return [
        path for top in ("supervisor", "workers") for path in sorted((ROOT / top).rglob("*.py"))
    ]


def python() -> list[Path]:
    return product() + sorted((ROOT / "tests").rglob("*.py"))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(body: list[ast.stmt], *, inner: bool) -> Iterator[ast.stmt]:
    """Give the statements that run at import; with `inner` also those inside functions."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement
        if isinstance(statement, ast.FunctionDef) and not inner:
            continue
        for name in ("body", "orelse", "finalbody", "handlers"):
            for child in getattr(statement, name, []):
                nested = child.body if isinstance(child, ast.ExceptHandler) else [child]
                yield from statements(nested, inner=inner)


def imports(path: Path, *, inner: bool = True) -> set[str]:
    """Give the modules of ours that a file imports."""
    known = {module(other) for other in product()}
    found: set[str] = set()
    for statement in statements(tree(path).body, inner=inner):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{short(path)}: relative import"
            names = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= {name if name in known else str(statement.module) for name in names}
    return found & known - {"supervisor", "workers.sources"}


@pytest.mark.parametrize("path", sorted((ROOT / "supervisor").rglob("*.py")), ids=short)
def test_imports_of_the_supervisor_go_down(path: Path) -> None:
    if path.name == "__init__.py":
        assert not imports(path)
        return
    rows = {name: row for row, names in enumerate(LAYERS) for name in names.split()}
    room = module(path).split(".")[1]  # a file, or a folder whose files are in one row
    assert room in rows, "a new module needs its place in LAYERS"
    for name in imports(path):
        top, *rest = name.split(".")
        assert top == "supervisor", f"imports {name} statically"
        if not (rest[0] == room and "." in module(path).removeprefix("supervisor.")):
            assert rows[rest[0]] > rows[room], f"{room} imports {name}, which is not below it"


@pytest.mark.parametrize("path", sorted((ROOT / "workers").rglob("*.py")), ids=short)
def test_workers_see_little_of_the_supervisor(path: Path) -> None:
    seen = {name for name in imports(path) if name.startswith("supervisor.")}
    assert seen <= SEEN_BY_WORKERS


@pytest.mark.parametrize("path", sorted((ROOT / "workers/sources").glob("*.py")), ids=short)
def test_a_source_knows_base_only(path: Path) -> None:
    others = {name for name in imports(path) if not name.startswith("workers.sources.")}
    assert others <= SEEN_BY_SOURCES


def test_no_import_at_load_goes_in_a_circle() -> None:
    graph = {module(path): imports(path, inner=False) for path in product()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", python(), ids=short)
def test_nothing_sleeps_and_nothing_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            sleeps = ast.unparse(node) == "time.sleep"
            assert not sleeps, f"line {line}: wait for a fact instead"
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not silent, f"line {line}: an error is swallowed; name it in suppress()"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            broad = {"Exception", "BaseException"} & {ast.unparse(kind) for kind in node.args}
            assert not broad, f"line {line}: every error is swallowed"


@pytest.mark.parametrize("path", python(), ids=short)
def test_functions_and_files_can_be_read_at_one_go(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    longer = lines > LINES
    assert longer == (short(path) in LONGER), (
        f"{lines} lines; over {LINES} needs a reason in LONGER"
    )


def tracked() -> list[Path]:
    """Give the files of the repository; of a tree without git, the Python ones."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in names if path.is_file()] if done.returncode == 0 else python()


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    home = re.compile(r"/(?:home/[a-z]\w*|root|work)/[\w.]")
    found = [
        f"{short(path)}: {match[0]}"
        for path in tracked()
        if (match := home.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


def test_the_reference_in_readme_is_that_of_the_table() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = re.search(
        r"<!-- reference:begin -->\n(.*?)<!-- reference:end -->", text, flags=re.DOTALL
    )
    if between is None:
        assert "<!-- reference:begin -->" not in text, "the end mark is missing"
        return
    command = [sys.executable, "-m", "supervisor.settings"]
    table = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert between[1].strip() == table.strip(), "run: python -m supervisor.settings"


def test_no_two_test_files_have_one_name() -> None:
    # pytest imports them by their names alone, and would stop before the first test.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
