"""Connected sockets to the agent, whatever lies between: TCP, TLS or a Unix socket.

A Unix socket's path is opened at every dial, because an agent that restarts binds a new socket at the
same path. A path of 108 bytes or more does not fit into sockaddr_un; it is reached through a descriptor
of its directory.
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from executor.config.settings import Endpoint
from executor.config.tls import TlsSettings

if TYPE_CHECKING:
    from executor.transport.tls import Context

MAX_UNIX_PATH = 107
"""Bytes of a path in sockaddr_un, its terminating zero not counted."""

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6
"""Seconds of silence, seconds between probes, and probes, after which a half-open connection counts as
lost."""


class DialError(OSError):
    """No connection; says to where and why."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """Makes connections to one endpoint. `timeout` (seconds) bounds connecting and the TLS handshake."""

    endpoint: Endpoint
    context: "Context | None"
    timeout: float

    @classmethod
    def of(cls, endpoint: Endpoint, settings: TlsSettings | None, timeout: float) -> "Dialler":
        """A dialler with its TLS context made. Raises ConfigError when a certificate or key cannot be
        used."""
        if settings is None or endpoint.socket is not None:
            return cls(endpoint, None, timeout)
        from executor.transport.tls import make_context  # noqa: PLC0415 (plain connections do without)

        return cls(endpoint, make_context(settings), timeout)

    def dial(self) -> socket.socket:
        """A connected socket without a timeout. Raises DialError."""
        try:
            sock = self._unix() if self.endpoint.socket is not None else self._tcp()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DialError(f"cannot connect to {self.endpoint.authority}: {reason}") from None
        sock.settimeout(None)
        return sock

    def _tcp(self) -> socket.socket:
        sock = socket.create_connection((self.endpoint.host, self.endpoint.port), self.timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
            return self.context.wrap(sock, self.endpoint.host) if self.context else sock
        except BaseException:
            sock.close()
            raise

    def _unix(self) -> socket.socket:
        path = self.endpoint.socket
        assert path is not None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            if len(os.fsencode(path)) <= MAX_UNIX_PATH:
                sock.connect(os.fsencode(path))
            else:
                directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    sock.connect(b"/proc/self/fd/%d/%s" % (directory, os.fsencode(path.name)))
                finally:
                    os.close(directory)
            return sock
        except BaseException:
            with contextlib.suppress(OSError):
                sock.close()
            raise
