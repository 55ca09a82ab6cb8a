"""A Python that every user can read, where the one of the tests lies in a home of its own.

A process that becomes another user loses what lies in /root or a home of mode 0700, the library of
Python with it. In a mount namespace of its own the folders on the way are replaced by open ones.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.lacks import MachineLacks

REPOSITORY = Path(__file__).resolve().parents[2]

_SCRIPT = """
set -eu
shut=$1 count=$2
shift 2
mount --make-rprivate /
kept=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$kept"
number=0
for place in "${@:1:$count}"; do
  number=$((number + 1))
  mkdir "$kept/$number"
  mount --bind "$place" "$kept/$number"
done
mount -t tmpfs -o mode=755 tmpfs "$shut"
number=0
for place in "${@:1:$count}"; do
  number=$((number + 1))
  mkdir -p "$place"
  mount --bind "$kept/$number" "$place"
done
umount -l "$kept"
rmdir "$kept"
shift "$count"
exec "$@"
"""


@cache
def python_for_all() -> tuple[str, ...]:
    """Give the words before a command that lets every user read our Python; maybe none."""
    needed = {Path(place) for place in (sys.base_prefix, sys.prefix, REPOSITORY)}
    shut = {folder for place in needed if (folder := _shut_folder(place)) is not None}
    if not shut:
        return ()
    if len(shut) > 1:
        raise MachineLacks(f"Python and the tests lie in several closed folders: {shut}")
    (folder,) = shut
    inside = sorted(str(place) for place in needed if place.is_relative_to(folder))
    words = ("unshare", "--mount", "bash", "-c", _SCRIPT, "bash", str(folder), str(len(inside)))
    probe = subprocess.run([*words, *inside, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("Python lies in a closed folder, and no mount namespace may be made here")
    return (*words, *inside)


def _shut_folder(place: Path) -> Path | None:
    """Give the first folder on the way that others may not enter."""
    for folder in reversed((place, *place.parents)):
        if not os.stat(folder).st_mode & stat.S_IXOTH:
            return folder
    return None
