"""The floor's steps (floor.c): the system calls of a plugin call, recorded from one of the node service.

strace listens to the service while a call goes on. Of what the thread that does the call asks the kernel for
between taking it and answering, everything is kept that has to do with files, namespaces and sockets of the
call; the service's own business with its supervisor and the launcher is not. Messages that tell the network
about the new address follow the answer, so that no caller waits for them: they are no part of it either.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import straced
from straced import Call

_ATTACHED_WITHIN_SECONDS, _WRITTEN_WITHIN_SECONDS, _LOOK_SECONDS = 30, 10, 0.02
_AT_FDCWD = -100
_SIOCGIFNAME, _SIOCGIFINDEX, _SIOCDEVPRIVATE = 0x8910, 0x8933, 0x89F0
_NEWLINK, _DELLINK, _NLMSG_ERROR, _NETLINK_NETFILTER = 16, 17, 2, 12
# Where the index of a link stands in messages of rtnetlink(7): in the header of links, addresses, neighbours
# and shaping; in attributes behind a header of so many bytes (IFLA_LINK, IFLA_MASTER; RTA_OIF).
_IN_HEADER = (*range(16, 20), *range(20, 23), *range(28, 31), *range(36, 47))
_IN_ATTRIBUTES = {16: (16, (5, 10)), 19: (16, (5, 10)), 24: (12, (4,)), 25: (12, (4,))}

_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^(-?\d+)<(.*)>(?:\(deleted\))?$")

# How the arguments of a call are kept: d a descriptor, p a path, i a number, b bytes that strace shows in a
# dump below the call, o room for an answer.
_FORMS = {
    "close": "d",
    "flock": "di",
    "fsync": "d",
    "ftruncate": "di",
    "getdents64": "doi",
    "lseek": "dii",
    "mkdirat": "dpi",
    "newfstatat": "dpoi",
    "openat": "dpii",
    "pread64": "doii",
    "read": "doi",
    "renameat": "dpdp",
    "setns": "di",
    "unlinkat": "dpi",
    "write": "dbi",
}
_NEWER = {
    "mkdir": ("mkdirat", "-100 ? ?"),
    "rename": ("renameat", "-100 ? -100 ?"),
    "rmdir": ("unlinkat", "-100 ? 512"),
    "unlink": ("unlinkat", "-100 ? 0"),
}
# What neither changes anything nor asks about anything of the call.
_IGNORED = frozenset(
    (
        "clock_nanosleep", "clone3", "getpid", "getrandom", "gettid", "madvise", "mmap", "mprotect", "mremap",
        "munmap", "poll", "prlimit64", "rseq", "set_robust_list",
    )
)  # fmt: skip


class Unknown(Exception):
    """A call asked for something of the kernel that has no step: a thread's first call does, for one."""


class Unfinished(Exception):
    """What was heard is not the whole of a call."""


@dataclass(slots=True)
class Recording:
    """Steps, and what of them a test compares: how often each type of netlink message was sent, and which
    files were opened.
    """

    steps: list[str] = field(default_factory=list)
    messages: Counter[int] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)


def record(pids: Sequence[int], call: Callable[[], object]) -> Recording:
    """What the service with these processes does for `call`. Unknown; Unfinished when it cannot be heard."""
    with tempfile.TemporaryDirectory(prefix="floor-", dir="/tmp") as folder:
        argv = [*straced.command(Path(folder)), *(word for pid in pids for word in ("-p", str(pid)))]
        tracer = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            _until_attached(tracer, pids)
            call()
            return _translated(Path(folder))
        finally:
            tracer.terminate()
            tracer.wait()


def sent(folder: Path) -> Counter[int]:
    """How often each type of netlink message was sent by the threads in `folder`."""
    calls = (
        call for path in folder.iterdir() for call in straced.calls(path.read_text()) if _is_netlink(call)
    )
    return Counter(
        struct.unpack_from("=H", call.data, begin + 4)[0]
        for call in calls
        for begin, _ in _messages(call.data)
    )


