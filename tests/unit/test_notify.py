"""What systemd is told, and that nothing which is wrong with it ends the supervisor."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

from supervisor.notify import Listener, Notifier


def test_words_arrive_as_variables(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "n")
    Notifier(str(listener.path)).send("READY=1", "STATUS=2 of 2 = all", "nonsense")
    assert listener.take() == {"READY": "1", "STATUS": "2 of 2 = all"}
    assert listener.take() == {}
    listener.close()
    assert not (tmp_path / "n").exists()


def test_nobody_listens(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "nobody")).send("READY=1")
    Notifier("x" * 200).send("READY=1")
    Notifier(None).send("READY=1")


def test_without_descriptors_a_word_is_not_said(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "n")
    notifier = Notifier(str(listener.path))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        notifier.send("READY=1")
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    notifier.send("READY=2")
    assert listener.take() == {"READY": "2"}
    listener.close()


def test_the_folder_of_a_listener_may_be_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    listener = Listener(folder / "n")
    listener.path.unlink()
    folder.rmdir()
    folder.write_text("a file now")
    listener.close()
