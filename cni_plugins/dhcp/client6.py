"""Getting a DHCPv6 lease and giving it back, while a plugin's call waits (RFC 8415 sections 15 and 18.2).

Times of retransmission are the RFC's, cut to what the call has left.
"""

import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from cni_plugins.dhcp.client import PROBE_SECONDS, PROBES, wait_readable
from cni_plugins.dhcp.exchange6 import Exchange6
from cni_plugins.dhcp.lease import State
from cni_plugins.dhcp.lease6 import Lease6, association, chosen, dns_of, granted, kept, longest_of
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet6 import Association, Given, Kind, Message, Status
from cni_plugins.kernel import packets6
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Dns
from cni_plugins.store import boot

TIMEOUT, REQUEST_LONGEST = 1.0, 30.0  # SOL_TIMEOUT, REQ_TIMEOUT, DEC_TIMEOUT; REQ_MAX_RT
AT_ONCE = 255  # preference, RFC 8415 section 21.8
_REQUESTS, _DECLINES, _RELEASES = 3, 2, 2
_RELEASE_SECONDS = 0.5
_CONFLICTS = 3
_EMPTY_ROUNDS = 2  # of questions that are answered with "nothing left": some three seconds
_MOST_SAID, _MOST_OFFERS = 4, 16  # a flood of answers costs the call no memory
_LINK_LOCAL_SECONDS = 5.0
_LINK_LOCAL_NAP = 0.05


@dataclass(slots=True)
class Refusals:
    """What servers said instead of giving an address, for the error."""

    said: list[str]

    def note(self, status: Status, said: str) -> None:
        text = f"{status.name}{f' ({said})' if said else ''}"
        if len(self.said) < _MOST_SAID and text not in self.said:
            self.said.append(text)


def spread(seconds: float, *, first: bool = False) -> float:
    """Up to a tenth more or less, more alone for the first SOLICIT (RFC 8415 section 15)."""
    return seconds * random.uniform(1.0 if first else 0.9, 1.1)


def next_timeout(before: float, initial: float, longest: float) -> float:
    """RT of the next transmission after one that waited for `before`, 0 for the first."""
    wait = 2 * before if before else initial
    return spread(min(wait, longest))


def offered(message: Message, lease: Lease6) -> tuple[Association, Given] | None:
    """The IA of an ADVERTISE or REPLY and the address in it that would be ours; None when it gives none."""
    found = association(lease, message)
    given = chosen(lease, found) if found is not None else None
    if found is None or given is None or message.status[0] is not Status.SUCCESS:
        return None
    return (found, given) if found.status is Status.SUCCESS else None


def best(offers: Collection[Message]) -> Message | None:
    """The ADVERTISE of the highest preference, of several the one that came first."""
    return max(offers, key=lambda item: item.preference, default=None)


def wait_link_local(found: Found, lease: Lease6, deadline: Deadline) -> Exchange6:
    """An exchange, as soon as the link can have one. CniError 11."""
    until = time.monotonic() + min(_LINK_LOCAL_SECONDS, deadline.remaining())
    while True:
        try:
            return Exchange6(found, lease)
        except CniError:
            if time.monotonic() >= until:
                raise
            time.sleep(_LINK_LOCAL_NAP)


def acquire(
    found: Found,
    lease: Lease6,
    deadline: Deadline,
    keep: Callable[[Lease6], None],
    used: Callable[[Lease6], str | None] | None = None,
) -> Lease6:
    """Get a lease for the link of `lease`, which is up. `keep` is told of the address before it is asked for,
    so that what a crash leaves can be given back. `used` says who uses a prefix already; for addresses the
    link is asked. CniError 11 when no server gives one in time.
    """
    refusals = Refusals([])
    conflicts: list[str] = []
    with closing(wait_link_local(found, lease, deadline)) as exchange:
        while True:
            answer = _solicit(exchange, lease, deadline, refusals)
            if answer is None:
                raise CniError(Code.TRY_AGAIN, _nothing(lease, deadline, refusals), "; ".join(conflicts))
            lease = replace(lease, longest=longest_of(answer, lease.longest))
            offer = offered(answer, lease)
            assert offer is not None
            asked = replace(
                lease,
                state=State.REQUESTING,
                address=offer[1].interface,
                server_id=answer.server,
                began=exchange.sent,
                boot=boot.current(),
            )
            keep(asked)
            reply = answer if answer.kind is Kind.REPLY else _request(exchange, asked, deadline, refusals)
            agreed = offered(reply, asked) if reply is not None else None
            if reply is None or agreed is None:
                time.sleep(min(spread(TIMEOUT), deadline.remaining()))
                continue
            made = granted(asked, reply, *agreed, exchange.sent)
            keep(replace(made, state=State.REQUESTING))
            by = used(made) if used is not None else conflict(found, agreed[1].address)
            if by is None:
                return made
            _tell(exchange, refusal_of(made), made, _DECLINES, TIMEOUT)
            conflicts.append(f"{made.subject} is in use by {by}")
            if len(conflicts) == _CONFLICTS:
                raise CniError(
                    Code.TRY_AGAIN,
                    f"every {lease.noun} that the DHCPv6 server gave for {lease.place.ifname} is in use: "
                    f"{'; '.join(conflicts)}",
                    "exclude them from the server's pool, or find who has them",
                )


def _nothing(lease: Lease6, deadline: Deadline, refusals: Refusals) -> str:
    said = f"; they said: {', '.join(refusals.said)}" if refusals.said else ""
    what = "a prefix" if lease.delegated else "an address"
    within = "" if deadline.remaining() > 0 else f" within {deadline.seconds:g} s"
    return f"no DHCPv6 server gave {lease.place.ifname} {what}{within}{said}"


