"""The answers to queries about the service: HTTP on its socket, or on a port of the loopback address."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cni_plugins.node.metrics import Metrics


def http_answer(request: bytes, metrics: Metrics, threads: int, processes: Sequence[int]) -> bytes:
    """`GET /metrics` (Prometheus text) and `GET /status` (JSON); `processes` are those of the service, its
    own first.
    """
    words = request.split(b"\r\n", 1)[0].split()
    status, kind, body = "200 OK", "application/json", b""
    if len(words) < 2 or words[0] != b"GET":
        status, kind, body = "400 Bad Request", "text/plain", b"GET /metrics or GET /status\n"
    elif words[1] == b"/metrics":
        kind, body = (
            "text/plain; version=0.0.4",
            metrics.prometheus(threads, processes).encode(errors="backslashreplace"),
        )
    elif words[1] == b"/status":
        body = json.dumps(metrics.status(threads, processes)).encode() + b"\n"
    else:
        status, kind, body = "404 Not Found", "text/plain", b"there are /metrics and /status\n"
    head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
