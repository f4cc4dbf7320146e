"""What the lease daemon says to DHCPv4 servers and hears from them (RFC 2131 section 4.4)."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from cni_plugins.dhcp import link
from cni_plugins.dhcp.client import FIRST_WAIT, jitter
from cni_plugins.dhcp.exchange import Exchange, reason, usable
from cni_plugins.dhcp.lease import Lease, State, granted
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet import Kind, Message
from cni_plugins.kernel import packets
from cni_plugins.store import boot

if TYPE_CHECKING:
    from cni_plugins.dhcp.daemon import Daemon, Entry

ANSWER_SECONDS = 4.0
_LONGEST_BACKOFF = 64.0


def begin(daemon: Daemon, entry: Entry, lease: Lease, found: Found) -> None:
    """Send what the state of a lease asks for. CniError without a socket."""
    exchange = Exchange(found.namespace, found.link.name, lease)
    daemon.talk(entry, exchange)
    with contextlib.suppress(OSError):  # a link that is down may be up for the next try
        if lease.state is State.RENEWING:
            exchange.renew()
        elif lease.state is State.REBINDING:
            exchange.rebind()
        else:
            exchange.discover(lease.address.ip if lease.address is not None else None)
    limit = (
        min(ANSWER_SECONDS, max(0.2, (daemon.limit(lease) - boot.elapsed()) / 2))
        if lease.state is not State.INIT
        else jitter(FIRST_WAIT * 2)
    )
    daemon.after(entry, limit, daemon.unanswered)


def pause(tries: int) -> float:
    """Seconds until a lease is asked for again for the `tries`th time."""
    return jitter(min(FIRST_WAIT * 2 ** min(tries, 6), _LONGEST_BACKOFF))


def hear(daemon: Daemon, entry: Entry) -> None:
    """Take what came in for a lease."""
    exchange = entry.exchange
    if not isinstance(exchange, Exchange):
        return
    try:
        received = exchange.receive()
    except OSError:
        return
    if received is None:
        return
    message, mac = received
    lease = daemon.read(entry)
    if not isinstance(lease, Lease):
        return
    if message.kind is Kind.NAK and lease.state is not State.INIT:
        daemon.lost(entry, lease, f"the server refused it: {reason(message)}")
    elif message.kind is Kind.OFFER and lease.state is State.INIT and not entry.offers:
        if usable(message):
            entry.offers.append(message)
            with contextlib.suppress(OSError):
                exchange.request(message)
    elif message.kind is Kind.ACK and usable(message):
        grant = granted(lease, message, exchange.sent, mac)
        if lease.state is State.INIT:
            _probe(daemon, entry, lease, grant)
        else:
            daemon.bound(entry, lease, grant)
    elif message.kind is Kind.NAK:
        daemon.unanswered(entry)


def _probe(daemon: Daemon, entry: Entry, lease: Lease, grant: Lease) -> None:
    assert grant.address is not None
    with link.opened(lease.place, daemon.prefix) as found:
        if found is None:
            daemon.close(entry)
            daemon.absent(entry, lease)
            return
        sock = packets.open_arp(found.namespace, found.link.name)
        ask = partial(packets.probe, sock, found.link.name, _mac(grant), grant.address.ip)
        heard = partial(packets.holder, sock, _mac(grant), grant.address.ip)
        daemon.probing(entry, grant, sock, ask, heard)


def _mac(lease: Lease) -> bytes:
    return bytes.fromhex(lease.place.mac.replace(":", ""))


def decline(entry: Entry, grant: Lease) -> None:
    """Give an address back that somebody uses. OSError."""
    if isinstance(entry.exchange, Exchange) and grant.address is not None:
        entry.exchange.decline(Message(Kind.ACK, 0, b"", grant.options, yours=grant.address.ip))
