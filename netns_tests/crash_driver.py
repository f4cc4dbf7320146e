"""Runs inside a node, under crash.c: serves plugin calls, any of which may be told to die at a change.

It says when it is ready. A line of JSON on standard input is one call:
{"env": {...}, "conf": {...}, "plugin": name, "crash": N}; with N > 0 it is killed just before its N-th
change. The answer is a line: {"status": exit status or -9, "changes": N, "stdout": text}. With "update":
[KEY=VALUE, …] it is `mesokit update` of all containers of the network, with "network": a list it is added to
container c1, or taken away from it without plugins.

A call that may die is a forked child: a fork of a process that has everything imported stands for a one-shot
process, and costs a fiftieth of one. That is still five times the call itself, most of it for pages that are
copied. So calls that are to live are done by a process that stays, as they are by a worker of the node
service; every eighth of a kind is a child all the same.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import signal
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cni_plugins.attach.changes import parse
from cni_plugins.attach.membership import Network, add_network, remove_network
from cni_plugins.attach.update import Outcome, Where, Wish, update
from cni_plugins.main import handle
from cni_plugins.node.plugins import IMPORTED_LATE
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.call import Request
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from

_ONE_SHOT = 8
_PR_SET_PDEATHSIG = 1


def serve(request: dict[str, Any]) -> tuple[int, str]:
    """Do the call: its exit status, its standard output."""
    if "update" in request or "network" in request:
        return _update(request), ""
    reply = handle(Request(request["plugin"], request["env"], json.dumps(request["conf"]).encode()))
    return reply.status, reply.stdout.decode()


def _update(request: dict[str, Any]) -> int:
    host = open_namespace(OWN_NETNS)
    assert host is not None
    try:
        where = Where(roots_from({}), host, Plugins())
        if "network" in request:
            return 0 if _move(where, request["network"]).changed else 1
        changes = parse(request["update"])
        outcomes = list(update(where, lambda _: changes, Wish(disrupt=True), network=request["conf"]["name"]))
        return 0 if all(item.changed and not item.problems for item in outcomes) else 1
    finally:
        os.close(host.fd)


def _move(where: Where, document: dict[str, Any]) -> Outcome:
    name, plugins = document["name"], tuple(document["plugins"])
    if not plugins:
        return remove_network(where, "c1", name, "", Wish(disrupt=True))
    return add_network(where, "c1", Network(name, document["cniVersion"], plugins), Wish())


def fork(request: dict[str, Any]) -> tuple[int, str]:
    """Let a child do it, in a session of its own: who dies takes whom it has started along."""
    out = os.memfd_create("stdout")
    child = os.fork()
    if child == 0:
        os.setsid()
        status, answer = serve(request)
        os.write(out, answer.encode())
        os._exit(status)
    _, ended = os.waitpid(child, 0)
    answer = os.pread(out, 1 << 20, 0).decode()
    os.close(out)
    return os.waitstatus_to_exitcode(ended), answer


@dataclass(slots=True)
class Worker:
    """The process that stays; it ends with the one that started it."""

    requests: IO[bytes]
    answers: IO[bytes]
    seen: Counter[str] = field(default_factory=Counter)

    def takes(self, request: dict[str, Any]) -> bool:
        kind = request["env"].get("CNI_COMMAND", "update")
        self.seen[kind] += 1
        return self.seen[kind] % _ONE_SHOT != 1

    def serve(self, request: dict[str, Any]) -> tuple[int, str]:
        self.requests.write(json.dumps(request).encode() + b"\n")
        status, answer = json.loads(self.answers.readline())
        return status, answer


def start_worker() -> Worker:
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        for fd in (nothing, request_write, answer_read):
            os.close(fd)
        with os.fdopen(request_read, "rb") as requests, os.fdopen(answer_write, "wb", buffering=0) as answers:
            for line in requests:
                answers.write(json.dumps(serve(json.loads(line))).encode() + b"\n")
        os._exit(0)
    os.close(request_read)
    os.close(answer_write)
    return Worker(os.fdopen(request_write, "wb", buffering=0), os.fdopen(answer_read, "rb"))


def main() -> None:
    plugins = Plugins()
    for name in plugins:
        plugins[name]
    for module in IMPORTED_LATE:  # else each of a thousand calls does it
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    with Path(os.environ["CRASH_COUNTER"]).open("r+b") as file:
        counter = mmap.mmap(file.fileno(), 16)
    worker = start_worker()
    sys.stdout.write("ready\n")  # whoever looks at the node's processes meets both as they stay
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        counter[:16] = struct.pack("QQ", 0, request["crash"])
        alone = request["crash"] or not worker.takes(request)
        status, answer = (fork if alone else worker.serve)(request)
        changes, _ = struct.unpack("QQ", counter[:16])
        sys.stdout.write(json.dumps({"status": status, "changes": changes, "stdout": answer}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
