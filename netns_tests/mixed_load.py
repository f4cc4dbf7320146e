"""Every plugin at once, without end: containers come and go on networks of all kinds, calls are killed while
they run, namespaces vanish before their DEL, and the node service is killed again and again.

    .venv/bin/python -m netns_tests.mixed_load --minutes 30 --workers 8 --seed 1

At the end each network is collected by `mesokit cni gc`, and the node has to be as it was. A call that nobody
killed has to succeed, an address is never given to two. Prints what was done, as JSON; what fails is a
traceback and status 1. The seed chooses what each worker does; when it does it is the machine's affair.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netns_tests.case import DEFAULT4, bridge, local
from netns_tests.load import mortal_service
from netns_tests.node import Answer, Netns, Node, answer
from netns_tests.plugins import MESOKIT, make_folder, remove_sockets
from netns_tests.snapshot import assert_clean, snapshot

#: What flanneld writes.
_LEASE = "FLANNEL_NETWORK=10.60.0.0/16\nFLANNEL_SUBNET=10.60.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
#: Of a namespace that vanished nobody gives the lease back: they are short.
_DHCP_SERVER = (
    "ip netns exec world dnsmasq --conf-file=/dev/null --port=0 --interface=world --bind-interfaces"
    " --user=root --no-ping --leasefile-ro --log-facility=/dev/null"
    " --dhcp-range=192.0.2.100,192.0.2.250,255.255.255.0,120"
)
#: Who keeps leases, by process id.
_STAYS = (r"file /var/lib/mesokit/leases/default/\.daemon ",)
#: "Try again later": the one who keeps leases has just been killed.
_LATER = 11
_LATER_SECONDS = 120.0


def _pool(number: int) -> dict[str, Any]:
    routes = [DEFAULT4, {"dst": "::/0"}]
    return local(f"10.{number}.0.0/16", f"fd00:{number}::/64", routes=routes)


def _bridge(number: int, **keys: Any) -> dict[str, Any]:
    return bridge(_pool(number), **{"bridge": f"br{number}", "isGateway": True, **keys})


def _lan(first: int) -> dict[str, Any]:
    """A part of the uplink's network."""
    ends = {"rangeStart": f"192.0.2.{first}", "rangeEnd": f"192.0.2.{first + 31}"}
    routes = [{"dst": "10.30.0.0/16", "gw": "192.0.2.1"}]
    return {"type": "host-local", "ranges": [[{"subnet": "192.0.2.0/24", **ends}]], "routes": routes}


