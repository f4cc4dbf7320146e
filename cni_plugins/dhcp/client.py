"""Getting a lease and giving it back, while a plugin's call waits (RFC 2131 sections 3.1, 4.4.1, 4.4.4)."""

import errno
import random
import select
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface

from cni_plugins.dhcp.exchange import Exchange, reason, usable
from cni_plugins.dhcp.lease import Lease, State, granted
from cni_plugins.dhcp.packet import Kind, Message
from cni_plugins.kernel import packets
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.store import boot

FIRST_WAIT, LONGEST_WAIT = 1.0, 8.0
PROBES, PROBE_SECONDS = 3, 0.2
_REQUESTS = 3
_CONFLICTS = 3
_AFTER_CONFLICT = 1.0  # RFC 2131 has 10 s, but a call has to end


@dataclass(frozen=True, slots=True)
class Found:
    """An OFFER, ACK or NAK, the station that it came from, and when its request went out."""

    message: Message
    mac: str
    sent: float


def jitter(seconds: float) -> float:
    """Up to a tenth more or less, so that many clients do not ask at once."""
    return seconds * random.uniform(0.9, 1.1)


def acquire(namespace: Namespace, lease: Lease, deadline: Deadline, keep: Callable[[Lease], None]) -> Lease:
    """Get a lease for the link of `lease`, which is up. `keep` is told of the address before it is asked for,
    so that what a crash leaves can be given back. CniError 11 when no server gives one in time.
    """
    ifname = lease.place.ifname
    conflicts: list[str] = []
    nak = ""
    with closing(Exchange(namespace, ifname, lease)) as exchange:
        while True:
            offer = _ask(exchange, exchange.discover, frozenset((Kind.OFFER,)), deadline, None)
            if offer is None:
                told = "; ".join((_nothing(lease, deadline, nak), *conflicts))
                raise CniError(Code.TRY_AGAIN, "error calling DHCP.Allocate: no more tries", told)
            asked = replace(
                lease,
                state=State.REQUESTING,
                address=IPv4Interface(offer.message.yours),
                server=offer.message.server,
                server_mac=offer.mac,
                began=offer.sent,
                boot=boot.current(),
            )
            keep(asked)
            answer = _ask(
                exchange,
                partial(exchange.request, offer.message),
                frozenset((Kind.ACK, Kind.NAK)),
                deadline,
                _REQUESTS,
            )
            if answer is None or answer.message.kind is Kind.NAK:
                nak = reason(answer.message) if answer is not None else nak
                time.sleep(min(jitter(FIRST_WAIT), deadline.remaining()))
                continue
            address = answer.message.yours
            by = conflict(namespace, ifname, lease, address)
            if by is None:
                return granted(lease, answer.message, answer.sent, answer.mac)
            exchange.decline(answer.message)
            conflicts.append(f"{address} is in use by {by}")
            if len(conflicts) == _CONFLICTS:
                raise CniError(
                    Code.TRY_AGAIN,
                    f"every address that the DHCP server gave for {ifname} is in use: {'; '.join(conflicts)}",
                    "exclude them from the server's pool, or find who has them",
                )
            time.sleep(min(_AFTER_CONFLICT, deadline.remaining()))


def _nothing(lease: Lease, deadline: Deadline, nak: str) -> str:
    said = f"; one refused: {nak}" if nak else ""
    return f"no DHCP server gave {lease.place.ifname} an address within {deadline.seconds:g} s{said}"


def _ask(
    exchange: Exchange,
    send: Callable[[], None],
    kinds: frozenset[Kind],
    deadline: Deadline,
    tries: int | None,
) -> Found | None:
    """Send again and again, at growing intervals, until an answer of `kinds` comes that can be used; None
    after `tries` or at the deadline. A link without carrier may get one yet. CniError 999 when it has gone.
    """
    wait = FIRST_WAIT
    while deadline.remaining() > 0 and tries != 0:
        try:
            send()
        except OSError as error:
            _require_link(exchange, error)
        until = time.monotonic() + min(jitter(wait), deadline.remaining())
        found = _listen(exchange, kinds, until)
        if found is not None:
            return found
        wait = min(wait * 2, LONGEST_WAIT)
        tries = tries - 1 if tries is not None else None
    return None


def _require_link(exchange: Exchange, error: OSError) -> None:
    """A link that is down may come up again; one that has gone does not."""
    if error.errno in {errno.ENODEV, errno.ENXIO}:
        raise CniError(Code.INTERNAL, f"{exchange.ifname} has gone", str(error)) from error


def _listen(exchange: Exchange, kinds: frozenset[Kind], until: float) -> Found | None:
    while (left := until - time.monotonic()) > 0:
        if not wait_readable(exchange.sock, left):
            return None
        try:
            received = exchange.receive()
        except OSError:  # nothing for us, or the link went down and may come up again
            continue
        if received is None:
            continue
        message, mac = received
        if message.kind in kinds and (message.kind is Kind.NAK or usable(message)):
            return Found(message, mac, exchange.sent)
    return None


def wait_readable(sock: socket.socket, seconds: float) -> bool:
    events = select.poll()
    events.register(sock, select.POLLIN)
    return bool(events.poll(max(0.0, seconds) * 1000))


def conflict(namespace: Namespace, ifname: str, lease: Lease, address: IPv4Address) -> str | None:
    """The MAC address of whoever uses `address` on the link; None when nobody answers. CniError 999."""
    mac = bytes.fromhex(lease.place.mac.replace(":", ""))
    with closing(packets.open_arp(namespace, ifname)) as sock:
        for _ in range(PROBES):
            with suppress(OSError):
                packets.probe(sock, ifname, mac, address)
            until = time.monotonic() + PROBE_SECONDS
            while (left := until - time.monotonic()) > 0 and wait_readable(sock, left):
                with suppress(OSError):
                    found = packets.holder(sock, mac, address)
                    if found is not None:
                        return found
    return None


def release(namespace: Namespace, ifname: str, lease: Lease) -> None:
    """Tell the server that the address is free. The frame is on its way when this returns; that nobody
    hears it is no error, since the lease ends by itself. CniError 999 when it cannot be sent.
    """
    if lease.address is None or lease.state is State.INIT:
        return
    with closing(Exchange(namespace, ifname, lease)) as exchange:
        try:
            exchange.release()
        except OSError as error:
            raise CniError(
                Code.INTERNAL,
                f"cannot tell DHCP server {lease.server} that {lease.address} is free",
                str(error),
            ) from error
