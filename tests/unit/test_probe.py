"""The import check: it finds what is wrong, whatever a module does, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config import Config
from supervisor.loading import load
from supervisor.probe import probe, search_path

PATIENT_S = 30.0
"""A limit that no import of these tests comes near, however slow the machine."""


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    before = set(sys.modules)
    yield
    assert not any(name.startswith("shop") for name in set(sys.modules) - before)


def module(name: str, text: str) -> None:
    Path(f"etc/{name}.py").write_text(text)


def configuration(text: str) -> Config:
    Path("etc/w.ini").write_text(text)
    return load(Path("etc/w.ini"))


def worker(target: str, more: str = "") -> str:
    name = target.replace(":", ".").lower()
    return f"[daemon:{name}]\ntype = worker\ntarget = {target}\n{more}"


def queue(handler: str) -> str:
    return f"[daemon:q]\ntype = queue\nurl = sqlite:///q.db\ntopics = a\nhandler = {handler}\n"


def scheduled(handler: str) -> str:
    return f"[daemon:s]\ntype = scheduled\nhandler = {handler}\n"


def problem(text: str, timeout_s: float = PATIENT_S) -> str:
    (only,) = probe(configuration(text), timeout_s)
    return str(only)


def test_right_references_of_every_place_are_fine() -> None:
    module(
        "shop",
        "class Handler:\n"
        "    def handle(self, message, context): ...\n"
        "class Job:\n"
        "    def execute(self, context): ...\n"
        "class Batch:\n"
        "    def handle_batch(self, messages, context): ...\n"
        "class Space:\n"
        "    def run(context, *more): ...\n"
        "def handle(message, context): ...\n"
        "def job(context): ...\n",
    )
    text = worker("shop:job") + worker("shop:Space.run") + scheduled("shop:Job")
    more = "handler.a = shop:Batch\n"
    assert not probe(configuration(text + queue("shop:Handler") + more), PATIENT_S)
    assert not probe(configuration(scheduled("shop:job") + queue("shop:handle")), PATIENT_S)


def test_subclass_of_worker_is_a_target() -> None:
    Path("etc/workers").mkdir()
    module("workers/__init__", "class Worker:\n    def run(self, context): ...\n")
    module("shop", "from workers import Worker\nclass A(Worker): ...\nclass B: ...\n")
    found = problem(worker("shop:A") + worker("shop:B"))
    assert found == (
        "etc/w.ini:6: [daemon:shop.b] target: shop:B is a class, but no workers.Worker;"
        " derive it from that"
    )


def test_module_that_is_not_there_names_where_it_was_looked_for() -> None:
    assert problem(worker("shop.orders:run")) == (
        "etc/w.ini:3: [daemon:shop.orders.run] target: cannot import shop.orders:"
        " ModuleNotFoundError: No module named 'shop' (looked in: etc)"
    )


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("raise ValueError('a\\nb')", "cannot import shop: ValueError: a b (looked in: etc)"),
        ("import sys; sys.exit(3)", "cannot import shop: SystemExit: 3 (looked in: etc)"),
        ("def x(:", "cannot import shop: SyntaxError: "),
        ("raise ValueError('redis://:hush@h')", "ValueError: redis://:***@h"),
        ("runn = 1", "shop has no run; did you mean runn?"),
        ("run = 1", "shop:run is of type int; a function or a class is expected"),
        ("def run(): ...", "shop:run() does not take (context)"),
        ("import os; os._exit(0)", "the process ended at import with exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "the process was killed by SIGSEGV at import"),
        ("import os; os.closerange(3, 999); run = 1", "the process ended at import with exit code"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(body: str, what: str) -> None:
    module("shop", body)
    found = problem(worker("shop:run"))
    assert found.startswith("etc/w.ini:3: [daemon:shop.run] target: ")
    assert what in found
    assert "\n" not in found


def test_handler_class_needs_its_method() -> None:
    module("shop", "class A: ...")
    assert "shop:A is a class without handle or handle_batch" in problem(queue("shop:A"))
    assert "shop:A is a class without execute" in problem(scheduled("shop:A"))


def test_batches_need_a_handler_that_takes_a_list() -> None:
    module(
        "shop",
        "class A:\n    def handle(self, message, context): ...\n"
        "class B:\n    def handle_batch(self, messages, context): ...\n"
        "def handle(message, context): ...\n"
        "def handle_batch(messages, context): ...\n",
    )
    more = "batch = 5\n"
    assert "shop:A is a class without handle_batch" in problem(queue("shop:A") + more)
    found = problem(queue("shop:handle") + more)
    assert "shop:handle would get a list of messages, as batch is above 1" in found
    for name in ("B", "handle_batch"):
        assert not probe(configuration(queue(f"shop:{name}") + more), PATIENT_S)


def test_async_work_is_refused_with_the_cure() -> None:
    Path("etc/workers").mkdir()
    module("workers/__init__", "class Worker:\n    def run(self, context): ...\n")
    module(
        "shop",
        "from workers import Worker\n"
        "class A:\n    async def handle(self, message, context): ...\n"
        "class B:\n    async def execute(self, context): ...\n"
        "class C(Worker):\n    async def run(self, context): ...\n"
        "async def handle(message, context): ...\n"
        "async def run(context): ...\n",
    )
    for text in (queue("shop:A"), scheduled("shop:B"), worker("shop:C")):
        assert "is async; write a plain function that calls asyncio.run" in problem(text)
    for text in (queue("shop:handle"), scheduled("shop:run"), worker("shop:run")):
        assert "is async; write a plain function that calls asyncio.run" in problem(text)


def test_a_generator_is_refused_as_its_body_would_not_run() -> None:
    module(
        "shop",
        "class A:\n    def handle(self, message, context): yield\n"
        "class B:\n    def execute(self, context): yield\n"
        "def handle(message, context): yield\n"
        "def run(context): yield\n",
    )
    for text in (queue("shop:A"), scheduled("shop:B")):
        assert "is a generator; write a plain function, without yield" in problem(text)
    for text in (queue("shop:handle"), scheduled("shop:run"), worker("shop:run")):
        assert "is a generator; write a plain function, without yield" in problem(text)


def test_abstract_class_is_refused() -> None:
    module(
        "shop", "import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def handle(self): ..."
    )
    assert "shop:A leaves out handle; define it" in problem(queue("shop:A"))


def test_crash_of_one_module_does_not_hide_the_next() -> None:
    module("shop", "import os; os.abort()")
    module("shop2", "")
    found = probe(configuration(worker("shop:run") + worker("shop2:run")), PATIENT_S)
    assert [each.line for each in found] == [3, 6]
    assert "SIGABRT" in found[0].message


def test_import_that_waits_is_ended_with_its_children() -> None:
    module(
        "shop",
        "import os, signal\n"
        "ready, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    alive = os.open('etc/alive', os.O_WRONLY)\n"
        "    os.write(alive, b'here')\n"
        "    signal.pause()\n"
        "os.read(ready, 1)\n",
    )
    os.mkfifo("etc/alive")
    reader = os.open("etc/alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = problem(worker("shop:run"), 1.0)
        assert found.endswith("import took longer than 1s: a module must not wait at import")
        os.set_blocking(reader, True)
        assert os.read(reader, 9) in (b"here", b"")  # b"": ended before it could say so
        assert os.read(reader, 9) == b"", "its end closes the pipe"
    finally:
        os.close(reader)


def test_grandchild_that_keeps_the_pipe_delays_nothing() -> None:
    module(
        "shop",
        "import os, signal\n"
        "told, tell = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    signal.alarm(60)\n"
        "    open('etc/pid', 'w').write(str(os.getpid()))\n"
        "    os.write(tell, b'!')\n"
        "    signal.pause()\n"
        "os.read(told, 1)\n"
        "os._exit(7)\n",
    )
    assert "exit code 7" in problem(worker("shop:run"))
    os.kill(int(Path("etc/pid").read_text()), signal.SIGKILL)  # alive still, in its own session


def test_output_at_import_does_not_reach_ours(capfd: pytest.CaptureFixture[str]) -> None:
    module(
        "shop", "import os\nprint('x' * 99999, flush=True)\nos.write(2, b'noise')\ndef run(c): ..."
    )
    assert not probe(configuration(worker("shop:run")), PATIENT_S)
    assert capfd.readouterr() == ("", "")


def test_nonsense_in_the_pipe_is_stepped_over() -> None:
    module(
        "shop",
        "import os\n"
        "for fd in range(3, 64):\n"
        '    try: os.write(fd, b\'{"at": 99}\\n[]\\nxyz\\n{"wrong": 5}\\n\')\n'
        "    except OSError: pass\n"
        "def run(context): ...",
    )
    assert not probe(configuration(worker("shop:run")), PATIENT_S)


def test_module_sees_the_environment_and_directory_of_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    Path("etc/pw").write_text("hush\n")
    module(
        "shop",
        "import os\n"
        "assert os.environ['PW'] == 'hush'\n"
        "assert 'NOTIFY_SOCKET' not in os.environ\n"
        "assert os.getcwd().endswith('/etc')\n"
        "def run(context): ...",
    )
    module("shop2", "import os\nassert 'PW' not in os.environ\ndef run(context): ...")
    text = worker("shop:run", "directory = .\nenvironment = PW=${file:pw}\n")
    assert not probe(configuration(text + worker("shop2:run")), PATIENT_S)


def test_secret_file_that_is_missing_is_said() -> None:
    module("shop", "def run(context): ...")
    found = problem(worker("shop:run", "environment = PW=${file:gone}\n"))
    assert "not checked, as its environment or directory is not to be had" in found


def test_current_directory_is_no_place_to_import_from() -> None:
    Path("shop.py").write_text("def run(context): ...")
    assert "No module named 'shop'" in problem(worker("shop:run"))


def test_search_path_begins_with_the_configured_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "/lib/python", "/b"])
    assert search_path([Path("/a"), Path("/b")]) == ["/a", "/b", "/lib/python"]


def test_no_job_needs_no_child() -> None:
    assert probe(configuration(""), PATIENT_S) == ()