def networks() -> dict[str, dict[str, Any]]:
    """One for each plugin and back end, on subnets and bridges of its own."""
    shaped = {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 4_000_000,
        "egressBurst": 400_000,
    }
    chained = [
        _bridge(56, isDefaultGateway=True, ipMasq=True),
        {"type": "tuning", "mtu": 1300},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    found: dict[str, dict[str, Any]] = {
        "bridge": _bridge(40, ipMasq=True, macspoofchk=True, hairpinMode=True, mtu=1400),
        "bridge-iptables": _bridge(41, ipMasq=True, ipMasqBackend="iptables"),
        "ptp": {"type": "ptp", "ipMasq": True, "ipam": _pool(42)},
        "macvlan": {"type": "macvlan", "master": "eth0", "ipam": _lan(16)},
        "host-device": {"type": "host-device", "ipam": _pool(44)},
        "tap": {"type": "tap", "multiQueue": True, "ipam": _pool(45)},
        "dhcp": {"type": "macvlan", "master": "eth0", "ipam": {"type": "dhcp"}},
        "loopback": {"type": "loopback"},
        "tuning": {
            "type": "tuning",
            "mac": "",
            "promisc": True,
            "sysctl": {"net.core.somaxconn": "500"},
            "delegate": _bridge(47),
        },
        "portmap": {"type": "portmap", "delegate": _bridge(48, isDefaultGateway=True)},
        "portmap-iptables": {
            "type": "portmap",
            "backend": "iptables",
            "delegate": _bridge(49, isDefaultGateway=True),
        },
        "sbr": {"type": "sbr", "delegate": {"type": "macvlan", "master": "eth0", "ipam": _lan(48)}},
        "bandwidth": {"type": "bandwidth", **shaped, "delegate": _bridge(51)},
        "bandwidth-subnets": {
            "type": "bandwidth",
            **shaped,
            "shapedSubnets": ["10.0.0.0/8"],
            "delegate": _bridge(52),
        },
        "firewall": {
            "type": "firewall",
            "backend": "nftables",
            "ingressPolicy": "isolated",
            "delegate": _bridge(53),
        },
        "firewall-iptables": {
            "type": "firewall",
            "backend": "iptables",
            "ingressPolicy": "same-bridge",
            "delegate": _bridge(54),
        },
        "flannel": {"type": "flannel", "subnetFile": "/etc/subnet.env", "delegate": {"bridge": "br60"}},
        "chain": {"type": "chain", "plugins": chained},
    }
    return {name: {"cniVersion": "1.1.0", "name": f"net-{name}", **conf} for name, conf in found.items()}


@dataclass(slots=True)
class Done:
    """What was done: calls by network and verb, and the addresses that are in use."""

    calls: Counter[str] = field(default_factory=Counter)
    _held: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self._lock:
            self.calls[what] += 1

    def take(self, network: str, result: Mapping[str, Any]) -> list[str]:
        """Raises AssertionError where an address of the result is somebody's."""
        if network == "loopback":
            return []
        addresses = [entry["address"] for entry in result.get("ips", [])]
        with self._lock:
            twice = self._held.intersection(addresses)
            assert not twice, f"{network}: given twice: {twice}"
            self._held.update(addresses)
        return addresses

    def give(self, addresses: Sequence[str]) -> None:
        with self._lock:
            self._held.difference_update(addresses)


class Worker:
    """One container after another, in namespaces of its own."""

    def __init__(self, node: Node, folder: str, number: int, seed: int, done: Done) -> None:
        self._node = node
        self._folder = folder
        self._number = number
        self._chance = random.Random(f"{seed} {number}")
        self._done = done
        self._networks = networks()
        #: Containers that no DEL came for: network, namespace, addresses.
        self._left: list[tuple[str, Netns, list[str]]] = []

    def prepare(self) -> None:
        """The device that only this worker gives away."""
        name = f"spare{self._number}"
        self._node.shell(
            f"ip link add {name} type veth peer name {name}p; ip link set {name}p addrgenmode none up"
        )

    def run(self, until_moment: float) -> None:
        """Rounds until that moment of the monotonic clock; raises what a call should not have said."""
        number = 0
        while time.monotonic() < until_moment:
            self._round(f"w{self._number}-{number}")
            if len(self._left) > 2:
                self._collect()
            number += 1

    def end(self) -> None:
        """The namespaces that are left."""
        for _, box, _ in self._left:
            box.delete()

    def _collect(self) -> None:
        """GC of what was left, while others attach to the same networks."""
        for name, box, held in self._left:
            box.delete()
            self._done.give(held)
            self._node.run([MESOKIT, "cni", "gc", f"net-{name}", "--plugin-dir", self._folder])
        self._left.clear()

    def _conf(self, name: str) -> dict[str, Any]:
        conf = dict(self._networks[name])
        port = 20000 + self._number
        if name == "host-device":
            conf["device"] = f"spare{self._number}"
        if "portmap" in name or name == "chain":
            mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
            conf["runtimeConfig"] = {"portMappings": [mapping]}
        if name == "tuning":
            conf["mac"] = f"02:aa:bb:00:00:{self._number:02x}"
        return conf

    def _round(self, cid: str) -> None:
        name = self._chance.choice(sorted(self._networks))
        conf = self._conf(name)
        box = self._node.netns(cid)
        # A device that is given away has to come back, and one mapped port is all a worker has.
        returned = name == "host-device" or "runtimeConfig" in conf
        kill_add, kill_del = self._chance.random() < 0.15, self._chance.random() < 0.15
        vanish = self._chance.random() < 0.15 and name != "host-device"
        forgotten = self._chance.random() < 0.1 and not returned
        result = self._call("ADD", name, conf, cid, box, kill=kill_add)
        held = self._done.take(name, result) if result is not None else []
        if result is not None and self._chance.random() < 0.5:
            self._call("CHECK", name, {**conf, "prevResult": result}, cid, box)
        if forgotten:
            self._done.count("left to GC")
            self._left.append((name, box, held))
            return
        gone = None if vanish else box
        if vanish:
            box.delete()
        # Held until the DEL is over: before, nobody else may be given it.
        self._done.give(held)
        previous = {"prevResult": result} if result is not None and self._chance.random() < 0.5 else {}
        if kill_del:
            self._call("DEL", name, {**conf, **previous}, cid, gone, kill=True)
        self._call("DEL", name, {**conf, **previous}, cid, gone)
        if not vanish:
            box.delete()

    def _call(
        self,
        verb: str,
        name: str,
        conf: Mapping[str, Any],
        cid: str,
        box: Netns | None,
        *,
        kill: bool = False,
    ) -> dict[str, Any] | None:
        """The result; None where the call was killed. Raises AssertionError for an error."""
        patience = time.monotonic() + _LATER_SECONDS
        while True:
            said = self._once(verb, conf, cid, box, kill=kill)
            if said is None:
                self._done.count(f"{name} {verb} killed")
                return None
            if said.code == _LATER and name == "dhcp" and time.monotonic() < patience:
                self._done.count("dhcp later")
                time.sleep(0.2)
                continue
            self._done.count(f"{name} {verb}")
            assert said.error is None, f"{name} {verb} {cid}: {said.error}"
            return said.result or {}

    def _once(
        self, verb: str, conf: Mapping[str, Any], cid: str, box: Netns | None, *, kill: bool
    ) -> Answer | None:
        running = self._node.cni_start(verb, f"{self._folder}/{conf['type']}", conf, cid, box)
        try:
            return answer(running.wait(self._chance.uniform(0.001, 0.3) if kill else 150))
        except TimeoutError:
            running.kill()
            running.wait()
            if kill:
                return None
            raise


def mixed(folder: str, *, seconds: float, workers: int, seed: int) -> dict[str, Any]:
    """Runs it all on a node of its own with the plugins in `folder`; returns counts of what was done."""
    done = Done()
    with Node() as node:
        node.uplink()
        node.path("/etc/subnet.env").write_text(_LEASE)
        node.shell(_DHCP_SERVER)
        crew = [Worker(node, folder, number, seed, done) for number in range(workers)]
        for worker in crew:
            worker.prepare()
        before = snapshot(node)
        node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
        for name, conf in networks().items():
            given = {"device": "spare0"} if name == "host-device" else {}
            node.path(f"/etc/cni/net.d/{name}.conf").write_text(json.dumps({**conf, **given}))
        until_moment = time.monotonic() + seconds
        with (
            mortal_service(node, seed, (2, 12), ("all", "workers", "keeper")) as lives,
            ThreadPoolExecutor(workers) as pool,
        ):
            for ended in [pool.submit(worker.run, until_moment) for worker in crew]:
                ended.result()
        remove_sockets(node)
        for name in networks():
            node.run([MESOKIT, "cni", "gc", f"net-{name}", "--all", "--plugin-dir", folder])
        for worker in crew:
            worker.end()
        for path in node.path("/etc/cni/net.d").iterdir():
            path.unlink()
        assert_clean(node, before, f"seed {seed}", allowed=_STAYS)
        return {
            "seed": seed,
            "seconds": seconds,
            "service lives": len(lives),
            **dict(sorted(done.calls.items())),
        }


def main() -> None:
    """See the top of this module."""
    parser = argparse.ArgumentParser(description="Every plugin at once, without end, killed at random.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    sys.stderr.write(f"seed {options.seed}\n")
    with TemporaryDirectory() as work:
        folder = make_folder(Path(work))
        done = mixed(folder, seconds=options.minutes * 60, workers=options.workers, seed=options.seed)
    sys.stdout.write(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
