"""One transaction of DHCPv6 on a link: what is sent, and which answers count. As `exchange` for IPv4.

Everything goes to all servers by multicast, with the identifier of the one that is meant: so a server's
option to be asked by unicast is never needed, nor a route or an address beyond the link.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Interface

from cni_plugins.dhcp import link, packet6
from cni_plugins.dhcp.lease6 import Lease6
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet6 import CLIENT_PORT, SERVER_PORT, SERVERS, Kind, Message, Option
from cni_plugins.kernel import packets6
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.store import boot

_LONGEST_ELAPSED = 0xFFFF
_TO_A_SERVER = frozenset((Kind.REQUEST, Kind.RENEW, Kind.RELEASE, Kind.DECLINE))
_WITHOUT_WISHES = frozenset((Kind.RELEASE, Kind.DECLINE))


@dataclass(frozen=True, slots=True)
class Transaction:
    """What retransmissions have in common (RFC 8415 section 15). `began` is on the boot's clock."""

    kind: Kind
    server: bytes
    number: int
    began: float


class Exchange6:
    """`sent` is when the last message went out. A message of another kind begins another transaction. Close
    it when done; OSError from sending is the link's (down, gone).
    """

    __slots__ = ("_lease", "_source", "found", "sent", "sock", "transaction")

    def __init__(self, found: Found, lease: Lease6, transaction: Transaction | None = None) -> None:
        """CniError 11 while the link has no link-local address that can be used, 999 without a socket."""
        source = link.link_local(found)
        if source is None:
            raise CniError(
                Code.TRY_AGAIN,
                f"{found.link.name} has no link-local address that could ask for a DHCPv6 lease",
                "its IPv6 is off, or duplicate address detection found another host with its MAC address",
            )
        self._source = source
        self._lease = lease
        self.found = found
        self.transaction = transaction
        self.sent = boot.elapsed()
        self.sock = packets6.open_udp(found.namespace, found.link.name, CLIENT_PORT)

    def close(self) -> None:
        self.sock.close()

    def send(self, kind: Kind, server: bytes = b"", address: IPv6Interface | None = None) -> None:
        """Send a message, to the server of that identifier if the kind has one, about `address`, or a
        prefix. OSError.
        """
        self.sent = boot.elapsed()
        at = self.transaction
        if at is None or (at.kind, at.server) != (kind, server):
            at = self.transaction = Transaction(kind, server, secrets.randbits(24), self.sent)
        wish = self._lease.wish
        elapsed = min(int((self.sent - at.began) * 100), _LONGEST_ELAPSED)
        options: list[tuple[int, bytes]] = [(int(Option.CLIENT_ID), wish.duid)]
        if kind in _TO_A_SERVER:
            options.append((int(Option.SERVER_ID), server))
        options.append((int(Option.ELAPSED), elapsed.to_bytes(2, "big")))
        if kind is Kind.SOLICIT:
            options.append((int(Option.RAPID_COMMIT), b""))
        if kind not in _WITHOUT_WISHES:
            asked = b"".join(number.to_bytes(2, "big") for number in wish.parameters)
            options.append((int(Option.REQUEST), asked))
        if wish.length:
            hint = IPv6Interface(f"::/{wish.length}")
            options.append(packet6.delegation(wish.iaid, address or hint))
        elif kind is not Kind.INFORMATION:
            options.append(packet6.association(wish.iaid, address.ip if address is not None else None))
        payload = packet6.encode(Message(kind, at.number, tuple(options)))
        packets6.send_udp(
            self.sock,
            self.found.link.name,
            source=(self._source, CLIENT_PORT),
            target=(SERVERS, SERVER_PORT),
            payload=payload,
        )

    def receive(self, kinds: Collection[Kind] = (Kind.REPLY,)) -> Message | None:
        """The next message of a server in this transaction that is for this client, of one of `kinds`, and
        from the server that was asked if one was; None when what came is none. BlockingIOError when there is
        nothing, OSError when the link has gone.
        """
        payload = packets6.receive_udp(self.sock, self._source)
        if payload is None:
            return None
        try:
            message = packet6.decode(payload)
        except ValueError:
            return None
        at = self.transaction
        if at is None:
            return None
        ours = message.transaction == at.number and message.client == self._lease.wish.duid
        asked = at.kind not in _TO_A_SERVER or message.server == at.server
        if message.kind not in kinds or not ours or not message.server or not asked:
            return None
        early = message.kind is Kind.REPLY and at.kind is Kind.SOLICIT
        return None if early and not message.has(Option.RAPID_COMMIT) else message
