"""The lease daemon: renews, rebinds and replaces the leases of one store (RFC 2131 section 4.4.5).

One thread and one poll(2): for its socket, for the answers that are due, and until the next moment at which
some lease wants something. A lease that is bound has no socket and no open namespace, so thousands of them
cost their lines of memory; with none at all the daemon sleeps. Before anything is done for a lease its file
is read again, and a file that went (DEL) is not written again.

    BOUND --T1--> RENEWING --T2--> REBINDING --end--> INIT (address taken away) --ACK--> BOUND
    a NAK at any time leads to INIT; INIT asks again and again, less and less often
"""

from __future__ import annotations

import contextlib
import heapq
import json
import logging
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cni_plugins.dhcp import link, protocol
from cni_plugins.dhcp.client import FIRST_WAIT, PROBE_SECONDS, PROBES, jitter
from cni_plugins.dhcp.exchange import Exchange, reason, usable
from cni_plugins.dhcp.lease import Lease, State, encode, granted
from cni_plugins.dhcp.packet import Kind, Message
from cni_plugins.dhcp.store import Store, read
from cni_plugins.kernel import packets
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.store import boot

log = logging.getLogger("mesokit.dhcp")

_AT_ONCE = 64  # exchanges; more wait for their turn
_TURN_SECONDS = 0.2
_NAP_SECONDS = 300.0  # poll(2) does not count a suspended machine's time
_ANSWER_SECONDS = 4.0
_SHORTEST_RETRY = 0.5
_RETRY_SECONDS = 60.0  # RFC 2131: the least between two requests, for a lease of hours
_LONGEST_BACKOFF = 64.0
_SETTLE = (0.5, 1.0, 2.0, 4.0, 8.0)  # the main plugin gives the interface its address after the lease
_LOCK_SECONDS = 5.0
_CLIENT_SECONDS = 2.0
_GONE_SECONDS = 60.0

Timer = Callable[["Entry"], None]


@dataclass(slots=True)
class Entry:
    """What the daemon knows of a lease beside its file. `due` is the number of the timer that counts."""

    identity: Identity
    due: int = 0
    exchange: Exchange | None = None
    arp: socket.socket | None = None
    offer: Message | None = None
    grant: Lease | None = None
    until: float = 0.0  # when the answer is no longer waited for, on the boot's clock
    tries: int = 0
    settled: int = 0

    def close(self) -> None:
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
        if self.arp is not None:
            self.arp.close()
            self.arp = None
        self.offer = self.grant = None


