"""The lease daemon as a process of its own: `mesokit dhcp`, and `dhcp daemon` as runtimes start the reference
plugins' daemon.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from cni_plugins.dhcp import daemon, protocol
from cni_plugins.dhcp.store import Store
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.roots import roots_from
from cni_plugins.store import sockets

log = logging.getLogger("mesokit.dhcp")

_SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_FLAGS = {"socketpath": True, "pidfile": True, "hostprefix": True, "timeout": True, "resendmax": True,
          "resendtimeout": True, "broadcast": False}  # fmt: skip
USAGE = "usage: dhcp daemon [-socketpath PATH] [-pidfile PATH] [-hostprefix PATH]"


@dataclass(frozen=True, slots=True)
class Options:
    """`socket` "" is that of the node service; `prefix` is where the host's files are seen."""

    socket: str = ""
    pidfile: str = ""
    prefix: str = ""
    verbose: bool = False


def parse(words: Sequence[str]) -> Options:
    """The options of the reference's `dhcp daemon`, in Go's manner (-name value, -name=value, two dashes as
    well). What sets its timeouts is accepted and has no meaning here. ValueError.
    """
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in _FLAGS:
            raise ValueError(f"{word!r} is no option of dhcp daemon; {USAGE}")
        if _FLAGS[name] and not equals:
            if not rest:
                raise ValueError(f"option -{name} needs a value; {USAGE}")
            value = rest.pop(0)
        found[name] = value
    socket_path = found.get("socketpath", "") or protocol.REFERENCE_SOCKET
    return Options(socket_path, found.get("pidfile", ""), found.get("hostprefix", ""))


def main(words: Sequence[str]) -> int:
    """`dhcp daemon` with the words after it; the exit status."""
    try:
        options = parse(words)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return run(options, os.environ)


def run(options: Options, env: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if options.verbose else logging.WARNING,
        format="mesokit-dhcp: %(levelname)s %(message)s",
    )
    os.umask(0o077)
    roots = roots_from(env)
    store = Store(roots, options.socket)
    path = protocol.socket_of(roots, options.socket)
    try:
        if store.claim() < 0:
            log.error("process %s keeps the leases of %s already", store.owner(), store.directory)
            return 1
        listening = _inherited(env) or _bound(path)
        if options.pidfile:
            Path(options.pidfile).write_text(f"{os.getpid()}\n", encoding="ascii")
    except (OSError, CniError) as error:
        log.error("cannot serve leases on %s: %s", path, error)
        return 1
    end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ended(_number: int, _frame: FrameType | None) -> None:
        os.eventfd_write(end, 1)

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    ours = None if _inherited_from(env) else sockets.identity(path)
    with listening:
        daemon.serve(store, listening, end, options.prefix)
    with contextlib.suppress(OSError):
        if ours is not None:
            sockets.remove(path, ours)
    with contextlib.suppress(OSError):
        if options.pidfile:
            Path(options.pidfile).unlink()
    return 0


def _inherited_from(env: Mapping[str, str]) -> bool:
    return env.get("LISTEN_PID") == str(os.getpid()) and env.get("LISTEN_FDS", "0") not in {"", "0"}


def _inherited(env: Mapping[str, str]) -> socket.socket | None:
    """The socket of a systemd unit (cni-dhcp.socket)."""
    if not _inherited_from(env):
        return None
    os.set_inheritable(_SYSTEMD_FIRST, False)
    listening = socket.socket(fileno=_SYSTEMD_FIRST)
    listening.setblocking(False)
    return listening


def _bound(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    return sockets.bind(path)
