"""A private node: a machine's network, mounts, host name and processes, alone and thrown away when done.

    with Node() as node:
        node.run(["ip", "link", "add", "br0", "type", "bridge"])
        box = node.netns("c1")                          # /run/netns/c1
        answer = node.cni("ADD", "/usr/lib/cni/bridge", conf, "c1", box, ifname="eth0")
        print(answer.result["ips"], box.json("ip", "-j", "addr"))

Theory: process 1 of the node (node_init.py) holds new network, mount, uts, ipc and pid namespaces. /run,
/var/lib/cni,
/var/lib/mesokit, /etc/cni, /opt/cni start empty; /etc, /opt, /var and /root are copies that can be written;
/tmp, /usr and the source tree are the machine's. The only interface is `lo`: no packet can leave. Leaving
the context, or the death of the process that made the node, ends process 1, and the kernel ends and frees
all that was in it.

Programs are started by process 1 on request (about a millisecond), with standard output and error in memory
files, so that nothing blocks on a pipe that some daemon keeps open. Any number of threads may use one node,
and any number of nodes may exist at once. In tests process 1 is forked from a process that has everything
imported (`Node.maker`, warm.py), and so are our own programs in the node.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from netns_tests.process import Finished, NodeError, Running, started, until

__all__ = ["Answer", "Finished", "Netns", "Node", "NodeError", "Running", "answer", "started", "until"]

#: A network configuration: an object, or the very bytes of standard input.
Conf = Mapping[str, Any] | bytes | str

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a CNI plugin answered: `result` for status 0 (None when it printed nothing), else `error`, the
    error object."""

    finished: Finished
    result: dict[str, Any] | None
    error: dict[str, Any] | None

    @property
    def code(self) -> int:
        """0, or the code of the error object."""
        return 0 if self.error is None else int(self.error["code"])

    def ok(self) -> dict[str, Any]:
        """The result; a failed call raises NodeError with what the plugin said."""
        if self.error is not None:
            raise NodeError(f"{self.finished.argv}: {self.error}")
        return self.result or {}


@dataclass(frozen=True, slots=True)
class Netns:
    """A network namespace in a node, that stands for a container."""

    node: Node
    path: str

    @property
    def name(self) -> str:
        return Path(self.path).name

    def run(
        self, argv: Sequence[str], *, input: bytes | str | None = None, env: Mapping[str, str] | None = None,
        check: bool = True, timeout: float = 150,
    ) -> Finished:  # fmt: skip
        return self.node.run(argv, input=input, env=env, check=check, timeout=timeout, netns=self.path)

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Running:
        return self.node.popen(argv, env=env, netns=self.path)

    def json(self, *argv: str) -> Any:
        return self.run(argv).json()

    def ping(self, address: str, *, seconds: float = 5) -> bool:
        """True when an echo request to `address` is answered within about `seconds` seconds."""
        return self.node.ping(address, seconds=seconds, netns=self.path)

    def delete(self) -> None:
        self.node.run(["ip", "netns", "del", self.name])


class Maker(Protocol):
    def __call__(self, control: int, errors: int, hostname: str) -> None:
        """Makes process 1 of a node, which serves the socket `control` and writes its errors to a pipe."""


