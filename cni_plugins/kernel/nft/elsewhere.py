"""Changes of nf_tables in other network namespaces than this process's.

The kernel tells them to a socket here for every namespace that has a number here, as ip-netns(8) `set` gives.
A number keeps no namespace alive, which a socket inside would, and goes with it. Sources: netlink(7),
NETLINK_LISTEN_ALL_NSID (Linux 4.2, with CAP_NET_BROADCAST); linux/net_namespace.h.
"""

import errno
import struct
from _socket import socket

from cni_plugins.kernel.netlink.codec import attribute
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.kernel.nft.changes import subscribed
from cni_plugins.spec.namespace import Namespace

_LISTEN_ALL_NSID = 8
_RTM_NEWNSID, _NETNSA_NSID, _NETNSA_FD = 88, 1, 3
_ANY_NUMBER = struct.pack("=i", -1)
_RECEIVE, _QUEUE, _CONTROL = 1 << 16, 1 << 18, 64


def give_number(netlink: Netlink, namespace: Namespace) -> None:
    """Let the namespace have a number in that of `netlink`: changes there are told of. CniError 999."""
    body = bytes(4) + attribute(_NETNSA_FD, struct.pack("=I", namespace.fd))
    body += attribute(_NETNSA_NSID, _ANY_NUMBER)
    doing = f"number the network namespace {namespace.path}"
    netlink.request(Message(doing, _RTM_NEWNSID, 0, body, allow=frozenset((errno.EEXIST,))))


class Elsewhere:
    """What is told from now on."""

    __slots__ = ("_socket",)

    def __init__(self, opened: socket) -> None:
        self._socket = opened

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """Whether a ruleset has changed since the last call, or news were lost. Never waits."""
        told = False
        while True:
            try:
                _, control, _, _ = self._socket.recvmsg(_RECEIVE, _CONTROL)
            except BlockingIOError:
                return told
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return told
                told = True
                continue
            told = told or bool(control)  # what is of this namespace has no number


def listen() -> Elsewhere | None:
    """Begin to hear; None where the kernel cannot tell."""
    opened = subscribed(_QUEUE, _LISTEN_ALL_NSID)
    return None if opened is None else Elsewhere(opened)
