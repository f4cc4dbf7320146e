"""The whole tree of a task: found, stopped until it no longer changes, then signalled.

Every process that a task ever made is below one subreaper (see warden.py), so only those are looked at. One
of them belongs to a task when it descends from the task's process, or is in a session or group led by one
that does, or was seen to belong before, or has the task's mark, or was started with the task's cookie: a
daemon that has left its parent and its session still has those two.

It can get rid of them: cookie and mark are its own to change, and so they are guesses. Neither tells another
task's, both being drawn at random for each start, and those of no living task are no better than none. What
nothing is known of was made by somebody who is older; where only one living task is, it is that one's. Where
several are, it lives on until one of them is left; so it outlives its task, and never all of them.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from executor.process import procfs
from executor.process.launch import Process
from executor.process.procfs import Stat

# A tree that grows faster than it can be stopped is signalled as far as it is known after so many seconds:
# the caller has more to do than this, and comes back.
_LIMIT = 0.1
# A large tree may need longer for the looks that any tree gets.
_LEAST_ROUNDS = 3
# Processes stop within microseconds; one that sits in the kernel (the parent of a vfork(2) does as long as
# its child likes) stops when it comes out, and cannot fork until then.
_STOP_PAUSE = 0.0005
_STOP_PAUSES = 20


class Lineage:
    """What is known of who belongs to whom, kept between looks: (pid, start time) -> cookie."""

    def __init__(self, root: Callable[[], int]) -> None:
        """`root` tells below which process all tasks are."""
        self._root = root
        self._living: dict[str, Process] = {}
        self._starting: dict[int, str] = {}
        self._known: dict[tuple[int, int], str] = {}
        self._no_cookie: set[tuple[int, int]] = set()

    def expect(self, cookie: str, mark: int) -> None:
        """Something is being started: what bears its mark is its own."""
        self._starting[mark] = cookie

    def add(self, process: Process) -> None:
        """It was started."""
        self._starting.pop(process.mark, None)
        self._living[process.cookie] = process

    def abandon(self, mark: int) -> None:
        """It was not."""
        self._starting.pop(mark, None)

    def strangers(self) -> tuple[list[Stat], set[tuple[int, int]]]:
        """Of whom nothing is known yet right below the warden: the running, and the identities of those that
        have ended since they were listed (started at 0 where even that is not known any more).
        """
        known = {pid for pid, _ in self._known} | {process.pid for process in self._living.values()}
        running: list[Stat] = []
        ended: set[tuple[int, int]] = set()
        for pid in procfs.settled_children(self._root()):
            entry = None if pid in known else procfs.stat(pid)
            if entry is not None and entry.state in "RSD":
                running.append(entry)
            elif pid not in known and (entry is None or entry.dead):
                ended.add((pid, 0) if entry is None else entry.identity)
        return running, ended

    def members(self, processes: Iterable[Process]) -> dict[str, list[Stat]]:
        """The living processes of each task, by cookie, from one look at all that is below the warden."""
        wanted = {process.cookie: process for process in processes}
        entries = [entry for entry in procfs.descendants(self._root()) if not entry.dead]
        alive = {entry.identity: entry for entry in entries}
        self._known = {identity: cookie for identity, cookie in self._known.items() if identity in alive}
        self._no_cookie &= alive.keys()
        living = {**self._living, **wanted}
        for process in living.values():
            if (process.pid, process.started) in alive:
                self._known[process.pid, process.started] = process.cookie
        self._spread(entries, living)
        owners = set(self._known.values())
        self._living = {cookie: process for cookie, process in self._living.items() if cookie in owners}
        found: dict[str, list[Stat]] = {cookie: [] for cookie in wanted}
        for entry in entries:
            cookie = self._known.get(entry.identity)
            if cookie in found:
                found[cookie].append(entry)
        return found

    def _spread(self, entries: list[Stat], living: Mapping[str, Process]) -> None:
        """Give each entry its owner; parents come before children, and what is learnt of one teaches of
        others.
        """
        numbers = {entry.pid: entry for entry in entries}
        leaders: dict[int, str] = {}
        for process in living.values():
            # A dead leader's number stays taken while its session or group lives; a new process of that
            # number ends it.
            reused = process.pid in numbers and numbers[process.pid].started != process.started
            if not reused:
                leaders[process.pid] = process.cookie
        marks = _marks(living.values()) | self._starting
        for entry in entries:
            owner = self._known.get(entry.identity)
            if owner is not None:
                leaders.setdefault(entry.pid, owner)
        changed = True
        while changed:
            changed = False
            for entry in entries:
                if entry.identity in self._known:
                    continue
                owner = self._owner(entry, numbers, leaders) or self._guess(entry, numbers, living, marks)
                if owner is not None:
                    self._known[entry.identity] = owner
                    leaders.setdefault(entry.pid, owner)
                    changed = True

    def _owner(self, entry: Stat, numbers: Mapping[int, Stat], leaders: Mapping[int, str]) -> str | None:
        parent = numbers.get(entry.parent)
        if parent is not None and parent.identity in self._known:
            return self._known[parent.identity]
        for leader in (entry.session, entry.group):
            if leader in leaders:
                return leaders[leader]
        return None

    def _guess(
        self,
        entry: Stat,
        numbers: Mapping[int, Stat],
        living: Mapping[str, Process],
        marks: Mapping[int, str],
    ) -> str | None:
        """The owner of a process that has left its parent and its session; None where nothing tells."""
        if entry.parent in numbers:
            return None  # its parent's owner is its own, and that one's turn comes
        owner = marks.get(procfs.mark(entry.pid))
        if owner is not None:
            return owner
        if entry.identity not in self._no_cookie:
            cookie = procfs.cookie(entry.pid)
            if cookie in living:
                return cookie
            self._no_cookie.add(entry.identity)
        if self._starting or entry.session == self._session():
            return None  # it may be a start of ours that has not come to its program
        older = [cookie for cookie, process in living.items() if process.started <= entry.started]
        return older[0] if len(older) == 1 else None

    def _session(self) -> int:
        """The session of the process that starts all: none of a task's can be in it."""
        root = procfs.stat(self._root())
        return root.session if root is not None else 0


