"""Taking connections from a listening socket, also when there is no descriptor left for one.

A full descriptor table leaves a connection in the queue, and its caller waiting. A descriptor is therefore
kept in reserve: it is given up for as long as it takes to accept the connection and close it, so that the
caller learns at once that nobody serves it here.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from dataclasses import dataclass, field

log = logging.getLogger("mesokit.node")

_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_QUIET_SECONDS = 60.0


@dataclass(slots=True)
class Seldom:
    """Warnings that a peer can cause as often as it likes: one of each kind a minute."""

    _last: dict[str, float] = field(default_factory=dict)

    def warn(self, kind: str, text: str, *arguments: object) -> None:
        """`kind` is one of a few words of ours, never a peer's."""
        now = time.monotonic()
        if now - self._last.get(kind, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._last[kind] = now
            log.warning(text, *arguments)


@dataclass(slots=True)
class Door:
    """Accepts connections for one thread at a time. `turned_away` counts those that there was no room for."""

    warnings: Seldom
    turned_away: int = 0
    _reserve: int = field(default_factory=lambda: os.open("/", os.O_RDONLY | os.O_CLOEXEC))

    def accept(self, listening: socket.socket) -> socket.socket | None:
        """A connection; None where there is none, or no room for it. Does not wait where `listening` does
        not.
        """
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return None
        except OSError as error:
            self.warnings.warn("accept", "cannot accept a connection: %s", error)
            if error.errno in _NO_ROOM:
                self._turn_away(listening)
            else:
                time.sleep(0.1)
            return None
        return connection

    def close(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _turn_away(self, listening: socket.socket) -> None:
        self.close()
        try:
            connection, _ = listening.accept()
            connection.close()
            self.turned_away += 1
        except OSError:
            time.sleep(0.1)  # another thread was quicker, or it is not descriptors that are missing
        finally:
            try:
                self._reserve = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._reserve = -1  # the next connection that finds no room waits in the queue
