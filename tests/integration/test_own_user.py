"""Rights and limits of a job, read back from the kernel; secrets that only their process knows."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.python_for_all import python_for_all

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a change of user needs root")

NOBODY = pwd.getpwnam("nobody")

SLEEPER = """
    [daemon:app]
    type = program
    command = sleep 100000
"""


def facts(pid: int, name: str) -> dict[str, str]:
    """Read a file of /proc that has a fact a line."""
    lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def limits(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def program(supervisor: Supervisor, name: str = "app:0", title: str = "sleep") -> int:
    """Wait for a program to be exec'd, and give its pid."""

    def look() -> int | None:
        pid = supervisor.process(name)["pid"]
        known = pid and Path(f"/proc/{pid}/comm").read_text().strip() == title
        return int(pid) if known else None

    return eventually(look)


def open_to_all(supervisor: Supervisor) -> Supervisor:
    """Let other users see the folder of the configuration, as they see /etc."""
    supervisor.folder.chmod(0o755)
    return supervisor


def test_a_user_and_his_limits_are_what_the_kernel_says(supervise: Supervise) -> None:
    supervisor = supervise(
        SLEEPER + "    user = nobody\n    umask = 027\n    nice = 5\n    cpu_affinity = 0\n"
        "    limit_nofile = 77\n    limit_core = 64KB\n    limit_memory = 1GB\n    directory = /\n"
        "    environment = B=2\n    env_file = app.env\n",
        {"app": ""},
        start=False,
    )
    open_to_all(supervisor).write("app.env", "A='1 #'\nB=1\n").chmod(0o644)
    supervisor.start()
    pid = program(supervisor)
    status = facts(pid, "status")
    uid, gid = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [gid] * 4
    assert status["Groups"].split() == [gid]
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    assert status["Umask"] == "0027"
    assert status["Cpus_allowed_list"] == "0"
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16] == "5"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    found = limits(pid)
    assert found["Max open files"] == ["77", "77"]
    assert found["Max core file size"] == ["65536", "65536"]
    assert found["Max address space"] == [str(1 << 30)] * 2
    env = environment(pid)
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == (NOBODY.pw_dir, "nobody", "nobody")
    assert (env["A"], env["B"]) == ("1 #", "2")


def test_a_group_alone_changes_no_user(supervise: Supervise) -> None:
    supervisor = supervise(SLEEPER + "    group = nogroup\n")
    status = facts(program(supervisor), "status")
    assert status["Uid"].split() == ["0"] * 4
    assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4


def test_without_the_supervisors_environment(supervise: Supervise) -> None:
    supervisor = supervise(
        SLEEPER + "    inherit_environment = false\n    environment = OWN=1\n",
        environment={"FOREIGN": "1", "LC_TIME": "C"},
    )
    env = environment(program(supervisor))
    assert env["OWN"] == "1"
    assert env["LC_TIME"] == "C"
    assert "FOREIGN" not in env
    assert set(env) >= {"PATH", "SUPERVISOR_CONF", "SUPERVISOR_PROCESS"}


WORKER = """
    [daemon:app]
    type = worker
    target = app:run
    user = nobody
    environment = HOME=/elsewhere
    backoff = 50ms
    max_failures = 1000
"""

RUN = """
    import os

    def run(context):
        ids = os.getresuid() + os.getresgid()
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            context.logger.info("I am %s, HOME %s", ids, os.environ["HOME"])
        context.wait(100000)
"""


def test_a_handler_runs_as_its_user_and_is_stopped_restarted_and_locked_out_like_any(
    supervise: Supervise,
) -> None:
    supervisor = open_to_all(supervise(WORKER, {"app": RUN}, start=False)).start()
    ids = (NOBODY.pw_uid,) * 3 + (NOBODY.pw_gid,) * 3
    supervisor.wait_line(f"I am {ids}, HOME /elsewhere")
    first = supervisor.process("app:0")["pid"]
    os.kill(first, 9)
    supervisor.wait_process("app:0", lambda row: row["ready"] and row["pid"] != first)
    report = supervisor.json("stop")
    assert report["killed"] == []


QUEUE = """
    [daemon:app]
    type = queue
    url = sqlite:///data/queue.db
    topics = t
    handler = app:handle
    user = nobody
"""


