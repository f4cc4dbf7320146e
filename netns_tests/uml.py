"""A node on another kernel: User Mode Linux, for what this machine's kernel lacks (vlan, vlan_filtering,
ipvlan, vrf, dummy).

Debian's `user-mode-linux` is a 6.1 kernel that runs as a process and boots in a few seconds. It runs inside
a private node and sees the node's files; commands go in and out as files in a folder that both see.
Everything there is about ten times slower, so one machine serves the whole session, with the node service
running in it.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from netns_tests.node import PATH, Answer, Finished, Node, NodeError, answer, started
from netns_tests.plugins import MESOKIT

KERNEL_MODULES = Path("/usr/lib/uml/modules")
MODULES = "bridge br_netfilter 8021q veth macvlan ipvlan vrf dummy tun"

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for place in /run /var/lib/cni /var/lib/mesokit /etc/cni; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/netns /run/lock /run/modules/lib/modules
ln -s {modules}/* /run/modules/lib/modules/
for module in {names}; do modprobe -d /run/modules $module; done
ip link set lo up
cd {folder}
: > ready
while [ ! -e stop ]; do
    for go in *.go; do
        [ -e "$go" ] || continue
        name=${{go%.go}}
        rm "$go"
        sh "$name.sh" <"$name.in" >"$name.out" 2>"$name.err"
        echo $? >"$name.status"
        mv "$name.status" "$name.done"
    done
    sleep 0.02
done
halt -f
"""


@dataclass(slots=True)
class Uml:
    """A running machine. One command at a time."""

    folder: Path
    plugins: str
    _numbers: Iterator[int] = field(default_factory=count)

    def shell(self, script: str, *, input: str = "", check: bool = True, timeout: float = 120) -> Finished:
        """Runs a shell script inside (`sh -e`), as Node.run does."""
        base = self.folder / f"c{next(self._numbers)}"
        base.with_suffix(".in").write_text(input)
        base.with_suffix(".sh").write_text(f"set -e\nexport PATH={PATH}\n{script}\n")
        base.with_suffix(".go").touch()
        deadline = time.monotonic() + timeout
        while not base.with_suffix(".done").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"in User Mode Linux: {script}")
            time.sleep(0.01)
        status = int(base.with_suffix(".done").read_text())
        out, err = base.with_suffix(".out").read_bytes(), base.with_suffix(".err").read_bytes()
        if check and status != 0:
            raise NodeError(f"in User Mode Linux: {script}: status {status}: {(err + out).decode()[-2000:]}")
        return Finished((script,), status, out, err)

    def json(self, command: str) -> Any:
        """What an iproute2 command with -j prints."""
        return self.shell(command).json()

    def cni(
        self, verb: str, plugin: str, conf: Mapping[str, Any], cid: str, netns: str | None,
        *, ifname: str = "eth0",
    ) -> Answer:  # fmt: skip
        """Calls a plugin of ours; `netns` is the name of a namespace in /run/netns."""
        variables = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_CONTAINERID": cid, "CNI_IFNAME": ifname}
        variables["CNI_PATH"] = self.plugins
        if netns is not None:
            variables["CNI_NETNS"] = f"/run/netns/{netns}"
        words = [f"{name}={value}" for name, value in variables.items()]
        call = shlex.join(["env", "-i", *words, f"{self.plugins}/{plugin}"])
        return answer(self.shell(call, input=json.dumps(conf), check=False))


@contextmanager
def machine(folder: Path, plugins: str) -> Iterator[Uml]:
    """Boots a machine and starts the node service in it; halts it at the end."""
    init = folder / "init.sh"
    init.write_text(_INIT.format(modules=KERNEL_MODULES, names=MODULES, folder=folder))
    init.chmod(0o755)
    kernel = ["linux.uml", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", "mem=512M", "con=null"]
    kernel += ["con0=null,fd:1", f"uml_dir={folder}", "umid=machine"]
    with Node() as node, started(node.popen(kernel)) as running:
        uml = Uml(folder, plugins)
        deadline = time.monotonic() + 120
        while not (folder / "ready").exists():
            if time.monotonic() > deadline:
                said = running.output().decode(errors="replace")[-3000:]
                raise NodeError(f"User Mode Linux did not boot: {said}")
            time.sleep(0.05)
        uml.shell(f"{MESOKIT} node >/run/service.log 2>&1 </dev/null &")
        uml.shell("until [ -S /run/mesokit/node.sock ]; do sleep 0.05; done", timeout=120)
        yield uml
        (folder / "stop").touch()
