"""Users and groups of the machine: looked up once, when the configuration is read.

A lookup may ask a directory service and wait for it, so neither the master's loop nor a fork does
one. Source: the password and group files, as getpwnam(3) and getgrouplist(3) read them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user with all that a process of his has: his groups, `gid` among them, and his home."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of users."""

    name: str
    gid: int


def user(text: str) -> User:
    """Look a user up, by name or number. Raises: ValueError when there is none."""
    from pwd import getpwnam, getpwuid  # most configurations name nobody

    word = text.strip()
    try:
        found = getpwuid(int(word)) if _is_number(word) else getpwnam(word)
    except (KeyError, OverflowError, ValueError):
        raise ValueError(f'"{word}" is no user of this machine; make it (useradd)') from None
    groups = tuple(sorted(set(os.getgrouplist(found.pw_name, found.pw_gid))))
    shell = found.pw_shell or "/bin/sh"
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir or "/", shell, groups)


def group(text: str) -> Group:
    """Look a group up, by name or number. Raises: ValueError when there is none."""
    from grp import getgrgid, getgrnam

    word = text.strip()
    try:
        found = getgrgid(int(word)) if _is_number(word) else getgrnam(word)
    except (KeyError, OverflowError, ValueError):
        raise ValueError(f'"{word}" is no group of this machine; make it (groupadd)') from None
    return Group(found.gr_name, found.gr_gid)


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()
