"""Users by name: what setgroups, setgid and setuid are given, found before any process is made."""

import grp
import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to run as: `groups` are all groups, the primary one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class UnknownUserError(Exception):
    """No such user on this host."""


def resolve(name: str) -> Identity:
    """Look a user up by name, or by number where no name is meant ("1000").

    A number without an account is accepted as root would accept it elsewhere: gid equal to uid is not
    assumed, the group is then `nogroup` (65534). Raises UnknownUserError naming the user.
    """
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        if not (name.isascii() and name.isdigit() and int(name) < 2**32 - 1):
            raise UnknownUserError(f"user {name!r} does not exist on this host") from None
        try:
            entry = pwd.getpwuid(int(name))
        except KeyError:
            return Identity(name, int(name), _nogroup(), (_nogroup(),), "/")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def _nogroup() -> int:
    try:
        return grp.getgrnam("nogroup").gr_gid
    except KeyError:
        return 65534