def test_a_queue_is_its_users_whoever_publishes_first(supervise: Supervise) -> None:
    supervisor = open_to_all(
        supervise(
            QUEUE,
            {
                "app": """
                import os
                import xml.dom.minidom
                from workers import publish

                def handle(message, context):
                    if message.data == 1:
                        publish("t", 2)
                    context.logger.info("%s as %d", message.data, os.getuid())
                """
            },
            settings={"preload": "none"},
            start=False,
        )
    )
    data = supervisor.folder / "data"
    data.mkdir()
    os.chown(data, NOBODY.pw_uid, NOBODY.pw_gid)
    done = supervisor.cli("publish", "t", "1")
    assert done.returncode == 0, done.stderr
    supervisor.start(within=python_for_all())
    for number in (1, 2):
        supervisor.wait_line(f"{number} as {NOBODY.pw_uid}")
    assert supervisor.cli("publish", "t", "3").returncode == 0
    supervisor.wait_line(f"3 as {NOBODY.pw_uid}")
    assert {path.stat().st_uid for path in data.iterdir()} == {NOBODY.pw_uid}


def test_a_folder_that_its_user_may_not_use_is_told(supervise: Supervise) -> None:
    supervisor = open_to_all(
        supervise(
            QUEUE + "    backoff = 1000s\n    backoff_max = 1000s\n",
            {"app": "def handle(message, context): pass\n"},
            start=False,
        )
    )
    (supervisor.folder / "data").mkdir()
    supervisor.start(wait=False, within=python_for_all())
    supervisor.wait_line(lambda line: line["level"] == "error" and "queue.db" in line["message"])


def test_a_child_that_dropped_its_rights_dies_with_its_master(supervise: Supervise) -> None:
    supervisor = open_to_all(supervise(SLEEPER + "    user = nobody\n", start=False)).start()
    pid = program(supervisor)
    supervisor.kill()
    eventually(lambda: pid not in supervisor.tree())


@pytest.mark.parametrize(("keys", "owner"), [("", 0), ("limit_core = 1MB", NOBODY.pw_uid)])
def test_who_may_write_a_core_may_be_looked_at(supervise: Supervise, keys: str, owner: int) -> None:
    supervisor = open_to_all(supervise(f"{WORKER}    {keys}\n", {"app": RUN}, start=False)).start()
    assert Path(f"/proc/{supervisor.process('app:0')['pid']}/environ").stat().st_uid == owner


def without_root() -> tuple[str, ...]:
    """Give the words before a command that run it as nobody."""
    ids = ("--reuid", str(NOBODY.pw_uid), "--regid", str(NOBODY.pw_gid), "--clear-groups")
    if shutil.which("setpriv") is None:
        pytest.skip("needs: apt-get install util-linux")
    return (*python_for_all(), "setpriv", *ids)


def of_nobody(supervisor: Supervisor) -> Supervisor:
    """Let nobody run it: what it writes is his."""
    open_to_all(supervisor)
    for folder in (supervisor.run_dir, supervisor.state_dir):
        folder.mkdir(mode=0o700)
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    return supervisor