class Node:
    """See the top of this module. `environment` is what every program gets beside PATH (or instead of it).
    Without `pids` the processes are the machine's own, as those of a real node: leaving the context ends none
    of them.
    """

    #: Makes process 1, as pytest has it (conftest.py); without one, `unshare` and an interpreter are started.
    maker: ClassVar[Maker | None] = None

    def __init__(
        self, environment: Mapping[str, str] | None = None, hostname: str = "node", *, pids: bool = True
    ) -> None:
        self.environment = {"PATH": PATH, **(environment or {})}
        self.hostname = hostname
        self._pids = pids
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said: int | None = None  # its standard error, which ends when the last of the node has ended
        self.pid = 0  # of process 1, as the maker of the node sees it

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._said, errors = os.pipe()
        with theirs:
            try:
                self._make(theirs.fileno(), errors)
            finally:
                os.close(errors)
        data, ancillary, _flags, _address = ours.recvmsg(64, socket.CMSG_SPACE(12))
        if data != b"ready":
            ours.close()
            raise NodeError(f"no node (root is needed): {self._end()}")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self.pid = struct.unpack("3i", ancillary[0][2])[0]
        self._control = ours
        return self

    def _make(self, control: int, errors: int) -> None:
        if self.maker is not None and self._pids:
            self.maker(control, errors, self.hostname)
            return
        self._process = subprocess.Popen(
            self._starter(control),
            pass_fds=[control],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            cwd="/",
        )

    def _starter(self, control: int) -> list[str]:
        """The program that makes the node and serves the socket `control`."""
        namespaces = ["--net", "--mount", "--uts", "--ipc"]
        namespaces += ["--pid", "--fork", "--kill-child=SIGKILL"] if self._pids else []
        first = python(Path(__file__).with_name("node_init.py"), control, self.hostname)
        return ["unshare", *namespaces, "--", *first]

    def _end(self) -> str:
        """Waits until nothing of the node is left; what it said."""
        said = b""
        if self._said is not None:
            with os.fdopen(self._said, "rb") as pipe:
                said = pipe.read()
            self._said = None
        if self._process is not None:
            self._process.wait()
            self._process = None
        return said.decode(errors="replace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the node; when this returns, no process of it is left."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self._end()

    def _send(self, message: Mapping[str, object], fds: list[int]) -> None:
        if self._control is None:
            raise NodeError("the node is closed")
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)
        except BrokenPipeError as error:
            raise NodeError("the node's first process has ended") from error

    def _signal(self, pid: int, number: int) -> None:
        self._send({"kill": pid, "signal": number}, [])

    def popen(
        self, argv: Sequence[str], *, input: bytes | str | None = None, env: Mapping[str, str] | None = None,
        netns: str | None = None, cwd: str = "/", bare: bool = False,
        stdin: int | None = None, stdout: int | None = None, stderr: int | None = None,
    ) -> Running:  # fmt: skip
        """Starts a program. `env` is added to the node's environment; with `bare` it is all there is.
        Descriptors given as `stdin`, `stdout`, `stderr` are used as they are (and stay the caller's); else
        output goes to memory files."""
        out = os.memfd_create("stdout") if stdout is None else None
        err = os.memfd_create("stderr") if stderr is None else None
        source = _memory(input or b"") if stdin is None else os.dup(stdin)
        status_read, status_write = os.pipe()
        environment = dict(env or {}) if bare else {**self.environment, **(env or {})}
        message = {"run": [str(word) for word in argv], "env": environment, "netns": netns, "cwd": cwd}
        fds = [
            source,
            out if stdout is None else stdout,
            err if stderr is None else stderr,
            status_write,
        ]
        try:
            self._send(message, [fd for fd in fds if fd is not None])
        finally:
            os.close(source)
            os.close(status_write)
        return Running(argv, self._signal, status_read, out, err)

    def run(
        self, argv: Sequence[str], *, input: bytes | str | None = None, env: Mapping[str, str] | None = None,
        check: bool = True, timeout: float = 150, netns: str | None = None,
        cwd: str = "/", bare: bool = False,
    ) -> Finished:  # fmt: skip
        """Runs a program to its end. A status other than 0 raises NodeError unless `check` is false; after
        `timeout` seconds the program is killed and TimeoutError raised."""
        running = self.popen(argv, input=input, env=env, netns=netns, cwd=cwd, bare=bare)
        try:
            finished = running.wait(timeout)
        except TimeoutError as error:
            running.kill()
            ended = running.wait()
            raise TimeoutError(f"{error}; {ended.stdout!r} {ended.stderr!r}") from None
        if check and finished.status != 0:
            output = (finished.stderr + finished.stdout).decode(errors="replace").strip()
            raise NodeError(f"{' '.join(finished.argv)}: status {finished.status}: {output[-2000:]}")
        return finished

    def shell(self, script: str, *, check: bool = True, netns: str | None = None) -> str:
        """Runs a shell script (`sh -e`) and returns what it printed."""
        return self.run(["sh", "-ec", script], check=check, netns=netns).text

    def json(self, *argv: str) -> Any:
        return self.run(argv).json()

    def path(self, inside: str) -> Path:
        """A path of the node as the maker's own process can open it. Absolute symbolic links on the way are
        not followed there."""
        return Path(f"/proc/{self.pid}/root") / inside.lstrip("/")

    def netns(self, name: str) -> Netns:
        """A new, empty network namespace `/run/netns/<name>`. Its `lo` is down, as Mesos leaves it during
        ADD."""
        self.run(["ip", "netns", "add", name])
        return Netns(self, f"/run/netns/{name}")

    def ping(self, address: str, *, seconds: float = 5, netns: str | None = None) -> bool:
        """True when an echo request to `address` is answered within about `seconds` seconds."""
        argv = ["busybox", "ping", "-6" if ":" in address else "-4", "-q", "-c", "1", "-W", "1", address]
        deadline = time.monotonic() + seconds
        while self.run(argv, check=False, netns=netns).status != 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def uplink(self, name: str = "eth0") -> Netns:
        """Gives the node an interface with 192.0.2.2/24, 2001:db8::2/64 and default routes; returns the
        world behind it (.1)."""
        world = self.netns("world")
        # Starting `ip` costs more than what it is told.
        self.shell(
            "ip -batch - <<'@'\n"
            f"link add {name} type veth peer name world netns world\n"
            f"addr add 192.0.2.2/24 dev {name}\n"
            f"addr add 2001:db8::2/64 dev {name} nodad\n"
            f"link set {name} addrgenmode none up\n"
            "@\n"
            "ip -n world -batch - <<'@'\n"
            "addr add 192.0.2.1/24 dev world\n"
            "addr add 2001:db8::1/64 dev world nodad\n"
            "link set world addrgenmode none up\n"
            "link set lo up\n"
            "@\n"
            "ip -batch - <<'@'\n"
            f"route add default via 192.0.2.1 dev {name}\n"
            f"route add default via 2001:db8::1 dev {name}\n"
            "@\n"
        )
        return world

    def cni(
        self, verb: str, plugin: str | Path, conf: Conf, cid: str = "", netns: Netns | str | None = None,
        *, ifname: str = "eth0", args: str | None = None, cni_path: str | None = None,
        env: Mapping[str, str] | None = None, timeout: float = 150,
    ) -> Answer:  # fmt: skip
        """Calls a plugin by path exactly as Mesos does: PATH and CNI_* and nothing else. `cni_path` is the
        plugin's own folder unless given; `env` adds or replaces variables."""
        running = self.cni_start(
            verb, plugin, conf, cid, netns, ifname=ifname, args=args, cni_path=cni_path, env=env
        )
        try:
            return answer(running.wait(timeout))
        except TimeoutError:
            running.kill()
            raise

    def cni_start(
        self, verb: str, plugin: str | Path, conf: Conf, cid: str = "", netns: Netns | str | None = None,
        *, ifname: str = "eth0", args: str | None = None, cni_path: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Running:  # fmt: skip
        """As `cni`, but does not wait: pass what `wait()` returns to `answer`."""
        variables = {"PATH": self.environment["PATH"], "CNI_COMMAND": verb}
        variables["CNI_PATH"] = cni_path or str(Path(plugin).parent)
        if cid:
            variables["CNI_CONTAINERID"] = cid
        if netns:
            variables["CNI_NETNS"] = netns.path if isinstance(netns, Netns) else netns
        if ifname:
            variables["CNI_IFNAME"] = ifname
        if args is not None:
            variables["CNI_ARGS"] = args
        if "MESOKIT_ROOT" in self.environment:
            variables["MESOKIT_ROOT"] = self.environment["MESOKIT_ROOT"]
        document = json.dumps(conf) if isinstance(conf, Mapping) else conf
        return self.popen([str(plugin)], input=document, env={**variables, **(env or {})}, bare=True)


def python(script: Path, *arguments: object) -> list[str]:
    """A script of ours on Debian's interpreter and nothing beside it, so that it starts at once."""
    return ["/usr/bin/python3", "-I", "-S", "-B", str(script), *map(str, arguments)]


def answer(finished: Finished) -> Answer:
    """Reads a plugin's output by the letter of the spec: exactly one JSON document or nothing; an error
    object if it failed."""
    try:
        document = json.loads(finished.stdout) if finished.stdout.strip() else None
    except ValueError as error:
        raise NodeError(f"{finished.argv} printed no JSON document: {finished}") from error
    if finished.status == 0:
        return Answer(finished, document, None)
    if not isinstance(document, dict) or "code" not in document or "msg" not in document:
        raise NodeError(f"{finished.argv} failed without an error object: {finished}")
    return Answer(finished, None, document)


def _memory(content: bytes | str) -> int:
    fd = os.memfd_create("stdin")
    data = content.encode() if isinstance(content, str) else content
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


if __name__ == "__main__":
    # A shell in a private node, to look around: python -m netns_tests.node [program arguments...]
    with Node() as here:
        # A terminal of its own where there is one, for job control and Ctrl-C.
        alone = ["script", "-qc", "bash -i", "/dev/null"] if sys.stdin.isatty() else ["bash", "-i"]
        program = sys.argv[1:] or alone
        shell = here.popen(program, stdin=0, stdout=1, stderr=2, env=dict(os.environ), cwd=str(Path.cwd()))
        sys.exit(shell.wait(10**9).status)