def refusal_of(lease: Lease6) -> Kind:
    """What tells a server that its lease is of no use: a prefix cannot be declined (RFC 8415, 18.2.8)."""
    return Kind.RELEASE if lease.delegated else Kind.DECLINE


def _solicit(exchange: Exchange6, lease: Lease6, deadline: Deadline, refusals: Refusals) -> Message | None:
    """Ask all servers: the REPLY of one that commits at once, else the best ADVERTISE of the first round, the
    first one of any later (RFC 8415 section 18.2.1). None at the deadline, or when servers said in two rounds
    that they have nothing to give, and none said anything else.
    """
    wait, empty = 0.0, 0
    while deadline.remaining() > 0:
        first = not wait
        wait = spread(TIMEOUT, first=True) if first else next_timeout(wait, TIMEOUT, lease.longest)
        with suppress(OSError):  # a link without carrier may get one yet
            exchange.send(Kind.SOLICIT, address=lease.address)
        until = time.monotonic() + min(wait, deadline.remaining())
        offers: list[Message] = []
        nothing = False
        for message in _answers(exchange, (Kind.ADVERTISE, Kind.REPLY), until):
            if offered(message, lease) is None:
                nothing |= _note(message, lease, refusals) in {Status.NO_ADDRESS, Status.NO_PREFIX}
                continue
            if message.kind is Kind.REPLY or message.preference == AT_ONCE or not first:
                return message
            if len(offers) < _MOST_OFFERS:
                offers.append(message)
        found = best(offers)
        if found is not None:
            return found
        empty += nothing
        if empty == _EMPTY_ROUNDS:
            return None
    return None


def _request(exchange: Exchange6, lease: Lease6, deadline: Deadline, refusals: Refusals) -> Message | None:
    """Take an offer: the REPLY of its server, None when it refuses, or none comes that gives an address. One
    that does neither is passed over: anybody on the link can send it.
    """
    wait = 0.0
    for _ in range(_REQUESTS):
        wait = next_timeout(wait, TIMEOUT, REQUEST_LONGEST)
        with suppress(OSError):
            exchange.send(Kind.REQUEST, lease.server_id, lease.address)
        until = time.monotonic() + min(wait, deadline.remaining())
        for message in _answers(exchange, (Kind.REPLY,), until):
            if offered(message, lease) is not None:
                return message
            if _note(message, lease, refusals) is not Status.SUCCESS:
                return None
    return None


def _note(message: Message, lease: Lease6, refusals: Refusals) -> Status:
    """Remember what an answer says instead of giving an address; what it says, SUCCESS for nothing."""
    found = association(lease, message)
    status, said = message.status
    if status is Status.SUCCESS and found is not None:
        status, said = found.status, found.said
    nothing = Status.NO_PREFIX if lease.delegated else Status.NO_ADDRESS
    refusals.note(status if status is not Status.SUCCESS else nothing, said)
    return status


def _answers(exchange: Exchange6, kinds: Collection[Kind], until: float) -> Iterator[Message]:
    """The answers that come until a moment of the monotonic clock, as they come."""
    while (left := until - time.monotonic()) > 0 and wait_readable(exchange.sock, left):
        try:
            message = exchange.receive(kinds)
        except OSError:  # nothing for us, or the link went down and may come up again
            continue
        if message is not None:
            yield message


def conflict(found: Found, address: IPv6Address) -> str | None:
    """The MAC address of whoever uses `address` on the link; None when nobody answers. CniError 999."""
    probe = packets6.open_probe(found.namespace, found.link.name, found.link.index, address)
    with closing(probe.sock):
        for _ in range(PROBES):
            with suppress(OSError):
                probe.ask()
            until = time.monotonic() + PROBE_SECONDS
            while (left := until - time.monotonic()) > 0 and wait_readable(probe.sock, left):
                with suppress(OSError):
                    holder = probe.holder()
                    if holder is not None:
                        return holder
    return None


def information(found: Found, lease: Lease6, deadline: Deadline) -> Dns:
    """Name servers and domains of a network whose addresses come from elsewhere (INFORMATION-REQUEST, RFC
    8415 section 18.2.6); nothing when no server says any before the deadline. CniError 11 or 999.
    """
    wait = 0.0
    with closing(wait_link_local(found, lease, deadline)) as exchange:
        while deadline.remaining() > 0:
            wait = next_timeout(wait, TIMEOUT, REQUEST_LONGEST)
            with suppress(OSError):
                exchange.send(Kind.INFORMATION)
            for message in _answers(
                exchange, (Kind.REPLY,), time.monotonic() + min(wait, deadline.remaining())
            ):
                if message.status[0] is Status.SUCCESS:
                    return dns_of(kept(message))
    return Dns()


def _tell(exchange: Exchange6, kind: Kind, lease: Lease6, tries: int, seconds: float) -> None:
    """Tell the server of a lease something, again until it answers or `tries` are over. OSError."""
    for _ in range(tries):
        exchange.send(kind, lease.server_id, lease.address)
        for _reply in _answers(exchange, (Kind.REPLY,), time.monotonic() + seconds):
            return


def release(found: Found, lease: Lease6) -> None:
    """Tell the server that the address is free, and wait up to a second for it to say that it heard. That
    nobody does is no error, since the lease ends by itself. CniError 999 when it cannot be sent.
    """
    if lease.address is None or lease.state is State.INIT or not lease.server_id:
        return
    with closing(Exchange6(found, lease)) as exchange:
        try:
            _tell(exchange, Kind.RELEASE, lease, _RELEASES, _RELEASE_SECONDS)
        except OSError as error:
            raise CniError(
                Code.INTERNAL,
                f"cannot tell DHCPv6 server {lease.server} that {lease.subject} is free",
                str(error),
            ) from error
