"""What /proc tells about processes: identity, parentage, age, and the cookie and mark they inherit.

Next to nothing is imported, because the warden lives on this module too.
"""

import os
import signal

COOKIE = "MESOKIT_TASK"

# What a process cannot lose by changing its environment: its timer slack, which children inherit and exec
# keeps. The kernel's default is 50 µs; each start adds a number of its own of so many ns, which nobody
# notices.
MARK_BASE = 50_000
MARKS = 16_000

# A list of children that never settles is taken as far as it is known; it is asked for again soon.
_READINGS = 8

# So are all below a subreaper to whom new orphans come faster than they can be read: a process that forks and
# ends, and whose child does the same, is another one at every look.
_WALKS = 16

# Readings of /proc that a walk may need before it is asked whether a scan would need fewer; and scans until
# one is whole.
_CHEAP = 512
_SCANS = 3


class Stat:
    """One line of /proc/PID/stat (proc_pid_stat(5)). Times are in clock ticks, `rss` in pages."""

    __slots__ = (
        "children_system",
        "children_user",
        "group",
        "parent",
        "pid",
        "rss",
        "session",
        "started",
        "state",
        "system",
        "threads",
        "user",
    )

    def __init__(self, pid: int, line: bytes) -> None:
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.user = int(fields[11])
        self.system = int(fields[12])
        self.children_user = int(fields[13])
        self.children_system = int(fields[14])
        self.threads = int(fields[17])
        self.started = int(fields[19])
        self.rss = int(fields[21])

    @property
    def identity(self) -> tuple[int, int]:
        """(pid, start time): no two processes of one boot share it, as no two have one number in one tick."""
        return self.pid, self.started

    @property
    def dead(self) -> bool:
        """A zombie or a process that is being taken apart: it runs no more and waits for its parent."""
        return self.state in "ZX"


def _read(path: str) -> bytes | None:
    """The content of a small file of /proc; None when its process is gone or closed to us."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks = []
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def stat(pid: int) -> Stat | None:
    """The process as it is now, or None when there is none of that number."""
    line = _read(f"/proc/{pid}/stat")
    return Stat(pid, line) if line else None


def cookie(pid: int) -> str | None:
    """The value of MESOKIT_TASK that a process was started with, or None (no such variable, or not ours to
    read).
    """
    environ = _read(f"/proc/{pid}/environ")
    prefix = COOKIE.encode() + b"="
    for entry in (environ or b"").split(b"\0"):
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None


def mark(pid: int) -> int:
    """The mark of a process, or 0 when it has none or is not ours to read (see prctl(2),
    PR_SET_TIMERSLACK).
    """
    slack = int(_read(f"/proc/{pid}/timerslack_ns") or 0) - MARK_BASE
    return slack if 0 < slack <= MARKS else 0


def children(pid: int, threads: int = 0) -> list[int]:
    """The children of a process, of all its threads; none where the kernel has no such lists. Of how many
    `threads` is known to be, 0 for unknown: one thread's list is read without a listing of threads, and
    where it has made another meanwhile, that one's children come with the next look.
    """
    if threads == 1:
        return list(map(int, (_read(f"/proc/{pid}/task/{pid}/children") or b"").split()))
    try:
        names = [entry.name for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:
        return []
    found: list[int] = []
    for thread in names:
        found.extend(map(int, (_read(f"/proc/{pid}/task/{thread}/children") or b"").split()))
    return found


def everything() -> list[Stat]:
    """Every process that this one can see."""
    found = (stat(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [entry for entry in found if entry is not None]


def descendants(root: int) -> list[Stat]:
    """Every process below `root`, parents before their children.

    Walks the kernel's own lists of children (CONFIG_PROC_CHILDREN), whose cost is that of our own processes
    and not of the machine's. Where the kernel has none, or ours have so many threads, each with a list of its
    own, that it is the dearer way, reads every process of the machine.
    """
    found = _walk(root) if _read("/proc/thread-self/children") is not None else None
    return _scan(root) if found is None else found


def _walk(root: int) -> list[Stat] | None:
    """All below `root`, a subreaper: who loses its parent during the walk is its child when we look again.
    None where a scan is cheaper.
    """
    found: list[Stat] = []
    seen: set[int] = set()
    readings, most = 0, _CHEAP
    for _ in range(_WALKS):
        waiting = list(settled_children(root) - seen)
        if not waiting:
            break
        while waiting:
            pid = waiting.pop()
            seen.add(pid)
            entry = stat(pid)
            if entry is None:
                continue
            found.append(entry)
            readings += 2 + entry.threads
            if readings > most:
                most = max(most, sum(entry.name.isdigit() for entry in os.scandir("/proc")))
                if readings > most:
                    return None
            waiting.extend(child for child in children(pid, entry.threads) if child not in seen)
    return found


def _scan(root: int) -> list[Stat]:
    """All below `root`, from the whole machine's processes. One whose parent ended meanwhile hangs from
    nothing: then it is done again.
    """
    for _ in range(_SCANS):
        entries = everything()
        known = {entry.pid for entry in entries}
        if all(entry.parent in known for entry in entries if entry.parent):
            break
    by_parent: dict[int, list[Stat]] = {}
    for entry in entries:
        by_parent.setdefault(entry.parent, []).append(entry)
    found: list[Stat] = []
    waiting = [root]
    while waiting:
        below = by_parent.get(waiting.pop(), [])
        found.extend(below)
        waiting.extend(entry.pid for entry in below)
    return found


def settled_children(pid: int) -> set[int]:
    """Everybody named in readings of the list until two agree.

    The kernel counts its way through the list: when one ends meanwhile, another may be left out.
    """
    entry = stat(pid)
    threads = entry.threads if entry is not None else 0
    last = children(pid, threads)
    named = set(last)
    for _ in range(_READINGS):
        now = children(pid, threads)
        named.update(now)
        if now == last:
            break
        last = now
    return named


def send_signal(entry: Stat, number: int) -> bool:
    """Signal exactly the process that `entry` describes; False when it has ended or is not ours to signal.

    A pidfd holds on to a process and not to a number; the start time, read after opening it, says that it
    is the same.
    """
    try:
        descriptor = os.pidfd_open(entry.pid)
    except OSError:
        return False
    try:
        now = stat(entry.pid)
        if now is None or now.started != entry.started:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
