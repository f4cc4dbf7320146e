"""Asking a running service over its socket: for `mesokit node status`."""

from __future__ import annotations

import json
import os
import time
from _socket import AF_UNIX, SOCK_STREAM, socket
from contextlib import closing
from pathlib import Path
from typing import Any

from cni_plugins.spec.roots import roots_from

_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


def socket_path() -> Path:
    """Where launchers look for the service; the launcher builds the same path."""
    return roots_from(os.environ).run / "node.sock"


class NotRunning(Exception):
    """No service listens there."""


def get(path: Path, resource: str) -> bytes:
    """The body of `GET resource`. A service that has no room for the moment drops whoever asks: it is asked
    again for a while. Raises NotRunning; OSError when it does not answer.
    """
    deadline = time.monotonic() + _SECONDS
    while not (answer := _exchange(path, resource)):
        if time.monotonic() > deadline:
            raise OSError(f"{path}: the node service drops every query; it may be overloaded")
        time.sleep(_PAUSE_SECONDS)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.0 200"):
        raise OSError(f"{path}: {head[:80].decode(errors='replace')}")
    return body


def _exchange(path: Path, resource: str) -> bytes:
    """The whole answer, b"" from a service that hung up."""
    with closing(socket(AF_UNIX, SOCK_STREAM)) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"no node service listens on {path}; start one with: mesokit node") from error
        except OSError as error:
            error.filename = os.fspath(path)
            raise
        try:
            connection.sendall(f"GET {resource} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
            return answer
        except (BrokenPipeError, ConnectionResetError):
            return b""


def status(path: Path) -> dict[str, Any]:
    answer = json.loads(get(path, "/status"))
    assert isinstance(answer, dict)
    return answer
