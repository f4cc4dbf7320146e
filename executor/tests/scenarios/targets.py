"""What checks look at: HTTP and TCP servers of every temper, on addresses of their own."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Answer(http.server.BaseHTTPRequestHandler):
    """/204 answers 204, and so on; /302 redirects to /200; /hang never answers."""

    def do_GET(self) -> None:
        if self.path == "/hang":
            self.connection.settimeout(60)
            self.connection.recv(1)
            return
        status = int(self.path.strip("/") or 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200")
        if status != 204:
            self.send_header("Content-Length", "2")
        self.end_headers()
        if status != 204:
            self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: standard error is pytest's."""


class _Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def http_server(*, ipv6: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a running HTTP server on the loopback address."""
    kind = _Six if ipv6 else http.server.ThreadingHTTPServer
    server = kind(("::1" if ipv6 else "127.0.0.1", 0), _Answer)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def tcp_open() -> Iterator[int]:
    """The port of a socket that accepts every connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener.getsockname()[1]


@contextmanager
def http_server_of_ipv4_alone() -> Iterator[int]:
    """A port that is bound over IPv6, where connections are refused: no server of IPv6 has its number."""
    while True:
        with http_server() as port, socket.socket(socket.AF_INET6) as holder:
            try:
                holder.bind(("::1", port))
            except OSError:  # somebody's by now
                continue
            yield port
            return


@contextmanager
def tcp_closed() -> Iterator[int]:
    """A port where connections are refused: it is bound, so that nobody else listens there meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def tcp_filtered() -> Iterator[int]:
    """A port where a SYN is not answered: the accept queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        fillers = []
        try:
            for _ in range(3):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
            yield port
        finally:
            for filler in fillers:
                filler.close()
