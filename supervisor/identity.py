"""Users and groups of the machine: looked up once, when the configuration is read.

A lookup may ask a directory service and wait for it, so neither the master's loop nor a fork does
one. Source: the password and group files, as getpwnam(3) and getgrouplist(3) read them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


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

    found = _looked_up(text, getpwuid, getpwnam, "no user of this machine; make it (useradd)")
    groups = tuple(sorted(set(os.getgrouplist(found.pw_name, found.pw_gid))))
    shell = found.pw_shell or "/bin/sh"
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir or "/", shell, groups)


def group(text: str) -> Group:
    """Look a group up, by name or number. Raises: ValueError when there is none."""
    from grp import getgrgid, getgrnam

    found = _looked_up(text, getgrgid, getgrnam, "no group of this machine; make it (groupadd)")
    return Group(found.gr_name, found.gr_gid)


def _looked_up(
    text: str, by_number: Callable[[int], T], by_name: Callable[[str], T], nobody: str
) -> T:
    word = text.strip()
    is_number = word.isascii() and word.isdigit()
    try:
        return by_number(int(word)) if is_number else by_name(word)
    except (KeyError, OverflowError, ValueError):
        raise ValueError(f'"{word}" is {nobody}') from None