def _translated(folder: Path) -> Recording:
    """The caller hears the answer before strace has written it down, and a deletion goes on after it."""
    deadline = time.monotonic() + _WRITTEN_WITHIN_SECONDS
    while True:
        time.sleep(_LOOK_SECONDS)
        try:
            return translate([list(straced.calls(path.read_text())) for path in sorted(folder.iterdir())])
        except Unfinished:
            if time.monotonic() > deadline:
                raise


def _until_attached(tracer: subprocess.Popen[bytes], pids: Sequence[int]) -> None:
    deadline = time.monotonic() + _ATTACHED_WITHIN_SECONDS
    while not all(_is_traced(pid, tracer.pid) for pid in pids):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise Unfinished("strace cannot listen to the service")
        time.sleep(_LOOK_SECONDS)


def _is_traced(pid: int, tracer: int) -> bool:
    """All threads of a process; those that end meanwhile do not matter."""
    line = f"TracerPid:\t{tracer}\n"
    with suppress(FileNotFoundError, ProcessLookupError):
        return all(line in (path / "status").read_text() for path in Path(f"/proc/{pid}/task").iterdir())
    return True


def translate(threads: Iterable[Sequence[Call]]) -> Recording:
    """The steps of the one call that is in `threads`. Unknown; Unfinished when it is not there, or half."""
    every = list(threads)
    working = [calls for calls in every if any(_is_answer(call) for call in calls)]
    if len(working) != 1:
        raise Unfinished(f"{len(working)} threads answered a call")
    (calls,) = working
    taken = max(i for i, call in enumerate(calls) if call.name == "sendto" and call.data == b"A")
    answered = max(i for i, call in enumerate(calls) if _is_answer(call))
    others = [call for other in every if other is not calls for call in other if _is_deletion(call)]
    return _Translator(others).recording(calls[taken + 1 : answered])


def _is_answer(call: Call) -> bool:
    return call.name == "sendto" and call.data.startswith(b"MSK2") and "UNIX" in call.arguments[0]


def _is_netlink(call: Call) -> bool:
    return call.name == "sendto" and "NETLINK" in call.arguments[0]


def _is_deletion(call: Call) -> bool:
    return _is_netlink(call) and struct.unpack_from("=H", call.data, 4)[0] == _DELLINK


