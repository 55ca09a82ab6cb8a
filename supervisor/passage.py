"""Who may pass run_dir: its owner, and those for whom a socket in there is meant.

run_dir is 0700. The members of `socket_group`, and a program with a user of its own that says when
it is ready, have to get to their socket through it; they may pass and not look around. A folder
that lets them pass already, or that is of another group, is left as it is.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from supervisor.errors import SupervisorError


def for_group(folder: Path, gid: int) -> None:
    """Let the members of a group pass. Raises: SupervisorError when that cannot be."""
    if (shut := _shut_above(folder, gid)) is not None:
        raise SupervisorError(
            f"socket_group cannot get to run_dir {folder}, as {shut} is closed to it: "
            "choose another run_dir"
        )
    found = folder.stat()
    if found.st_mode & stat.S_IXOTH or (found.st_gid == gid and found.st_mode & stat.S_IXGRP):
        return
    if found.st_gid != gid and found.st_mode & stat.S_IRWXG:
        raise SupervisorError(
            f"run_dir {folder} is open to another group than socket_group: chgrp {gid} {folder}"
        )
    try:
        if found.st_gid != gid:
            os.chown(folder, -1, gid)
        folder.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXGRP)
    except OSError as error:
        raise SupervisorError(
            f"cannot let socket_group into run_dir {folder}: {error.strerror}"
        ) from None


def for_program(folder: Path, socket: Path, uid: int) -> None:
    """Let a program of another user reach its socket. Raises: OSError."""
    if (shut := _shut_above(folder, None)) is not None:
        words = f"closed to uid {uid}, whose NOTIFY_SOCKET lies in there; choose another run_dir"
        raise PermissionError(errno.EACCES, words, str(shut))
    os.chown(socket, uid, -1)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not mode & stat.S_IXOTH:
        folder.chmod(mode | stat.S_IXOTH | stat.S_IXGRP)


def _shut_above(folder: Path, gid: int | None) -> Path | None:
    """Give the folder above that lets neither everybody nor the group pass."""
    for above in reversed(folder.resolve().parents):
        found = above.stat()
        is_open = found.st_mode & stat.S_IXOTH
        if not is_open and not (found.st_gid == gid and found.st_mode & stat.S_IXGRP):
            return above
    return None
