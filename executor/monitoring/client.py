"""Asking an executor's inspect endpoint."""

import json
import time
from pathlib import Path
from typing import Any

from executor.monitoring.address import connect

_MOST_ANSWER = 256 * 1024 * 1024
"""Bytes. Anybody may put a socket of that name into a directory and never come to an end."""


class InspectError(Exception):
    """No answer from a sandbox's executor; the text says why."""


def fetch(sandbox: Path, target: str = "/", timeout: float = 10.0) -> bytes:
    """The body of an answer, which has `timeout` seconds to come. Raises InspectError."""
    deadline = time.monotonic() + timeout
    try:
        with connect(sandbox, timeout) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: executor\r\n\r\n".encode())
            answer = bytearray()
            while chunk := connection.recv(65536):
                answer += chunk
                if len(answer) > _MOST_ANSWER or time.monotonic() > deadline:
                    raise InspectError(f"the executor in {sandbox} does not come to the end of its answer")
    except OSError as error:
        raise InspectError(f"no executor answers in {sandbox}: {error.strerror or error}") from None
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if " 200 " not in status:
        text = body.decode(errors="replace").strip()
        raise InspectError(f"the executor in {sandbox} answers {status!r}: {text}")
    return body


def look(sandbox: Path) -> dict[str, Any]:
    """The state of an executor, as document.ExecutorView names it. Raises InspectError."""
    try:
        document = json.loads(fetch(sandbox))
    except (ValueError, RecursionError) as error:
        raise InspectError(f"the executor in {sandbox} answers no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InspectError(f"the executor in {sandbox} answers no JSON object")
    return document