class _Translator:
    """The state while steps are made: which descriptors are the call's own, in which namespace the thread is,
    which links' indices were learned.
    """

    def __init__(self, apart: Sequence[Call]) -> None:
        self._apart = list(apart)
        self._out = Recording()
        self._open: set[int] = set()
        self._placed: dict[int, str] = {}
        self._namespaces: list[str] = []
        self._here = "host"
        self._sockets: dict[int, tuple[str, int]] = {}  # namespace and protocol of each
        self._asked: set[int] = set()
        self._changed: list[int] = []  # the variables of the links that the last message was about
        self._leaving: set[int] = set()  # sockets of those that are waited for until a link is gone
        self._indices: dict[tuple[str, int], int] = {}

    def recording(self, calls: Sequence[Call]) -> Recording:
        for call in _without_questions(calls):
            if call.name not in _IGNORED and not call.error.startswith("ERESTART"):
                self._step(_newer(call))
        self._out.steps[:0] = [f"place {number} {what}" for number, what in sorted(self._placed.items())]
        return self._out

    def _step(self, call: Call) -> None:
        name, arguments = call.name, call.arguments
        if name == "socket":
            self._socket(call)
        elif not self._is_ours(arguments[0]):
            return
        elif name == "sendto":
            self._sent(call)
        elif name == "recvfrom":
            self._received(call)
        elif name in {"setsockopt", "getsockopt"}:
            _, level, option, value, _ = arguments
            words = f"d{_number(arguments[0])} i{int(level, 0)} i{int(option, 0)} "
            given = f"s{_int(int(value.strip('[]'), 0))} i4" if name == "setsockopt" else f"o s{_int(8)}"
            self._call(call, words + given)
        elif name == "bind":
            address = struct.pack("=HHII", socket.AF_NETLINK, 0, 0, 0)
            self._call(call, f"d{_number(arguments[0])} s{address.hex()} i{len(address)}")
        elif name == "ioctl":
            asked = f" s{_text(arguments[2]).ljust(40, bytes(1)).hex()}" if len(arguments) > 2 else ""
            learned = ""
            if index := re.search(r"ifr_ifindex=(\d+)", " ".join(arguments)):
                learned = f" ={self._variable(self._here, int(index[1]))}"
            self._call(call, f"d{_number(arguments[0])} i{int(arguments[1], 0)}{asked}{learned}")
        elif name == "utimensat":
            self._call(call, f"d{_number(arguments[0])} {_path(arguments[1])} i0 i0")
        elif name == "setxattr":
            value = f"s{_text(arguments[2]).hex()} i{int(arguments[3])} i0"
            self._call(call, f"{_path(arguments[0])} {_path(arguments[1])} {value}")
        elif name in _FORMS:
            self._plain(call)
        else:
            raise Unknown(f"no step for {name}({', '.join(arguments)})")

    def _is_ours(self, argument: str) -> bool:
        """Whether a system call whose first argument this is belongs to the plugin call; a namespace, the
        tree of sysctls or a socket that the worker keeps gets its place when it is first met. The host's
        namespace is met first.
        """
        found = _DESCRIPTOR.match(argument)
        if argument.startswith('"') or _number(argument) == _AT_FDCWD:
            return True
        number, what = _number(argument), _unquoted(found[2]) if found else ""
        if what.startswith("net:[") and number not in self._placed:
            if what not in self._namespaces:
                self._namespaces.append(what)
            self._placed[number] = ("host", "container")[self._namespaces.index(what)]
        elif what.startswith("/sys/net") and number not in self._open:
            self._placed[number] = "sysctl"
        elif what.startswith("NETLINK:") and number not in self._open:
            self._placed[number] = "netfilter"  # the one kind that a worker leaves open after a call
            self._sockets[number] = "host", _NETLINK_NETFILTER
        return number in self._open or number in self._placed

    def _variable(self, namespace: str, index: int) -> int:
        return self._indices.setdefault((namespace, index), len(self._indices))

    def _call(self, call: Call, words: str) -> None:
        self._out.steps.append(f"call {call.name} {getattr(errno, call.error) if call.error else 0} {words}")

    def _plain(self, call: Call) -> None:
        words = [
            _word(kind, text, call.data)
            for kind, text in zip(_FORMS[call.name], call.arguments, strict=False)
        ]
        if call.name == "openat" and not call.error:
            words.append(f">{call.result}")
            self._open.add(call.result)
            self._out.files.append(_text(call.arguments[1]).decode())
        elif call.name == "setns":
            self._here = self._placed[_number(call.arguments[0])]
        elif call.name == "close":
            number = _number(call.arguments[0])
            if number in self._placed:
                return
            self._open.discard(number)
            self._asked.discard(number)
            self._leaving.discard(number)
        self._call(call, " ".join(words))

    def _socket(self, call: Call) -> None:
        numbers = [sum(int(part, 0) for part in each.split("|")) for each in call.arguments]
        self._open.add(call.result)
        self._sockets[call.result] = self._here, numbers[2]
        self._call(call, " ".join(f"i{each}" for each in numbers) + f" >{call.result}")

    def _sent(self, call: Call, kind: str = "send") -> None:
        number = _number(call.arguments[0])
        namespace, protocol = self._sockets[number]
        self._asked.add(number)
        words = [kind, str(number), call.data.hex()]
        self._changed = []
        for begin, end in _messages(call.data):
            (what,) = struct.unpack_from("=H", call.data, begin + 4)
            self._out.messages[what] += 1
            for offset in _index_offsets(call.data, begin, end, what) if protocol == 0 else ():
                learned = self._indices.get((namespace, *struct.unpack_from("=I", call.data, offset)))
                if learned is not None:
                    words.append(f"@{offset}:{learned}")
                    self._changed.append(learned)
        self._out.steps.append(" ".join(words))

    def _received(self, call: Call) -> None:
        number = _number(call.arguments[0])
        if number not in self._asked:  # somebody else sent, and the call waits until it has happened
            apart = [call for call in self._apart if _number(call.arguments[0]) == number]
            if not apart:
                raise Unfinished("nobody sends what the call waits for")
            self._apart.remove(apart[0])
            grouped = self._changed
            self._sent(apart[0], "apart")  # of one link, or of the group that links were just put in
            self._out.steps += [f"gone {each}" for each in self._changed or grouped]
            self._leaving.add(number)
        elif not call.error and number not in self._leaving:
            namespace, protocol = self._sockets[number]
            first, index, learned = struct.unpack_from("=4xH14xI", call.data.ljust(24, b"\0")), 0, -1
            kind, index = first
            if protocol == 0 and kind == _NEWLINK:
                learned = self._variable(namespace, index)
            self._out.steps.append(f"receive {number} {_error(call.data)} {learned}")


