"""One transaction of the protocol on a link: what is sent, and which answers count.

Nothing here waits: the caller polls the sockets. They are open only while an answer is due; a lease that is
bound costs none.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from ipaddress import IPv4Address

from cni_plugins.dhcp.lease import Lease
from cni_plugins.dhcp.packet import CLIENT_PORT, SERVER_PORT, Kind, Message, Option, decode, encode
from cni_plugins.kernel import packets
from cni_plugins.spec.namespace import Namespace
from cni_plugins.store import boot

_NOBODY = IPv4Address(0)
_EVERYBODY = IPv4Address("255.255.255.255")
_LARGEST_MESSAGE = 1472
_CLIENT, _SERVER = CLIENT_PORT, SERVER_PORT


class Exchange:
    """`sent` is when the last message went out (see dhcp.lease). Close it when done; OSError from sending is
    the link's (down, gone).
    """

    __slots__ = ("_lease", "_mac", "_namespace", "_routed", "began", "ifname", "sent", "sock", "transaction")

    def __init__(self, namespace: Namespace, ifname: str, lease: Lease) -> None:
        """CniError 999 without a socket."""
        self._namespace = namespace
        self._lease = lease
        self._mac = bytes.fromhex(lease.place.mac.replace(":", ""))
        self._routed: socket.socket | None = None
        self.ifname = ifname
        self.transaction = secrets.randbits(32)
        self.began = self.sent = boot.elapsed()
        self.sock = packets.open_udp(namespace, ifname, _CLIENT)

    def close(self) -> None:
        self.sock.close()
        if self._routed is not None:
            self._routed.close()
            self._routed = None

    def _message(
        self, kind: Kind, options: dict[int, bytes], *, client: IPv4Address = _NOBODY, asks: bool = True
    ) -> bytes:
        wish = self._lease.wish
        said = {int(Option.CLIENT_ID): wish.client_id} | options
        if asks:
            said |= {int(Option.LONGEST): _LARGEST_MESSAGE.to_bytes(2, "big")}
            said |= {number: value for number, value in wish.options.items() if number not in said}
            if wish.parameters:
                said[int(Option.PARAMETERS)] = bytes(wish.parameters)
        self.sent = boot.elapsed()
        message = Message(
            kind,
            self.transaction,
            self._mac,
            said,
            client,
            seconds=int(self.sent - self.began) if asks else 0,
            broadcast=wish.broadcast and not int(client),
        )
        return encode(message)

    def _broadcast(self, payload: bytes, source: IPv4Address = _NOBODY, mac: bytes = packets.EVERYBODY,
                   target: IPv4Address = _EVERYBODY) -> None:  # fmt: skip
        packets.send_udp(
            self.sock, self.ifname, mac, source=(source, _CLIENT), target=(target, _SERVER), payload=payload
        )

    def discover(self, wanted: IPv4Address | None = None) -> None:
        options = {int(Option.REQUESTED_ADDRESS): wanted.packed} if wanted is not None else {}
        self._broadcast(self._message(Kind.DISCOVER, options))

    def request(self, offer: Message) -> None:
        """Take an offer."""
        server = offer.options.get(Option.SERVER, b"")
        options = {int(Option.REQUESTED_ADDRESS): offer.yours.packed, int(Option.SERVER): server}
        self._broadcast(self._message(Kind.REQUEST, options))

    def decline(self, ack: Message) -> None:
        """Give an address back that somebody uses (RFC 2131 section 4.4.4)."""
        server = ack.options.get(Option.SERVER, b"")
        options = {int(Option.REQUESTED_ADDRESS): ack.yours.packed, int(Option.SERVER): server}
        self._broadcast(self._message(Kind.DECLINE, options, asks=False))

    def renew(self) -> None:
        """To the server that gave the lease, as the container's routes say. Where the container has port 68
        in use, or no way there, the frame goes to the station that the last answer came from.
        """
        lease = self._lease
        assert lease.address is not None
        if lease.server is None:
            self.rebind()
            return
        payload = self._message(Kind.REQUEST, {}, client=lease.address.ip)
        try:
            if self._routed is None:
                self._routed = packets.open_routed(self._namespace, (lease.address.ip, _CLIENT))
            self._routed.sendto(payload, (str(lease.server), _SERVER))
        except OSError:
            self._broadcast(payload, lease.address.ip, self._station(), lease.server)

    def rebind(self) -> None:
        """To any server."""
        address = self._lease.address
        assert address is not None
        self._broadcast(self._message(Kind.REQUEST, {}, client=address.ip), address.ip)

    def release(self) -> None:
        """Give the lease back. Nobody answers, and the link may go at once: so the frame does not wait for
        ARP, but goes to the station that the last answer came from (the server, or its relay).
        """
        lease = self._lease
        assert lease.address is not None
        if lease.server is None:
            return
        options = {int(Option.SERVER): lease.server.packed}
        payload = self._message(Kind.RELEASE, options, client=lease.address.ip, asks=False)
        self._broadcast(payload, lease.address.ip, self._station(), lease.server)

    def _station(self) -> bytes:
        raw = bytes(0)
        with suppress(ValueError):
            raw = bytes.fromhex(self._lease.server_mac.replace(":", ""))
        return raw if len(raw) == 6 else packets.EVERYBODY

    def receive(self) -> tuple[Message, str] | None:
        """The next message of a server in this transaction and the station it came from; None when what came
        is none. BlockingIOError when there is nothing, OSError when the link has gone.
        """
        datagram = packets.receive_udp(self.sock)
        if datagram is None:
            return None
        try:
            message = decode(datagram.payload)
        except ValueError:
            return None
        if message.transaction != self.transaction or message.mac != self._mac:
            return None
        return message, datagram.mac


def usable(message: Message) -> bool:
    """Whether an OFFER or ACK gives an address that a host can have, for a time, by a server with a name."""
    address = message.yours
    lasts = message.options.get(Option.LEASE_TIME, b"")
    return (
        message.server is not None
        and len(lasts) == 4
        and any(lasts)
        and not (address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved)
    )


def reason(message: Message) -> str:
    """What the server says to a NAK, as printable text."""
    said = message.options.get(Option.MESSAGE, b"").decode("utf-8", "replace")[:200]
    return "".join(char for char in said if char.isprintable())
