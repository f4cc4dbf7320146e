"""What the lease daemon says to DHCPv6 servers and hears from them (RFC 8415 section 18.2).

Retransmission is the RFC's (section 15: 10 s, then twice as long up to 600 s, in one transaction), but never
less often than half the time that is left: leases of seconds are renewed too. A server that knows nothing of
a lease (NoBinding) is asked for the same address anew.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from cni_plugins.dhcp import delegation, link
from cni_plugins.dhcp.client6 import AT_ONCE, TIMEOUT, best, offered, refusal_of, spread
from cni_plugins.dhcp.exchange6 import Exchange6
from cni_plugins.dhcp.lease import State
from cni_plugins.dhcp.lease6 import Lease6, association, chosen, granted, longest_of
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet6 import Kind, Message, Status
from cni_plugins.dhcp.states4 import ANSWER_SECONDS
from cni_plugins.kernel import packets6
from cni_plugins.store import boot

if TYPE_CHECKING:
    from cni_plugins.dhcp.daemon import Daemon, Entry

_RENEW_TIMEOUT, _RENEW_LONGEST = 10.0, 600.0  # REN_TIMEOUT, REN_MAX_RT; REB_* are the same
_MOST_OFFERS = 16


def begin(daemon: Daemon, entry: Entry, lease: Lease6, found: Found) -> None:
    """Send what the state of a lease asks for. CniError without a socket or a link-local address."""
    exchange = Exchange6(found, lease, entry.transaction)
    daemon.talk(entry, exchange)
    address = lease.address
    with contextlib.suppress(OSError):  # a link that is down may be up for the next try
        if lease.state is State.RENEWING:
            exchange.send(Kind.RENEW, lease.server_id, address)
        elif lease.state is State.REBINDING:
            exchange.send(Kind.REBIND, address=address)
        else:
            exchange.send(Kind.SOLICIT, address=address)
    entry.transaction = exchange.transaction
    if lease.state is State.INIT:
        daemon.after(entry, spread(TIMEOUT, first=True), lambda same: _choose(daemon, same))
        return
    left = daemon.limit(lease) - boot.elapsed()
    daemon.after(entry, min(ANSWER_SECONDS, max(0.2, left / 2)), daemon.unanswered)


def pause(lease: Lease6, tries: int) -> float:
    """Seconds until what was not answered for the `tries`th time is sent again, without regard to the end."""
    if lease.state is State.INIT:
        return spread(min(TIMEOUT * 2.0 ** min(tries, 20), float(lease.longest)))
    return spread(min(_RENEW_TIMEOUT * 2.0 ** min(tries - 1, 10), _RENEW_LONGEST))


def hear(daemon: Daemon, entry: Entry) -> None:
    """Take what came in for a lease."""
    exchange = entry.exchange
    if not isinstance(exchange, Exchange6):
        return
    try:
        message = exchange.receive((Kind.ADVERTISE, Kind.REPLY))
    except OSError:
        return
    lease = daemon.read(entry) if message is not None else None
    if message is None or not isinstance(lease, Lease6):
        return
    longest = longest_of(message, lease.longest)
    if longest != lease.longest:
        lease = replace(lease, longest=longest)
        if not daemon.write(entry, lease):
            return
    if message.kind is Kind.REPLY:
        _reply(daemon, entry, exchange, lease, message)
    elif lease.state is State.INIT and offered(message, lease) is not None:
        if len(entry.offers) < _MOST_OFFERS:
            entry.offers.append(message)
        if message.preference == AT_ONCE:
            _choose(daemon, entry)


def _choose(daemon: Daemon, entry: Entry) -> None:
    """Take the best of the offers that came."""
    lease = daemon.read(entry)
    offer = best([item for item in entry.offers if isinstance(item, Message)])
    if not isinstance(lease, Lease6):
        return
    agreed = offered(offer, lease) if offer is not None else None
    if offer is None or agreed is None or not isinstance(entry.exchange, Exchange6):
        daemon.unanswered(entry)
        return
    with contextlib.suppress(OSError):
        entry.exchange.send(Kind.REQUEST, offer.server, agreed[1].interface)
    daemon.after(entry, ANSWER_SECONDS, daemon.unanswered)


def _reply(daemon: Daemon, entry: Entry, exchange: Exchange6, lease: Lease6, message: Message) -> None:
    """What says nothing of our address is no answer: the lease holds on until its end."""
    found = association(lease, message)
    if found is None or message.status[0] is not Status.SUCCESS:
        return
    ours = lease.address
    if (
        found.status is Status.NO_BINDING
        and exchange.transaction is not None
        and (exchange.transaction.kind is not Kind.REQUEST)
    ):
        with contextlib.suppress(OSError):
            exchange.send(Kind.REQUEST, message.server, ours)
        return
    if found.status is not Status.SUCCESS:
        return
    given = chosen(lease, found)
    if given is None:
        if lease.state is not State.INIT and ours is not None and ours.ip in found.gone:
            daemon.lost(entry, lease, "its server gave it a lifetime of 0")
        return
    grant = granted(lease, message, found, given, exchange.sent)
    if lease.state is State.INIT or given.interface != ours:
        _probe(daemon, entry, lease, grant)
    else:
        daemon.bound(entry, lease, grant)


def _probe(daemon: Daemon, entry: Entry, lease: Lease6, grant: Lease6) -> None:
    assert grant.address is not None
    with link.opened(lease.place, daemon.prefix) as found:
        if found is None:
            daemon.close(entry)
            daemon.absent(entry, lease)
            return
        if grant.delegated:
            by = delegation.used_by(daemon.store, found, grant, lease.address)
            if by is None:
                daemon.bound(entry, lease, grant)
            else:
                daemon.refused(entry, grant, by)
            return
        probe = packets6.open_probe(found.namespace, found.link.name, found.link.index, grant.address.ip)
        daemon.probing(entry, grant, probe.sock, probe.ask, probe.holder)


def decline(daemon: Daemon, entry: Entry, grant: Lease6) -> None:
    """Give back what somebody uses, unless that is another network of ours. OSError."""
    if grant.delegated and delegation.shared(daemon.store, grant) is not None:
        return
    if isinstance(entry.exchange, Exchange6) and grant.address is not None:
        entry.exchange.send(refusal_of(grant), grant.server_id, grant.address)