def _without_questions(calls: Sequence[Call]) -> list[Call]:
    """Without what is asked again and again until a link is gone, whose number differs (the floor asks the
    same), and without a bridge's list of ports, whose question holds pointers. A socket is made for each.
    """
    left_out: set[int] = set()
    for place, call in enumerate(calls):
        if call.name == "ioctl" and int(call.arguments[1], 0) in {_SIOCGIFNAME, _SIOCDEVPRIVATE}:
            left_out |= {place - 1, place, place + 1}
    return [call for place, call in enumerate(calls) if place not in left_out]


def _newer(call: Call) -> Call:
    """mkdir(2) and others that not every processor has, as what they all have."""
    if call.name not in _NEWER:
        return call
    name, form = _NEWER[call.name]
    words = iter(call.arguments)
    arguments = tuple(next(words) if each == "?" else each for each in form.split())
    return replace(call, name=name, arguments=arguments)


def _word(kind: str, text: str, data: bytes) -> str:
    if kind == "d":
        return f"d{_number(text)}"
    if kind == "p":
        return _path(text)
    if kind == "i":
        return f"i{int(text, 8) if text.startswith('0') and text.isdigit() else int(text, 0)}"
    return f"s{data.hex()}" if kind == "b" else "o"


def _number(argument: str) -> int:
    return int(argument.partition("<")[0], 0)


def _text(argument: str) -> bytes:
    """The string in an argument; b"" when there is none."""
    found = _STRING.search(argument)
    return bytes.fromhex(found[1].replace("\\x", "")) if found else b""


def _path(argument: str) -> str:
    return f"s{_text(argument).hex()}"


def _unquoted(decoration: str) -> str:
    """What strace says of a descriptor, part of it in hexadecimal escapes."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), decoration)


def _int(number: int) -> str:
    return struct.pack("=i", number).hex()


def _messages(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each netlink message begins and ends."""
    begin = 0
    while begin + 16 <= len(data):
        (length,) = struct.unpack_from("=I", data, begin)
        yield begin, begin + length
        begin += max(16, (length + 3) & ~3)


def _index_offsets(data: bytes, begin: int, end: int, kind: int) -> Iterator[int]:
    """Where indices of links stand in a message of rtnetlink(7)."""
    if kind in _IN_HEADER and end - begin >= 24:
        yield begin + 20
    size, wanted = _IN_ATTRIBUTES.get(kind, (0, ()))
    offset = begin + 16 + size
    while size and offset + 4 <= end:
        length, attribute = struct.unpack_from("=HH", data, offset)
        if attribute in wanted:
            yield offset + 4
        offset += max(4, (length + 3) & ~3)


def _error(data: bytes) -> int:
    """The first errno in an answer, 0 for none."""
    codes = (
        -struct.unpack_from("=i", data, begin + 16)[0]
        for begin, end in _messages(data)
        if struct.unpack_from("=H", data, begin + 4)[0] == _NLMSG_ERROR and end - begin >= 20
    )
    return next((code for code in codes if code), 0)
