"""Telling a network that an address has moved to another MAC address: gratuitous ARP, unsolicited neighbour
advertisements.

The kernel makes them for every address of an interface whose MAC address is set, be it to what it is, where
arp_notify and ndisc_notify say so (see interface.notify). It is asked when the caller has its answer: a frame
to everybody costs time for every port of a bridge.
"""

import fcntl
import struct
from _socket import AF_UNIX, SOCK_DGRAM, socket
from collections.abc import Callable
from contextlib import closing, suppress

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_SIOCSIFHWADDR, _SIOCGIFHWADDR = 0x8924, 0x8927  # netdevice(7)


def prepared(namespace: Namespace, name: str) -> Callable[[], None]:
    """A function that announces the addresses of an interface and is done with; it never raises, and does
    nothing when the interface has gone. CniError 999 if no socket can be had for it.

    The MAC address is that of the moment of sending: a later plugin of the chain may have set another.
    """
    try:
        with entered(namespace):
            asking = socket(AF_UNIX, SOCK_DGRAM)
    except OSError as error:
        raise CniError(Code.INTERNAL, "cannot open a socket to announce addresses", str(error)) from error

    def send() -> None:
        with closing(asking), suppress(OSError):
            found = fcntl.ioctl(asking.fileno(), _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
            fcntl.ioctl(asking.fileno(), _SIOCSIFHWADDR, found)

    return send
