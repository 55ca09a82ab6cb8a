"""An environment of their own for the peers, and the Redis server that some children talk to.

PyPI's Supervisor uses the same import name as ours, so it can never be installed beside it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PEERS = ("supervisor==4.3.0", "circus==0.19.0")
_SHARED = ("redis", "hiredis", "psycopg2-binary")
"""What the children import; of the same versions as in our environment."""


class Missing(Exception):
    """Something that a part of the bench needs is not there; says what to do."""


def python(name: str = "bench-venv", peers: Sequence[str] = PEERS) -> Path:
    """Give the interpreter of the peers, made and filled at the first call. Raises: Missing."""
    folder = ROOT / ".cache" / name
    interpreter = folder / "bin" / "python"
    wanted = [*peers, *(f"{name}=={metadata.version(name)}" for name in _SHARED)]
    contents = folder / "contents.txt"
    if contents.exists() and contents.read_text().split() == wanted:
        return interpreter
    say(f"making {folder.relative_to(ROOT)}: {' '.join(wanted)}")
    try:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(interpreter), "-m", "pip", "install", "--quiet", *wanted)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Missing(f"PyPI must be reachable to measure the peers: {' '.join(last)}") from error
    contents.write_text("\n".join(wanted))
    return interpreter


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server on a socket in the folder; gives its URL. Raises: Missing."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("apt-get install redis-server")
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir"]
    with subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise Missing("a redis-server that starts")
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            server.terminate()


def say(words: str) -> None:
    """Tell the user on stderr; stdout is the table's alone."""
    sys.stderr.write(f"bench: {words}\n")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
