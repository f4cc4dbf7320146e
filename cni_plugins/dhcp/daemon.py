"""The lease daemon: renews, rebinds and replaces the leases of one store (RFC 2131 section 4.4.5, RFC 8415
section 18.2). What the two families say to their servers is in `states4` and `states6`.

One thread and one poll(2): for its socket, for the answers that are due, and until the next moment at which
some lease wants something. A lease that is bound has no socket and no open namespace, so thousands of them
cost their lines of memory; with none at all the daemon sleeps. Before anything is done for a lease its file
is read again, and a file that went (DEL) is not written again.

    BOUND --T1--> RENEWING --T2--> REBINDING --end--> INIT (address taken away) --ACK, Reply--> BOUND
    a NAK, or a lifetime of 0, leads to INIT at any time; INIT asks again and again, less and less often
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

from cni_plugins.dhcp import delegation, link, protocol, states4, states6
from cni_plugins.dhcp.client import FIRST_WAIT, PROBE_SECONDS, PROBES, jitter
from cni_plugins.dhcp.exchange import Exchange
from cni_plugins.dhcp.exchange6 import Exchange6, Transaction
from cni_plugins.dhcp.lease import State
from cni_plugins.dhcp.lease6 import AnyLease, Lease6, encode_any
from cni_plugins.dhcp.packet import Message
from cni_plugins.dhcp.packet6 import Message as Message6
from cni_plugins.dhcp.protocol import Key
from cni_plugins.dhcp.store import Store, read
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.store import boot

log = logging.getLogger("mesokit.dhcp")

_AT_ONCE = 64  # exchanges; more wait for their turn
_TURN_SECONDS = 0.2
_NAP_SECONDS = 300.0  # poll(2) does not count a suspended machine's time
_SHORTEST_RETRY = 0.5
_RETRY_SECONDS = 60.0  # RFC 2131: the least between two requests, for a lease of hours
_SETTLE = (0.5, 1.0, 2.0, 4.0, 8.0)  # the main plugin gives the interface its address after the lease
_LOCK_SECONDS = 5.0
_CLIENT_SECONDS = 2.0
_GONE_SECONDS = 60.0

Timer = Callable[["Entry"], None]


@dataclass(slots=True)
class Entry:
    """What the daemon knows of a lease beside its file. `due` is the number of the timer that counts."""

    identity: Identity
    version: int = 4
    due: int = 0
    exchange: Exchange | Exchange6 | None = None
    transaction: Transaction | None = None  # of what was not answered yet
    offers: list[Message | Message6] = field(default_factory=list)
    probe: socket.socket | None = None
    ask: Callable[[], None] | None = None  # sends the probe
    heard: Callable[[], str | None] | None = None  # who answered it
    grant: AnyLease | None = None
    tries: int = 0
    settled: int = 0

    @property
    def key(self) -> Key:
        return self.identity, self.version

    @property
    def name(self) -> str:
        """For the log."""
        if not self.identity.container_id:
            return f"prefix of {self.identity.network}, {self.identity.ifname}"
        family = "/ipv6" if self.version == 6 else ""
        return f"{self.identity.container_id}/{self.identity.network}/{self.identity.ifname}{family}"

    def close(self) -> None:
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
        if self.probe is not None:
            self.probe.close()
            self.probe = None
        self.offers, self.grant, self.ask, self.heard = [], None, None, None


@dataclass(slots=True)
class Daemon:
    """`prefix` is where the host's files are seen (the reference's -hostprefix)."""

    store: Store
    prefix: str = ""
    entries: dict[Key, Entry] = field(default_factory=dict)
    _timers: list[tuple[float, int, Key, Timer]] = field(default_factory=list)
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
                self.watch((lease.identity, lease.version))

    def watch(self, key: Key) -> None:
        self.forget(key)
        entry = self.entries[key] = Entry(*key)
        self.after(entry, _SETTLE[0], self._settle)

    def forget(self, key: Key) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.close(entry)

    def close(self, entry: Entry) -> None:
        for sock in (entry.exchange.sock if entry.exchange is not None else None, entry.probe):
            if sock is not None:
                self._sockets.pop(sock.fileno(), None)
        entry.close()

    def at(self, entry: Entry, when: float, what: Timer) -> None:
        self._number += 1
        entry.due = self._number
        heapq.heappush(self._timers, (when, self._number, entry.key, what))

    def after(self, entry: Entry, seconds: float, what: Timer) -> None:
        self.at(entry, boot.elapsed() + seconds, what)

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

    def _counts(self, timer: tuple[float, int, Key, Timer]) -> bool:
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
            log.warning("%s: %s", entry.name, error)
        except Exception:
            log.exception("%s: a mistake of ours", entry.name)
        else:
            return
        self.close(entry)
        if self.entries.get(entry.key) is entry:
            self.after(entry, jitter(states4.ANSWER_SECONDS), self.next)

    def read(self, entry: Entry) -> AnyLease | None:
        """The lease as its file has it now; None when DEL has taken it, which ends the entry."""
        lease = self.store.read(*entry.key)
        if lease is None or lease.state is State.REQUESTING:
            self.forget(entry.key)
            return None
        return lease

    def write(self, entry: Entry, lease: AnyLease) -> bool:
        if self.store.replace(lease, after(_LOCK_SECONDS)):
            return True
        self.forget(entry.key)
        return False

    def _settle(self, entry: Entry) -> None:
        """Bound the address' life by the lease's, as soon as the interface has it from the main plugin."""
        lease = self.read(entry)
        if lease is None:
            return
        if lease.holds:
            with link.opened(lease.place, self.prefix) as found:
                if found is not None and link.has(found, lease):
                    link.hold(found, lease)
                    entry.settled = len(_SETTLE)
        entry.settled += 1
        if entry.settled < len(_SETTLE) and lease.t1 > boot.elapsed() + _SETTLE[entry.settled]:
            self.after(entry, _SETTLE[entry.settled], self._settle)
        else:
            self.next(entry)

    def next(self, entry: Entry) -> None:
        """Do what is due for a lease now, or set the timer for it."""
        lease = self.read(entry)
        if lease is None:
            return
        now = boot.elapsed()
        if lease.state is State.INIT:
            self._begin(entry, lease, State.INIT)
        elif now >= lease.end:
            self.lost(entry, lease, "no server renewed it until it ended")
        elif now >= lease.t2:
            self._begin(entry, lease, State.REBINDING)
        elif now >= lease.t1:
            self._begin(entry, lease, State.RENEWING)
        elif lease.t1 != float("inf"):
            self.at(entry, now + (lease.t1 - now) * jitter(0.95), self.next)

    def _begin(self, entry: Entry, lease: AnyLease, state: State) -> None:
        """Send what the state asks for, and wait for the answer."""
        if len(self._sockets) >= _AT_ONCE:
            self.after(entry, jitter(_TURN_SECONDS), self.next)
            return
        with link.opened(lease.place, self.prefix) as found:
            if found is None:
                self.absent(entry, lease)
                return
            if lease.state is not state:
                lease = replace(lease, state=state)
                if not self.write(entry, lease):
                    return
            if isinstance(lease, Lease6):
                states6.begin(self, entry, lease, found)
            else:
                states4.begin(self, entry, lease, found)

    def absent(self, entry: Entry, lease: AnyLease) -> None:
        """The namespace or the link has gone. They may come back (a path that is mounted again) while the
        lease holds; afterwards nobody can want it.
        """
        delegated = (
            isinstance(lease, Lease6) and lease.delegated
        )  # the host's own link may come back at any time
        if not delegated and (lease.state is State.INIT or boot.elapsed() >= lease.end):
            log.info("%s: its interface has gone, and the lease has ended", entry.name)
            self.store.remove(entry.identity, after(_LOCK_SECONDS), entry.version)
            self.forget(entry.key)
            return
        left = lease.end - boot.elapsed() if lease.state is not State.INIT else _GONE_SECONDS
        self.after(entry, max(_SHORTEST_RETRY, min(_GONE_SECONDS, left)), self.next)

    def unanswered(self, entry: Entry) -> None:
        self.close(entry)
        lease = self.read(entry)
        if lease is None:
            return
        entry.tries += 1
        now = boot.elapsed()
        if lease.state is State.INIT:
            wait = states4.pause(entry.tries)
            if isinstance(lease, Lease6):
                wait = states6.pause(lease, entry.tries)
            self.after(entry, wait, self.next)
            return
        if entry.tries == 1:
            log.warning(
                "%s: DHCP server %s does not answer; %s holds for another %d s",
                entry.name, lease.server, lease.address, max(0, lease.end - now),
            )  # fmt: skip
        delegation.aged(self.store.roots, lease)
        limit = self.limit(lease)
        half = (limit - now) / 2
        if isinstance(lease, Lease6):
            wait = max(_SHORTEST_RETRY, min(states6.pause(lease, entry.tries), half))
        else:
            wait = max(_SHORTEST_RETRY, min(_RETRY_SECONDS, lease.seconds / 16), half)
        self.at(entry, min(limit, now + wait), self.next)

    def _hear(self, entry: Entry) -> None:
        """Take what came in for a lease."""
        if entry.probe is not None:
            self._hear_holder(entry)
        elif entry.version == 6:
            states6.hear(self, entry)
        else:
            states4.hear(self, entry)

    def talk(self, entry: Entry, exchange: Exchange | Exchange6) -> None:
        """Listen for the answers of an exchange."""
        entry.exchange = exchange
        self._sockets[exchange.sock.fileno()] = entry

    def limit(self, lease: AnyLease) -> float:
        """Until when a server is asked in the state of a lease, on the boot's clock."""
        return lease.t2 if lease.state is State.RENEWING else lease.end

    def probing(
        self,
        entry: Entry,
        grant: AnyLease,
        sock: socket.socket,
        ask: Callable[[], None],
        heard: Callable[[], str | None],
    ) -> None:
        """Ask who has an address that is new, before it is used; `ask` and `heard` work with `sock`."""
        if entry.exchange is not None:
            self._sockets.pop(entry.exchange.sock.fileno(), None)
        entry.grant, entry.probe, entry.ask, entry.heard = grant, sock, ask, heard
        self._sockets[sock.fileno()] = entry
        entry.tries = 0
        self._ask_holder(entry)

    def _ask_holder(self, entry: Entry) -> None:
        if entry.ask is None or entry.grant is None:
            return
        if entry.tries == PROBES:
            lease = self.read(entry)
            if lease is not None:
                self.bound(entry, lease, entry.grant)
            return
        entry.tries += 1
        with contextlib.suppress(OSError):
            entry.ask()
        self.after(entry, PROBE_SECONDS, self._ask_holder)

    def _hear_holder(self, entry: Entry) -> None:
        if entry.heard is None or entry.grant is None:
            return
        try:
            holder = entry.heard()
        except OSError:
            return
        if holder is None:
            return
        self.refused(entry, entry.grant, holder)

    def refused(self, entry: Entry, grant: AnyLease, holder: str) -> None:
        """Somebody uses what a server gave: it is told so, and asked again later."""
        log.warning("%s: %s is in use by %s: declined", entry.name, grant.address, holder)
        with contextlib.suppress(OSError):
            if isinstance(grant, Lease6):
                states6.decline(self, entry, grant)
            else:
                states4.decline(entry, grant)
        self.close(entry)
        self.after(entry, jitter(FIRST_WAIT * 10), self.next)  # RFC 2131 section 3.1, step 5

    def bound(self, entry: Entry, before: AnyLease, lease: AnyLease) -> None:
        """The server agreed: the interface has the address for so long, and what changed is told."""
        self.close(entry)
        entry.tries, entry.transaction = 0, None
        changed = before.address != lease.address or before.state is State.INIT
        if changed:
            lease = replace(lease, told=f"the {lease.noun} is {lease.address} now, it was {before.address}")
        elif not lease.preferred and isinstance(lease, Lease6):
            lease = replace(lease, told=f"its server wants {lease.address} to be given up")
        if not self.write(entry, lease):
            return
        if lease.told and lease.told != before.told:
            log.warning("%s: %s", entry.name, lease.told)
        with link.opened(lease.place, self.prefix) as found:
            if found is not None:
                link.hold(found, lease, before if changed or before.options != lease.options else None)
        delegation.changed(self.store.roots, before, lease)
        self.next(entry)

    def lost(self, entry: Entry, lease: AnyLease, why: str) -> None:
        """The address is the container's no more."""
        self.close(entry)
        entry.tries, entry.transaction = 0, None
        told = f"the lease of {lease.address} is lost, {why}; {lease.loss}"
        log.error("%s: %s", entry.name, told)
        with link.opened(lease.place, self.prefix) as found:
            if found is not None:
                link.withdraw(found, lease)
        delegation.ended(self.store.roots, lease)
        if self.write(entry, replace(lease, state=State.INIT, told=told)):
            self.after(entry, jitter(_SHORTEST_RETRY), self.next)

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
            key = protocol.key_of(message["watch"])
            if self.store.read(*key) is None:
                return {"error": f"there is no lease {self.store.path(*key)}"}
            self.watch(key)
        elif "ensure" in message:
            key = protocol.key_of(message["ensure"])
            if key not in self.entries:
                self.watch(key)
        elif "forget" in message:
            self.forget(protocol.key_of(message["forget"]))
        elif "list" in message:
            return {"leases": [encode_any(lease) for lease in self.store.every()]}
        return {}


def serve(store: Store, listening: socket.socket, end: int | None = None, prefix: str = "") -> None:
    """Be the daemon of a store that this process has claimed."""
    Daemon(store, prefix).run(listening, end)
