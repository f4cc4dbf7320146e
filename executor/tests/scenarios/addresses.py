"""Where a scripted agent listens.

Addresses are 127.x.y.z, drawn at random: the port of an agent that is down can be taken neither by another
test nor by an outgoing connection.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

PORT = 5051


def _loopback() -> str:
    draw = random.SystemRandom()
    return ".".join(["127", *(str(draw.randint(1, 254)) for _ in range(3))])


@dataclass(frozen=True, slots=True)
class Tcp:
    """ip:port, with TLS when a context is given."""

    ip: str = field(default_factory=_loopback)
    port: int = PORT
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Unix:
    """A socket file, of any path length."""

    path: Path


def listen(where: Tcp | Unix) -> socket.socket:
    """A listening socket there. Raises OSError."""
    if isinstance(where, Tcp):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((where.ip, where.port))
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A path of 108 bytes and more cannot be bound; its directory's descriptor makes it short.
        directory = os.open(where.path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{where.path.name}")
        finally:
            os.close(directory)
        where.path.chmod(0o777)
    listener.listen(64)
    return listener
