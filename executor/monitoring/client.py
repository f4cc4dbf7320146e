"""Asking an executor's inspect endpoint, a Unix socket in its sandbox.

A sandbox's path is commonly longer than a socket address may be (108 bytes): it holds five ids. So the
directory is opened and the socket named through the descriptor, /proc/self/fd/N/mesokit.sock, which is short
whatever the path.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from executor.http1 import Answer, Budget, Client, HttpError

NAME = "mesokit.sock"

_BUDGET = Budget(body=256 * 1024 * 1024)
"""Anybody may put a socket of that name into a directory and never come to an end."""

_MAX_SHOWN = 500
"""Characters of an answer that is no document, in an error."""


class InspectError(Exception):
    """No answer from a sandbox's executor; the text says why."""


def fetch(sandbox: Path, target: str = "/", timeout: float = 10.0) -> bytes:
    """The body of an answer, which has `timeout` seconds to come. Raises InspectError."""
    deadline = time.monotonic() + timeout
    try:
        with connect(sandbox, timeout) as connection:
            status, body = _ask(connection, target, deadline)
    except TimeoutError:
        raise InspectError(f"the executor in {sandbox} does not come to the end of its answer") from None
    except OSError as error:
        raise InspectError(f"no executor answers in {sandbox}: {error.strerror or error}") from None
    except HttpError as error:
        raise InspectError(f"the executor in {sandbox} answers what is no HTTP: {error}") from None
    if status != 200:
        text = body[:_MAX_SHOWN].decode(errors="replace").strip()
        raise InspectError(f"the executor in {sandbox} answers with status {status}: {text}")
    return body


def look(sandbox: Path, timeout: float = 10.0) -> dict[str, Any]:
    """The state of an executor, as snapshot.ExecutorView names it. Raises InspectError."""
    try:
        document = json.loads(fetch(sandbox, timeout=timeout))
    except (ValueError, RecursionError) as error:
        raise InspectError(f"the executor in {sandbox} answers no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InspectError(f"the executor in {sandbox} answers no JSON object")
    return document


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


def _ask(connection: socket.socket, target: str, deadline: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError, TimeoutError after the deadline, and HttpError."""
    http = Client(_BUDGET)
    connection.sendall(http.request("GET", target, [("Host", "executor"), ("Connection", "close")]))
    status, body = 0, bytearray()
    while not http.ended:
        piece = http.next()
        if isinstance(piece, Answer):
            status = piece.status
        elif piece is not None:
            body += piece
        else:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            http.receive(connection.recv(65536))
    return status, bytes(body)
