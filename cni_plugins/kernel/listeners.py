"""Who listens on a port of a namespace (sock_diag(7), as ss(8) asks), and which program that is.

Only sockets that wait for anybody count: TCP in LISTEN, UDP without a peer. The kernel hands over those
alone, however many connections there are. SCTP is asked of /proc, since the question to sock_diag would load
the protocol; a kernel without sock_diag has no listeners for us.
"""

import struct
from _socket import AF_INET, AF_INET6, AF_NETLINK, IPPROTO_TCP, IPPROTO_UDP, SOCK_CLOEXEC, SOCK_RAW, socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec import files
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2, before its id
_ID = struct.Struct(">HH16s16s")  # struct inet_diag_sockid; then interface and cookie
_ID_REST = bytes(12)
_INODE = 68  # of struct inet_diag_msg
_MESSAGE = 72
_V6ONLY = 11
_WAITING = {IPPROTO_TCP: 1 << 10, IPPROTO_UDP: 1 << 7}  # TCP_LISTEN; TCP_CLOSE, which is UDP without a peer
_PROTOCOLS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}
_RECEIVE = 1 << 16
_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Listener:
    """A waiting socket; `dual` is an IPv6 one that takes IPv4 too."""

    address: Ip
    dual: bool
    inode: int

    def takes(self, host_ip: Ip | None, version: int) -> bool:
        """Whether packets of a family to `host_ip` (None: any address of the host) would be for it."""
        if self.address.version != version and not self.dual:
            return False
        if host_ip is None or self.address.is_unspecified:
            return True
        return self.address == host_ip


def find(host: Namespace, protocol: str, port: int) -> list[Listener]:
    """The sockets that wait on a port: "tcp", "udp" or "sctp"."""
    if protocol not in _PROTOCOLS:
        return list(_sctp(host, port))
    try:
        with entered(host):
            asking = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    except OSError:
        return []
    found: list[Listener] = []
    try:
        asking.settimeout(_SECONDS)
        for family in (AF_INET, AF_INET6):
            with suppress(OSError):
                found += _asked(asking, family, _PROTOCOLS[protocol], port)
    finally:
        asking.close()
    return found


def _asked(asking: socket, family: int, protocol: int, port: int) -> Iterator[Listener]:
    body = _REQUEST.pack(family, protocol, 0, 0, _WAITING[protocol])
    body += _ID.pack(port, 0, bytes(16), bytes(16)) + _ID_REST
    header = _HEADER.pack(16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, family, 0)
    asking.send(header + body)
    while True:
        data = asking.recv(_RECEIVE)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            if kind in {_NLMSG_DONE, _NLMSG_ERROR} or length < 16:
                return
            if sequence == family and length >= 16 + _MESSAGE:
                listener = _parsed(data[offset + 16 : offset + length], family, port)
                if listener is not None:
                    yield listener
            offset += (length + 3) & ~3


def _parsed(message: bytes, family: int, port: int) -> Listener | None:
    own, _, source, _ = _ID.unpack_from(message, 4)
    if own != port:
        return None
    (inode,) = struct.unpack_from("=I", message, _INODE)
    if family == AF_INET:
        return Listener(IPv4Address(source[:4]), dual=False, inode=inode)
    address = IPv6Address(source)
    if address.ipv4_mapped is not None:
        return Listener(address.ipv4_mapped, dual=False, inode=inode)
    return Listener(address, address.is_unspecified and not _only_v6(message[_MESSAGE:]), inode)


def _only_v6(attributes: bytes) -> bool:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _V6ONLY and length > 4:
            return bool(attributes[offset + 4])
        if length < 4:
            break
        offset += (length + 3) & ~3
    return False


def _sctp(host: Namespace, port: int) -> Iterator[Listener]:
    try:
        with entered(host):
            lines = files.read("/proc/thread-self/net/sctp/eps").decode("ascii", "replace").splitlines()
    except OSError:
        return
    for line in lines[1:]:  # ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS
        words = line.split()
        if len(words) >= 9 and words[5] == str(port):
            for word in words[8:]:
                with suppress(ValueError):
                    yield Listener(ip_address(word), dual=False, inode=int(words[7]))


def program_of(inode: int) -> tuple[str, int]:
    """The name and the process that has a socket open; ("", 0) when none can be seen (it is the kernel's, or
    of another PID namespace). Reads every process: for a conflict only.
    """
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for entry in (process / "fd").iterdir():
                if _link(entry) == wanted:
                    name = files.read(process / "comm").decode("utf-8", "replace").strip()
                    return "".join(char if char.isprintable() else "?" for char in name), int(process.name)
    return "", 0


def _link(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""
