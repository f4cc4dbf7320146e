"""The address of a container with networks of its own, read from its interfaces.

Over the agent's domain socket there is no connection whose end could tell it, and a container need not have
a route to anywhere. netdevice(7), and /proc/net/if_inet6 as in ipv6(7) and net/ipv6/addrconf.c.
"""

import contextlib
import fcntl
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
_GLOBAL = "00"
_DUPLICATE = 0x08
_IF_INET6 = Path("/proc/net/if_inet6")


def own_address() -> str | None:
    """The first IPv4 address of the first interface that has one, lo left out; else the first IPv6 address of
    global scope; None where there is neither. Raises OSError where there is no descriptor to ask with.
    """
    names = [name for _, name in sorted(socket.if_nameindex()) if name != "lo"]
    return next(filter(None, map(_ipv4, names)), None) or _ipv6()


def _ipv4(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s24x", name.encode()[:15]))
        return socket.inet_ntop(socket.AF_INET, answer[20:24])
    return None


def _ipv6() -> str | None:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        address, index, _, scope, flags, name = line.split()
        if scope == _GLOBAL and name != "lo" and not int(flags, 16) & _DUPLICATE:
            found.append((int(index, 16), socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))))
    return min(found, default=(0, None))[1]