@dataclass(slots=True)
class Daemon:
    """`prefix` is where the host's files are seen (the reference's -hostprefix)."""

    store: Store
    prefix: str = ""
    entries: dict[Identity, Entry] = field(default_factory=dict)
    _timers: list[tuple[float, int, Identity, Timer]] = field(default_factory=list)
    _number: int = 0
    _sockets: dict[int, Entry] = field(default_factory=dict)

    def resume(self) -> None:
        """Take up what the files have; leases of an earlier boot are void, their containers are gone."""
        for path in self.store.paths():
            lease = read(path)
            if lease is None:
                log.error("%s holds no lease: left as it is", path)
            elif lease.boot and not lease.this_boot:
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                self.watch(lease.identity)

    def watch(self, identity: Identity) -> None:
        self.forget(identity)
        entry = self.entries[identity] = Entry(identity)
        self._after(entry, _SETTLE[0], self._settle)

    def forget(self, identity: Identity) -> None:
        entry = self.entries.pop(identity, None)
        if entry is not None:
            self._close(entry)

    def _close(self, entry: Entry) -> None:
        for sock in (entry.exchange.sock if entry.exchange is not None else None, entry.arp):
            if sock is not None:
                self._sockets.pop(sock.fileno(), None)
        entry.close()

    def _at(self, entry: Entry, when: float, what: Timer) -> None:
        self._number += 1
        entry.due = self._number
        heapq.heappush(self._timers, (when, self._number, entry.identity, what))

    def _after(self, entry: Entry, seconds: float, what: Timer) -> None:
        self._at(entry, boot.elapsed() + seconds, what)

    def run(self, listening: socket.socket, end: int | None = None) -> None:
        """Until the descriptor `end` can be read, or for ever."""
        self.resume()
        while True:
            events = select.poll()
            events.register(listening, select.POLLIN)
            if end is not None:
                events.register(end, select.POLLIN)
            for fd in self._sockets:
                events.register(fd, select.POLLIN)
            ready = {fd for fd, _ in events.poll(self._patience())}
            if end in ready:
                break
            for fd in ready & self._sockets.keys():
                entry = self._sockets.get(fd)
                if entry is not None:  # else one that was heard before closed it
                    self._guarded(entry, self._hear)
            self._due()
            if listening.fileno() in ready:
                self._serve(listening)
        for entry in self.entries.values():
            entry.close()

    def _patience(self) -> float | None:
        """Milliseconds until the next timer."""
        while self._timers and not self._counts(self._timers[0]):
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, min(self._timers[0][0] - boot.elapsed(), _NAP_SECONDS)) * 1000 + 1

    def _counts(self, timer: tuple[float, int, Identity, Timer]) -> bool:
        entry = self.entries.get(timer[2])
        return entry is not None and entry.due == timer[1]

    def _due(self) -> None:
        now = boot.elapsed()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            if self._counts(timer):
                self._guarded(self.entries[timer[2]], timer[3])

    def _guarded(self, entry: Entry, work: Timer) -> None:
        """Whatever goes wrong with one lease costs that one a while."""
        try:
            work(entry)
        except CniError as error:
            log.warning("%s: %s", _name(entry.identity), error)
        except Exception:
            log.exception("%s: a mistake of ours", _name(entry.identity))
        else:
            return
        self._close(entry)
        if self.entries.get(entry.identity) is entry:
            self._after(entry, jitter(_ANSWER_SECONDS), self._next)

    def _read(self, entry: Entry) -> Lease | None:
        """The lease as its file has it now; None when DEL has taken it, which ends the entry."""
        lease = self.store.read(entry.identity)
        if lease is None or lease.state is State.REQUESTING:
            self.forget(entry.identity)
            return None
        return lease

    def _write(self, entry: Entry, lease: Lease) -> bool:
        if self.store.replace(lease, after(_LOCK_SECONDS)):
            return True
        self.forget(entry.identity)
        return False

    def _settle(self, entry: Entry) -> None:
        """Bound the address' life by the lease's, as soon as the interface has it from the main plugin."""
        lease = self._read(entry)
        if lease is None:
            return
        if lease.holds:
            with link.opened(lease.place, self.prefix) as found:
                if found is not None and link.has(found, lease):
                    link.hold(found, lease)
                    entry.settled = len(_SETTLE)
        entry.settled += 1
        if entry.settled < len(_SETTLE) and lease.t1 > boot.elapsed() + _SETTLE[entry.settled]:
            self._after(entry, _SETTLE[entry.settled], self._settle)
        else:
            self._next(entry)

    def _next(self, entry: Entry) -> None:
        """Do what is due for a lease now, or set the timer for it."""
        lease = self._read(entry)
        if lease is None:
            return
        now = boot.elapsed()
        if lease.state is State.INIT:
            self._begin(entry, lease, State.INIT)
        elif now >= lease.end:
            self._lost(entry, lease, "no server renewed it until it ended")
        elif now >= lease.t2:
            self._begin(entry, lease, State.REBINDING)
        elif now >= lease.t1:
            self._begin(entry, lease, State.RENEWING)
        elif lease.t1 != float("inf"):
            self._at(entry, now + (lease.t1 - now) * jitter(0.95), self._next)

    def _begin(self, entry: Entry, lease: Lease, state: State) -> None:
        """Send what the state asks for, and wait for the answer."""
        if len(self._sockets) >= _AT_ONCE:
            self._after(entry, jitter(_TURN_SECONDS), self._next)
            return
        with link.opened(lease.place, self.prefix) as found:
            if found is None:
                self._absent(entry, lease)
                return
            if lease.state is not state:
                lease = replace(lease, state=state)
                if not self._write(entry, lease):
                    return
            entry.exchange = Exchange(found.namespace, found.link.name, lease)
            self._sockets[entry.exchange.sock.fileno()] = entry
            with contextlib.suppress(OSError):  # a link that is down may be up for the next try
                if state is State.RENEWING:
                    entry.exchange.renew()
                elif state is State.REBINDING:
                    entry.exchange.rebind()
                else:
                    entry.exchange.discover(lease.address.ip if lease.address is not None else None)
        limit = (
            min(_ANSWER_SECONDS, max(0.2, (_limit(lease) - boot.elapsed()) / 2))
            if state is not State.INIT
            else jitter(FIRST_WAIT * 2)
        )
        self._after(entry, limit, self._unanswered)

    def _absent(self, entry: Entry, lease: Lease) -> None:
        """The namespace or the link has gone. They may come back (a path that is mounted again) while the
        lease holds; afterwards nobody can want it.
        """
        if lease.state is State.INIT or boot.elapsed() >= lease.end:
            log.info("%s: its interface has gone, and the lease has ended", _name(entry.identity))
            self.store.remove(entry.identity, after(_LOCK_SECONDS))
            self.forget(entry.identity)
            return
        left = lease.end - boot.elapsed()
        self._after(entry, max(_SHORTEST_RETRY, min(_GONE_SECONDS, left)), self._next)

    def _unanswered(self, entry: Entry) -> None:
        self._close(entry)
        lease = self._read(entry)
        if lease is None:
            return
        entry.tries += 1
        now = boot.elapsed()
        if lease.state is State.INIT:
            wait = min(FIRST_WAIT * 2 ** min(entry.tries, 6), _LONGEST_BACKOFF)
            self._after(entry, jitter(wait), self._next)
            return
        if entry.tries == 1:
            log.warning(
                "%s: DHCP server %s does not answer; %s holds for another %d s",
                _name(entry.identity), lease.server, lease.address, max(0, lease.end - now),
            )  # fmt: skip
        limit = _limit(lease)
        least = min(_RETRY_SECONDS, lease.seconds / 16)
        self._at(entry, min(limit, now + max(_SHORTEST_RETRY, least, (limit - now) / 2)), self._next)

    def _hear(self, entry: Entry) -> None:
        """Take what came in for a lease."""
        if entry.arp is not None:
            self._hear_holder(entry)
            return
        exchange = entry.exchange
        if exchange is None:
            return
        try:
            received = exchange.receive()
        except OSError:
            return
        if received is None:
            return
        message, mac = received
        lease = self._read(entry)
        if lease is None:
            return
        if message.kind is Kind.NAK and lease.state is not State.INIT:
            self._lost(entry, lease, f"the server refused it: {reason(message)}")
        elif message.kind is Kind.OFFER and lease.state is State.INIT and entry.offer is None:
            if usable(message):
                entry.offer = message
                with contextlib.suppress(OSError):
                    exchange.request(message)
        elif message.kind is Kind.ACK and usable(message):
            grant = granted(lease, message, exchange.sent, mac)
            if lease.state is State.INIT:
                self._probe(entry, lease, grant)
            else:
                self._bound(entry, lease, grant)
        elif message.kind is Kind.NAK:
            self._unanswered(entry)

    def _probe(self, entry: Entry, lease: Lease, grant: Lease) -> None:
        """Ask who has an address that is new, before it is used."""
        assert entry.exchange is not None and grant.address is not None
        with link.opened(lease.place, self.prefix) as found:
            if found is None:
                self._close(entry)
                self._absent(entry, lease)
                return
            entry.grant = grant
            entry.arp = packets.open_arp(found.namespace, found.link.name)
            self._sockets.pop(entry.exchange.sock.fileno(), None)
            self._sockets[entry.arp.fileno()] = entry
            entry.tries = 0
            self._ask_holder(entry)

    def _ask_holder(self, entry: Entry) -> None:
        if entry.arp is None or entry.exchange is None or entry.grant is None or entry.grant.address is None:
            return
        if entry.tries == PROBES:
            lease = self._read(entry)
            if lease is not None:
                self._bound(entry, lease, entry.grant)
            return
        entry.tries += 1
        mac = bytes.fromhex(entry.grant.place.mac.replace(":", ""))
        with contextlib.suppress(OSError):
            packets.probe(entry.arp, entry.exchange.ifname, mac, entry.grant.address.ip)
        self._after(entry, PROBE_SECONDS, self._ask_holder)

    def _hear_holder(self, entry: Entry) -> None:
        assert entry.arp is not None and entry.grant is not None and entry.grant.address is not None
        mac = bytes.fromhex(entry.grant.place.mac.replace(":", ""))
        try:
            holder = packets.holder(entry.arp, mac, entry.grant.address.ip)
        except OSError:
            return
        if holder is None:
            return
        log.warning("%s: %s is in use by %s: declined", _name(entry.identity), entry.grant.address, holder)
        if entry.exchange is not None:
            declined = Message(Kind.ACK, 0, b"", entry.grant.options, yours=entry.grant.address.ip)
            with contextlib.suppress(OSError):
                entry.exchange.decline(declined)
        self._close(entry)
        self._after(entry, jitter(FIRST_WAIT * 10), self._next)  # RFC 2131 section 3.1, step 5

    def _bound(self, entry: Entry, before: Lease, lease: Lease) -> None:
        """The server agreed: the interface has the address for so long, and what changed is told."""
        self._close(entry)
        entry.tries = 0
        changed = before.address != lease.address or before.state is State.INIT
        if changed:
            lease = replace(lease, told=f"the address is {lease.address} now, it was {before.address}")
        if not self._write(entry, lease):
            return
        if changed:
            log.warning("%s: %s", _name(entry.identity), lease.told)
        with link.opened(lease.place, self.prefix) as found:
            if found is not None:
                link.hold(found, lease, before if changed or before.options != lease.options else None)
        self._next(entry)

    def _lost(self, entry: Entry, lease: Lease, why: str) -> None:
        """The address is the container's no more."""
        self._close(entry)
        entry.tries = 0
        told = f"the lease of {lease.address} is lost, {why}; the address is taken away"
        log.error("%s: %s", _name(entry.identity), told)
        with link.opened(lease.place, self.prefix) as found:
            if found is not None:
                link.withdraw(found, lease)
        if self._write(entry, replace(lease, state=State.INIT, told=told)):
            self._after(entry, jitter(_SHORTEST_RETRY), self._next)

    def _serve(self, listening: socket.socket) -> None:
        """Answer one client. Only root can be one, and it says all it has to say at once."""
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(_CLIENT_SECONDS)
            try:
                with connection.makefile("rb") as stream:
                    line = stream.readline(protocol.LONGEST)
                answer = self._answer(json.loads(line))
            except (OSError, ValueError, TypeError, KeyError) as error:
                answer = {"error": f"not understood: {error}"}
            answer |= {"daemon": os.getpid(), "store": str(self.store.directory)}
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if "watch" in message:
            identity = Identity(*map(str, message["watch"]))
            if self.store.read(identity) is None:
                return {"error": f"there is no lease {self.store.path(identity)}"}
            self.watch(identity)
        elif "forget" in message:
            self.forget(Identity(*map(str, message["forget"])))
        elif "list" in message:
            return {"leases": [encode(lease) for lease in self.store.every()]}
        return {}


def _limit(lease: Lease) -> float:
    return lease.t2 if lease.state is State.RENEWING else lease.end


def _name(identity: Identity) -> str:
    return f"{identity.container_id}/{identity.network}/{identity.ifname}"


def serve(store: Store, listening: socket.socket, end: int | None = None, prefix: str = "") -> None:
    """Be the daemon of a store that this process has claimed."""
    Daemon(store, prefix).run(listening, end)
