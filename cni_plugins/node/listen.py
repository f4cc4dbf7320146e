"""The service's listening socket: from systemd, from a predecessor, or made here.

A socket outlives the process that serves it wherever it can, so that no launcher ever finds the door shut:
systemd keeps it over a restart, and a service that starts while another runs is given the other's
(SCM_RIGHTS).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from enum import Enum
from pathlib import Path

from cni_plugins.node.wire import HANDOVER, receive_descriptors
from cni_plugins.store.sockets import bind

_SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_HANDOVER_SECONDS = 5.0


class Origin(Enum):
    """Where the socket came from, and with that who removes it from the file system."""

    SYSTEMD = "systemd"
    PREDECESSOR = "predecessor"
    OWN = "own"


class ListenError(Exception):
    """No socket to listen on; the sentence says why."""


def obtain(
    path: Path, env: MutableMapping[str, str], descriptor: int = _SYSTEMD_FIRST
) -> tuple[socket.socket, Origin]:
    """The listening socket, non-blocking. Takes LISTEN_* out of `env`. Raises ListenError."""
    pid, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if pid == str(os.getpid()) and count:
        if count != "1":
            raise ListenError(f"LISTEN_FDS={count}: the unit must have one ListenStream=, {path}")
        return _adopt(descriptor), Origin.SYSTEMD
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        handed = _ask_predecessor(path)
        return (handed, Origin.PREDECESSOR) if handed else (bind(path), Origin.OWN)
    except OSError as error:
        raise ListenError(f"cannot listen on {path}: {error.strerror or error}") from error


def _adopt(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    listening = socket.socket(fileno=descriptor)
    listening.setblocking(False)
    return listening


def _ask_predecessor(path: Path) -> socket.socket | None:
    """The socket of a service that listens on `path` now; None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_HANDOVER_SECONDS)
        try:
            asking.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        asking.sendall(HANDOVER)
        _, descriptors = receive_descriptors(asking, 16, 1)
    if not descriptors:
        raise ListenError(f"systemd holds {path}, and its service runs: systemctl restart mesokit-node")
    return _adopt(descriptors[0])
