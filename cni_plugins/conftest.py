"""A world for a test: a host's namespace and containers' namespaces made for it, and calls that go through
the one entry, in this process, with descriptors as the node service gives them.
"""

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cni_plugins.kernel.namespace import entered
from cni_plugins.main import handle
from cni_plugins.spec.call import Request
from cni_plugins.spec.namespace import Namespace, from_descriptor

_CLONE_NEWNET = 0x40000000

# What is drawn is the same in each run, so that a run tells what the change did; as in executor/conftest.py.
settings.register_profile("room", deadline=None, derandomize=True)
settings.load_profile("room")


def new_namespace() -> Namespace:
    """A network namespace with nothing but a `lo` that is down; it lives as long as its descriptor."""
    made: list[int] = []

    def work() -> None:
        if ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0:
            made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (fd,) = made
    return from_descriptor(fd, f"/proc/{os.getpid()}/fd/{fd}")


@dataclass(frozen=True)
class Answer:
    status: int
    document: Any

    @property
    def code(self) -> int:
        return int(self.document["code"]) if self.status else 0


def told(error: Any) -> str:
    """All that an error says."""
    return f"{error['msg']}: {error.get('details', '')}"


def _answered(request: Request) -> Answer:
    """In a thread beside the first one, as in the node service: what takes the kernel long another thread
    sends then, where one thread alone would fork this large process twice (kernel/netlink/apart.py)."""
    reply = handle(request)
    for work in (*reply.later, *reply.idle):
        work()
    return Answer(reply.status, json.loads(reply.stdout) if reply.stdout else None)


@dataclass
class World:
    """`host` stands for the machine, `boxes` are containers by name, `root` is where state goes. `said`
    remembers for a test what `ip` said of a namespace, by the digest of what the kernel tells (glance.py)."""

    root: Path
    host: Namespace
    boxes: dict[str, Namespace] = field(default_factory=dict)
    said: dict[bytes, dict[str, Any]] = field(default_factory=dict)

    def box(self, name: str) -> Namespace:
        if name not in self.boxes:
            self.boxes[name] = new_namespace()
        return self.boxes[name]

    def forget(self, name: str) -> None:
        """Let a container's namespace die."""
        os.close(self.boxes.pop(name).fd)

    def call(
        self, verb: str, config: Mapping[str, Any] | bytes, box: str = "c1", ifname: str = "eth0", **env: str
    ) -> Answer:
        """One call for the container `box`, in its namespace if that is still there."""
        document = config if isinstance(config, bytes) else json.dumps(config).encode()
        plugin = env.pop("PLUGIN", "") or str(json.loads(document).get("type", ""))
        settings = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": box,
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/usr/lib/cni",
        }
        settings |= {"MESOKIT_ROOT": str(self.root)}
        if box in self.boxes:
            settings["CNI_NETNS"] = self.boxes[box].path
        request = Request(plugin, settings | env, document, host_netns=self.host.fd)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_answered, request).result()

    def add(self, config: Mapping[str, Any], box: str = "c1", **env: str) -> Any:
        """The result of an ADD that must succeed, in a namespace made if need be."""
        self.box(box)
        answer = self.call("ADD", config, box, **env)
        assert answer.status == 0, answer.document
        return answer.document

    def delete(self, config: Mapping[str, Any], box: str = "c1", **env: str) -> None:
        answer = self.call("DEL", config, box, **env)
        assert answer.status == 0, answer.document

    def refused(self, config: Mapping[str, Any], box: str = "c1", **env: str) -> Any:
        """The error of an ADD that must fail."""
        self.box(box)
        answer = self.call("ADD", config, box, **env)
        assert answer.status == 1, answer.document
        return answer.document

    def run(self, *argv: str, box: str | None = None) -> str:
        """A program's output, in the host's or a container's namespace."""
        with entered(self.boxes[box] if box else self.host):
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return done.stdout

    def json(self, *argv: str, box: str | None = None) -> Any:
        return json.loads(self.run(*argv, box=box) or "[]")

    def links(self, box: str | None = None) -> list[str]:
        return sorted(item["ifname"] for item in self.json("ip", "-j", "link", box=box))

    def records(self) -> list[Path]:
        return sorted(path for path in (self.root / "run/mesokit/attachments").rglob("*") if path.is_file())

    def reserved(self, network: str) -> list[str]:
        """The addresses that files of the default data directory reserve."""
        folder = self.root / "var/lib/cni/networks" / network
        names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
        return sorted(name for name in names if name != "lock" and not name.startswith("last_"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, new_namespace())
    try:
        yield made
    finally:
        for namespace in (made.host, *made.boxes.values()):
            os.close(namespace.fd)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = new_namespace()
    yield made
    os.close(made.fd)
