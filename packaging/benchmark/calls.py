"""A call of a plugin, and networks to call it with: what the figures have in common.

Standard library only: the driver runs on the machine's own Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A plugin that a folder does not have is the reference's, for all sides alike.
FALLBACK = "/usr/lib/cni"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VERSION = "0.4.0"  # what every plugin since 2019 understands


class Failed(Exception):
    """A plugin call that should have worked did not."""


@dataclass(frozen=True, slots=True)
class Side:
    """`one_call`: the folder has a `chain` plugin, which does in one call what others need a list for.
    `service`: false for the side that shows what a call costs without one, and nothing else.
    """

    name: str
    folder: str
    number: int
    one_call: bool
    service: bool
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Network:
    """A list of plugin configurations, as a runtime would call them one after another."""

    name: str
    plugins: tuple[Mapping[str, Any], ...]
    capabilities: Mapping[str, Any]
    residents: Mapping[str, Any]  # what the container that stays asks for: no two have one host port


def call(side: Side, verb: str, conf: Mapping[str, Any], cid: str, netns: str) -> tuple[float, Any]:
    """Seconds from the start of the process until it has ended, and its result."""
    program = f"{side.folder}/{conf['type']}"
    if not Path(program).exists():
        program = f"{FALLBACK}/{conf['type']}"
    env = {
        "PATH": PATH,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": cid,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"{side.folder}:{FALLBACK}",
        **side.env,
    }
    seconds, status, text = timed(program, env, json.dumps(conf).encode())
    if status:
        raise Failed(f"{side.name}: {conf['type']} {verb}: {text.decode(errors='replace')}")
    return seconds, json.loads(text) if text.strip() else None


def timed(program: str, env: Mapping[str, str], given: bytes) -> tuple[float, int, bytes]:
    """Seconds from the start of a process to its end, its status and its output."""
    stdin, stdout = os.memfd_create("in"), os.memfd_create("out")
    try:
        os.write(stdin, given)
        os.lseek(stdin, 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        began = time.perf_counter()
        pid = os.posix_spawn(program, [program], env, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - began
        return seconds, status, os.pread(stdout, os.fstat(stdout).st_size, 0)
    finally:
        os.close(stdin)
        os.close(stdout)


def run(side: Side, verb: str, network: Network, cid: str, netns: str) -> float:
    """What a runtime does for one attachment: each plugin of the list, or one call of `chain`."""
    head = {"cniVersion": VERSION, "name": network.name}
    asked = network.residents if cid == "resident" else network.capabilities
    if len(network.plugins) == 1:
        return call(side, verb, {**head, **network.plugins[0]}, cid, netns)[0]
    if side.one_call:
        conf = {**head, "type": "chain", "plugins": network.plugins, "runtimeConfig": asked}
        return call(side, verb, conf, cid, netns)[0]
    total = 0.0
    previous: Any = results.get((side.name, network.name, cid)) if verb == "DEL" else None
    for plugin in network.plugins if verb == "ADD" else reversed(network.plugins):
        wanted = {key: asked[key] for key in plugin.get("capabilities", {}) if key in asked}
        conf = {**head, **plugin}
        if wanted:
            conf["runtimeConfig"] = wanted
        if previous is not None:
            conf["prevResult"] = previous
        seconds, result = call(side, verb, conf, cid, netns)
        total += seconds
        previous = previous if verb == "DEL" else result
    results[side.name, network.name, cid] = previous
    return total


results: dict[tuple[str, str, str], Any] = {}


def netns(name: str) -> str:
    subprocess.run(["ip", "netns", "add", name], check=True)
    return f"/run/netns/{name}"


def simple(side: Side, tag: str, **keys: Any) -> Network:
    number = side.number
    conf = {
        "type": "bridge",
        "bridge": f"{tag}{number}",
        "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": f"10.{number}.0.0/16"}]]},
        **keys,
    }
    return Network(f"{tag}{number}", (conf,), {}, {})


def dual(side: Side, tag: str) -> Network:
    number = side.number
    ranges = [[{"subnet": f"10.{number}.0.0/16"}], [{"subnet": f"fd00:{number:x}::/64"}]]
    return simple(side, tag, ipMasq=True, ipam={"type": "host-local", "ranges": ranges})


def chained(side: Side, tag: str) -> Network:
    bridge = simple(side, tag).plugins[0]
    first, other = (
        [{"hostPort": base + i, "containerPort": 80 + i, "protocol": "tcp"} for i in range(5)]
        for base in (20000 + side.number * 10, 30000 + side.number * 10)
    )
    rate = {"ingressRate": 10**8, "ingressBurst": 10**8, "egressRate": 10**8, "egressBurst": 10**8}
    plugins = (
        bridge,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", **rate},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}},
    )
    return Network(f"{tag}{side.number}", plugins, {"portMappings": first}, {"portMappings": other})


def pss(pid: int) -> int:
    """Bytes of a process's proportional size (proc_pid_smaps(5)), with files. OSError once it has ended."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))


def reserve(network: Network, number: int, count: int) -> None:
    """Reservations of other containers on disk, as host-local writes them."""
    folder = Path(f"/var/lib/cni/networks/{network.name}")
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        address = f"10.{number}.{1 + i // 250}.{1 + i % 250}"
        (folder / address).write_text(f"other-{i}\r\neth0")
