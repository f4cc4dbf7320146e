"""What plugin and lease daemon say to each other: a line of JSON each way over a Unix socket that only root
may use.

    {"watch": [NETWORK, CONTAINER, IFNAME]}    a lease was written: renew it
    {"ensure": [NETWORK, CONTAINER, IFNAME]}   renew it, if that is not done already
    {"forget": [NETWORK, CONTAINER, IFNAME]}   it has been given back
    {"list": true}                             all leases, as their files have them

A DHCPv6 lease is named by a fourth word, "ipv6"; that of a network's prefix has no CONTAINER ("").

Each answer has `daemon` (its process id) and `store` (its directory); `error` when it did not do it. (The
reference plugins' daemon speaks Go's net/rpc on its socket, which no other program reads.)
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cni_plugins.dhcp.lease6 import FAMILY
from cni_plugins.dhcp.store import Store, default_socket
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots

Key = tuple[Identity, int]  # of a lease: whose, and its family (4 or 6)
REFERENCE_SOCKET = "/run/cni/dhcp.sock"
LONGEST = 1 << 16
_SECONDS = 5.0
_WAY_OUT = (
    "start the node service (mesokit node; systemctl start mesokit-node), or a lease daemon of its own: "
    "mesokit dhcp"
)


def socket_of(roots: Roots, configured: str) -> Path:
    """Where the daemon listens that a configuration means: `daemonSocketPath`, else ours."""
    return roots.relocate(configured) if configured else default_socket(roots)


def ask(path: Path, message: dict[str, Any], seconds: float = _SECONDS) -> dict[str, Any]:
    """The daemon's answer. CniError 11 with the way out when there is none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except OSError as error:
        raise CniError(
            Code.TRY_AGAIN,
            f"error dialing DHCP daemon: dial unix {path}: connect: {(error.strerror or str(error)).lower()}",
            f"no lease daemon answers on {path} (ipam.daemonSocketPath); {_WAY_OUT}",
        ) from error
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "store" not in answer:
        raise CniError(
            Code.TRY_AGAIN,
            f"what listens on {path} (ipam.daemonSocketPath) is no lease daemon of this toolkit",
            f"the reference plugins' daemon serves its own plugin only; leave the key out, and {_WAY_OUT}",
        )
    if "error" in answer:
        raise CniError(Code.TRY_AGAIN, f"the lease daemon on {path} refuses: {answer['error']}")
    return answer


def names_of(key: Key) -> list[str]:
    """A lease as a message names it."""
    identity, version = key
    names = [identity.network, identity.container_id, identity.ifname]
    return names if version == 4 else [*names, FAMILY]


def key_of(names: Sequence[object]) -> Key:
    """The lease that a message names. ValueError."""
    words = [str(item) for item in names]
    if len(words) == 3 or (len(words) == 4 and words[3] == FAMILY):
        return Identity(*words[:3]), 4 if len(words) == 3 else 6
    raise ValueError(f"{words} names no lease")


def tell(path: Path, store: Store, verb: str, key: Key) -> None:
    """`watch`, `ensure` or `forget` a lease of `store`. CniError 11."""
    answer = ask(path, {verb: names_of(key)})
    require_same(path, store, answer)


def require_same(path: Path, store: Store, answer: dict[str, Any]) -> None:
    """CniError 11 when the daemon keeps other files than the plugin writes."""
    if answer["store"] != str(store.directory):
        raise CniError(
            Code.TRY_AGAIN,
            f"the lease daemon on {path} keeps its leases in {answer['store']}, not in {store.directory}",
            "start it with this very socket path and the same MESOKIT_ROOT",
        )
