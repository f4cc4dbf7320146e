"""Runs inside a node, under crash.c: serves plugin calls, each in a forked child that may be told to die at
a change.

It says when it is ready. A line of JSON on standard input is one call:
{"env": {...}, "conf": {...}, "plugin": name, "crash": N}; with N > 0 the child is killed just before its N-th
change. The answer is a line: {"status": exit status or -9, "changes": N, "stdout": text}. With "update":
[KEY=VALUE, …] it is `mesokit update` of all containers of the network, with "network": a list it is added to
container c1, or taken away from it without plugins. A fork of a process that has everything imported stands
for a one-shot process, and costs a fiftieth of one.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Any

from cni_plugins.attach.changes import parse
from cni_plugins.attach.membership import Network, add_network, remove_network
from cni_plugins.attach.update import Outcome, Where, Wish, update
from cni_plugins.main import handle
from cni_plugins.node.plugins import IMPORTED_LATE
from cni_plugins.plugins.registry import Plugins
from cni_plugins.spec.call import Request
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from


def call(request: dict[str, Any], counter: mmap.mmap) -> dict[str, Any]:
    counter[:16] = struct.pack("QQ", 0, request["crash"])
    out = os.memfd_create("stdout")
    child = os.fork()
    if child == 0:
        os.setsid()
        if "update" in request or "network" in request:
            os._exit(_update(request))
        reply = handle(Request(request["plugin"], request["env"], json.dumps(request["conf"]).encode()))
        os.write(out, reply.stdout)
        os._exit(reply.status)
    _, status = os.waitpid(child, 0)
    changes, _ = struct.unpack("QQ", counter[:16])
    answer = os.pread(out, 1 << 20, 0).decode()
    os.close(out)
    return {"status": os.waitstatus_to_exitcode(status), "changes": changes, "stdout": answer}


def _update(request: dict[str, Any]) -> int:
    host = open_namespace(OWN_NETNS)
    assert host is not None
    where = Where(roots_from({}), host, Plugins())
    if "network" in request:
        return 0 if _move(where, request["network"]).changed else 1
    changes = parse(request["update"])
    outcomes = list(update(where, lambda _: changes, Wish(disrupt=True), network=request["conf"]["name"]))
    return 0 if all(item.changed and not item.problems for item in outcomes) else 1


def _move(where: Where, document: dict[str, Any]) -> Outcome:
    name, plugins = document["name"], tuple(document["plugins"])
    if not plugins:
        return remove_network(where, "c1", name, "", Wish(disrupt=True))
    return add_network(where, "c1", Network(name, document["cniVersion"], plugins), Wish())


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
    sys.stdout.write("ready\n")  # whoever looks at the node's processes meets this one as it stays
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(call(json.loads(line), counter)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