def _marks(processes: Iterable[Process]) -> dict[int, str]:
    """The owners of marks; numbers come round again, and one that two tasks have tells nothing."""
    marks: dict[int, str] = {}
    twice: set[int] = set()
    for process in processes:
        if process.mark in marks:
            twice.add(process.mark)
        marks[process.mark] = process.cookie
    return {mark: cookie for mark, cookie in marks.items() if mark not in twice}


@dataclass(frozen=True, slots=True)
class Signalled:
    """What came of a signal to trees: how many processes got it, and the cookies of those trees in which new
    ones appeared to the last, or may have.
    """

    count: int
    growing: frozenset[str]


def signal_members(lineage: Lineage, processes: list[Process], number: int) -> Signalled:
    """Stop every process of these tasks, look again until no new one appears, send `number`, let them go on.

    A process that is stopped cannot fork between the look and the signal. One that forks and ends, and whose
    child does the same in a session of its own, would be another at every look: so whoever turns up below the
    warden is stopped first, then asked whose it is, and goes on if it is nobody's of these. Who has ended
    before he could be stopped may have left such a child, so there is one more look. Where nobody turns up
    and nobody has ended, as at the end of most tasks, one look is all.
    """
    stopped: dict[tuple[int, int], Stat] = {}
    held: dict[tuple[int, int], Stat] = {}
    ended: set[tuple[int, int]] = set()
    grown: set[str] = set()
    until = time.monotonic() + _LIMIT
    for rounds in itertools.count(1):
        running, left = lineage.strangers()
        stoppable = {entry.identity: entry for entry in running if _stop(entry)}
        gone = [entry for entry in running if entry.identity not in stoppable and not _may_go_on(entry)]
        left |= {entry.identity for entry in gone}
        moving = not left <= ended
        held |= stoppable
        ended |= left
        new = {
            cookie: fresh
            for cookie, entries in lineage.members(processes).items()
            if (fresh := [entry for entry in entries if entry.identity not in stopped])
        }
        arrived = [entry for entries in new.values() for entry in entries]
        grown |= new.keys() if rounds > 1 else set()
        for entry in arrived:
            _stop(entry)
            stopped[entry.identity] = entry
        moving |= _some_slip([entry for identity, entry in stoppable.items() if identity not in stopped])
        settled = not arrived and not moving
        if settled or (rounds >= _LEAST_ROUNDS and time.monotonic() >= until):
            break
        _wait_stopped(arrived)
    for identity in held.keys() - stopped.keys():
        procfs.send_signal(held[identity], signal.SIGCONT)
    signalled = sum(procfs.send_signal(entry, number) for entry in stopped.values())
    if number != signal.SIGKILL:
        for entry in stopped.values():
            procfs.send_signal(entry, signal.SIGCONT)
    return Signalled(signalled, frozenset(new.keys() | (grown if moving else set())))


def _stop(entry: Stat) -> bool:
    return procfs.send_signal(entry, signal.SIGSTOP)


def _some_slip(strangers: list[Stat]) -> bool:
    """Whether some end instead of stopping. One that is about to has no environment and no mark any more: it
    and the child that it leaves are nobody's until that child is looked at by itself.
    """
    _wait_stopped(strangers)
    return any(now is None or now.state not in "TtD" for now in (procfs.stat(one.pid) for one in strangers))


def _wait_stopped(entries: list[Stat]) -> None:
    """Until all of them are, some milliseconds at most for all together."""
    for _ in range(_STOP_PAUSES):
        entries = [entry for entry in entries if _may_go_on(entry)]
        if not entries:
            return
        time.sleep(_STOP_PAUSE)


def _may_go_on(entry: Stat) -> bool:
    now = procfs.stat(entry.pid)
    return now is not None and now.started == entry.started and now.state in "RSD"
