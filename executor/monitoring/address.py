"""The socket's name, and how to reach it where the sandbox's path is longer than a socket address may be
(108 bytes).

Sandboxes commonly are: the path holds five ids. So the directory is opened and the socket named through the
descriptor, /proc/self/fd/N/mesokit.sock, which is short whatever the path.
"""

import os
import socket
from pathlib import Path

from executor.output.directory import Directory

NAME = "mesokit.sock"


def listen(directory: Directory) -> socket.socket:
    """A listening socket in `directory`, for its owner only; one that is left from before is replaced.

    Raises OSError.
    """
    directory.remove(NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(directory.reach(NAME))
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


def connect(directory: Path, timeout: float) -> socket.socket:
    """A connection to the executor of a sandbox. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{NAME}")
        finally:
            os.close(descriptor)
    except OSError:
        connection.close()
        raise
    return connection