def test_without_root_a_job_may_have_the_supervisors_own_user(supervise: Supervise) -> None:
    keys = f"    user = {NOBODY.pw_uid}\n    group = {NOBODY.pw_gid}\n    limit_nofile = 99\n"
    supervisor = of_nobody(supervise(SLEEPER + keys, start=False)).start(within=without_root())
    pid = program(supervisor)
    assert facts(pid, "status")["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert limits(pid)["Max open files"] == ["99", "99"]


def test_without_root_another_user_is_one_clear_error(supervise: Supervise) -> None:
    supervisor = of_nobody(supervise(SLEEPER + "    user = root\n", start=False))
    supervisor.start(wait=False, within=without_root())
    assert supervisor.wait_exit() == 78
    assert re.fullmatch(
        r".*test.ini:\d+: \[daemon:app\] user: to run as root needs root; .*\n", supervisor.errors()
    )


def test_a_memory_limit_is_an_ordinary_failure(supervise: Supervise) -> None:
    supervisor = supervise(
        """
        [daemon:app]
        type = worker
        target = app:run
        limit_memory = 400MB
        backoff = 100s
        backoff_max = 100s
        """,
        {"app": "def run(context):\n    bytearray(2 << 30)\n"},
        start=False,
    ).start(wait=False)
    supervisor.wait_line("MemoryError")
    row = supervisor.wait_state("app:0", "BACKOFF")
    assert row["last_exit"]["cause"] == "exited"


def test_a_wrong_file_of_variables_is_told_at_its_line_and_nothing_starts(
    supervise: Supervise,
) -> None:
    supervisor = supervise(SLEEPER + "    env_file = app.env\n", start=False)
    supervisor.write("app.env", "A=1\nhunter2\n")
    done = supervisor.cli("check")
    assert done.returncode == 78
    assert re.search(r"test.ini:\d+: \[daemon:app\] env_file: .*app.env:2: neither", done.stderr)
    assert "hunter2" not in done.stderr + done.stdout
    assert supervisor.cli("start").returncode == 78


def test_a_file_of_variables_that_its_user_may_not_read(supervise: Supervise) -> None:
    supervisor = open_to_all(
        supervise(SLEEPER + "    user = nobody\n    env_file = app.env\n", start=False)
    )
    supervisor.write("app.env", "A=1\n").chmod(0o600)
    done = supervisor.cli("check")
    assert done.returncode == 78
    assert "Permission denied; the job's user has to read it" in done.stderr


def test_handlers_are_checked_as_the_user_of_their_job(supervise: Supervise) -> None:
    module = "import os\nassert os.getuid() == {}, os.getuid()\ndef run(context): pass\n"
    jobs = "".join(
        f"[daemon:{name}]\ntype = worker\ntarget = {name}:run\nuser = {name}\n"
        for name in ("root", "nobody")
    )
    supervisor = open_to_all(
        supervise(
            jobs,
            {"root": module.format(0), "nobody": module.format(NOBODY.pw_uid)},
            start=False,
        )
    )
    done = supervisor.cli("check")
    assert done.returncode == 0, done.stderr


def test_a_handler_that_another_could_write_is_not_even_imported(supervise: Supervise) -> None:
    supervisor = supervise(
        "[daemon:app]\ntype = worker\ntarget = app:run\n",
        {"app": "open('imported', 'w')\ndef run(context): pass\n"},
        start=False,
    )
    (supervisor.folder / "app.py").chmod(0o646)
    for command in ("check", "start"):
        done = supervisor.cli(command)
        assert done.returncode == 78
        assert re.search(r"\[daemon:app\] target: .*app.py may be written by", done.stderr)
        assert done.stderr.count("\n") == 1
    assert not (supervisor.folder / "imported").exists()


# Secrets


def memory(pid: int) -> Iterator[bytes]:
    """Give every piece of a process's memory that can be read."""
    with Path(f"/proc/{pid}/mem").open("rb", 0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, mode, *_ = line.split()
            if mode[0] != "r" or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(word, 16) for word in place.split("-"))
            try:
                mem.seek(start)
                yield mem.read(end - start)
            except (OSError, ValueError):
                continue  # a mapping beyond the end of its file


def in_memory(pid: int, text: bytes) -> bool:
    return any(text in piece for piece in memory(pid))


KEEPERS = """
    [daemon:app]
    type = worker
    target = app:run
    user = nobody
    option.token = ${file:token}
    environment = APP_TOKEN=${file:token}
    env_file = app.env

    [daemon:other]
    type = worker
    target = app:other

    [daemon:shell]
    type = program
    command = sleep 100000
"""

KEEPING = """
    import os

    def run(context):
        token = context.options["token"]
        assert os.environ["APP_TOKEN"] == token
        both = token + os.environ["FILE_TOKEN"]
        context.logger.info("got %d characters", len(both))
        context.wait(100000)

    def other(context):
        context.wait(100000)
"""


def test_a_secret_is_in_no_other_process(supervise: Supervise) -> None:
    supervisor = open_to_all(supervise(KEEPERS, {"app": KEEPING}, start=False))
    hidden = [secrets.token_hex(24), secrets.token_hex(24)]
    path = supervisor.write("token", hidden[0] + "\n")
    path.chmod(0o400)
    os.chown(path, NOBODY.pw_uid, -1)
    path = supervisor.write("app.env", f"FILE_TOKEN={hidden[1]}\n")
    path.chmod(0o640)
    os.chown(path, 0, NOBODY.pw_gid)
    supervisor.start()
    supervisor.wait_line("got 96 characters")
    program(supervisor, "shell:0")
    pids = supervisor.pids()
    pids["master"] = supervisor.pid
    for secret in hidden:
        knows = {name for name, pid in pids.items() if in_memory(pid, secret.encode())}
        assert knows == {"app:0"}
        for pid in supervisor.tree():
            assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    answers = [
        supervisor.cli(*words.split()).stdout
        for words in (
            "status --json",
            "check --json",
            "check --show",
            "why app --json",
            "logs app",
            "events",
            "logs master -n 500",
        )
    ]
    told = "".join(answers) + supervisor.log_path.read_text() + supervisor.errors()
    assert not [secret for secret in hidden if secret in told]
