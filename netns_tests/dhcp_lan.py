"""A link with DHCP servers of Debian behind it, in a private node, and what is seen of leases there."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.process import memory_of

SERVER = "10.77.0.1"


def macvlan(**ipam: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "lan",
        "type": "macvlan",
        "master": "lan0",
        "ipam": {"type": "dhcp", **ipam},
    }


@contextmanager
def lan(node: Node) -> Iterator[Netns]:
    """A link `lan0` of the node whose other end is in a namespace of its own, where servers run."""
    server = node.netns("server")
    node.run(["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", "server"])
    node.run(["ip", "link", "set", "lan0", "up"])
    server.run(["ip", "link", "set", "lan1", "up"])
    server.run(["ip", "addr", "add", f"{SERVER}/16", "dev", "lan1"])
    yield server


@contextmanager
def dnsmasq(
    server: Netns, *options: str, seconds: int = 120, pool: str = "10.77.1.1,10.77.1.250"
) -> Iterator[Running]:
    """A server that gives leases of `seconds` (dnsmasq's least is 120)."""
    running = server.popen(
        [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=lan1",
            "--bind-interfaces", "--log-dhcp", "--log-facility=-", "--user=root", "--no-ping",
            "--leasefile-ro", f"--dhcp-range={pool},255.255.0.0,{seconds}", *options,
        ]
    )  # fmt: skip
    with started(running):
        until(lambda: running.ended() or b"started" in running.errors(), what="dnsmasq serves")
        assert not running.ended(), running.errors()
        yield running


def address_of(box: Netns, ifname: str = "eth0") -> list[str]:
    """The IPv4 addresses of an interface."""
    found = box.run(["ip", "-j", "addr", "show", "dev", ifname], check=False)
    listed = json.loads(found.text or "[]") if found.status == 0 else []
    return [
        f"{item['local']}/{item['prefixlen']}"
        for link in listed
        for item in link.get("addr_info", [])
        if item.get("family") == "inet"
    ]


def lifetime_of(box: Netns) -> int:
    """Seconds that the address of eth0 is valid for."""
    (link,) = box.json("ip", "-j", "addr", "show", "dev", "eth0")
    return int(next(item["valid_life_time"] for item in link["addr_info"] if item["family"] == "inet"))


def leases(node: Node) -> list[dict[str, Any]]:
    told = node.run([MESOKIT, "dhcp", "leases", "--json"]).text
    return [json.loads(line) for line in told.splitlines()]


@contextmanager
def udhcpd(
    server: Netns, *, seconds: int = 10, first: str = "10.77.1.1", last: str = "10.77.1.250"
) -> Iterator[Running]:
    """A server that gives leases as short as a test wants them."""
    files = server.node.path("/run")
    conf = (
        f"interface lan1\nstart {first}\nend {last}\n"
        "lease_file /run/udhcpd.leases\npidfile /run/udhcpd.pid\n"
        f"min_lease 1\nconflict_time 3600\ndecline_time 3600\noption subnet 255.255.0.0\n"
        f"option router {SERVER}\noption lease {seconds}\n"
    )
    (files / "udhcpd.conf").write_text(conf)
    (files / "udhcpd.leases").write_text("")
    with started(server.popen(["busybox", "udhcpd", "-f", "/run/udhcpd.conf"])) as running:
        until(lambda: running.ended() or (files / "udhcpd.pid").exists(), what="udhcpd serves")
        assert not running.ended(), running.errors()
        yield running


def daemon_of(node: Node) -> str:
    """The process id of the lease daemon."""
    return node.path("/var/lib/mesokit/leases/default/.daemon").read_text().strip()


def kill_daemon(node: Node) -> str:
    """Kill the lease daemon as kill -9 does; its process id."""
    pid = daemon_of(node)
    node.run(["busybox", "kill", "-9", pid])
    return pid


@contextmanager
def kea(server: Netns, *, seconds: int = 10) -> Iterator[Running]:
    """ISC's server: it renews, identifies clients by their identifier, and tells T1 and T2."""
    node = server.node
    conf = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": ["lan1"], "dhcp-socket-type": "raw"},
            "lease-database": {"type": "memfile", "persist": False},
            "valid-lifetime": seconds,
            "renew-timer": seconds // 2,
            "rebind-timer": seconds * 7 // 8,
            "authoritative": True,
            "subnet4": [
                {
                    "id": 1,
                    "subnet": "10.77.0.0/16",
                    "pools": [{"pool": "10.77.3.1-10.77.3.99"}],
                    "option-data": [
                        {"name": "routers", "data": SERVER},
                        {"code": 121, "space": "dhcp4", "csv-format": False, "data": "180A63020A4D0009"},
                    ],
                }
            ],
            "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
        }
    }
    node.path("/run/kea.json").write_text(json.dumps(conf))
    env = {"KEA_PIDFILE_DIR": "/run", "KEA_LOCKFILE_DIR": "none"}
    with started(server.popen(["kea-dhcp4", "-c", "/run/kea.json"], env=env)) as running:
        until(lambda: running.ended() or b"DHCP4_STARTED" in running.output(), what="kea serves")
        assert not running.ended(), running.errors()
        yield running


def began(node: Node) -> list[float]:
    """When each lease was got or renewed, as the files have it: a look that costs no process."""
    files = node.path("/var/lib/mesokit/leases/default").glob("*.json")
    return [float(json.loads(path.read_text())["began"]) for path in sorted(files)]


def await_renewal(node: Node, lifetime: Callable[[], int], seconds: int) -> None:
    """Until the only lease, of `seconds`, is a younger one than now, and the address lives as long."""
    before = began(node)
    until(lambda: began(node) > before, what="the lease is renewed")
    until(lambda: lifetime() > seconds // 2, what="the address lives as long")


def ended_ping(pings: Running) -> str:
    """What a ping without end says when it is asked to end: none was lost."""
    pings.kill(signal.SIGINT)
    text = pings.wait().text
    assert " 0% packet loss" in text, text[-300:]
    return text


def processor_time(pid: str, node: Node) -> int:
    """Clock ticks that a process has worked for."""
    fields = node.path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def await_rest(node: Node) -> None:
    """Until the lease daemon has nothing to do: no tick of a processor in a second."""

    def rests() -> bool:
        pid = daemon_of(node)
        before = processor_time(pid, node)
        time.sleep(1)
        return processor_time(pid, node) == before

    until(rests, what="the lease daemon rests")


def multiplied(node: Node, count: int, version: int = 4) -> None:
    """Copies of the only lease file as those of `count` more containers, x0 and so on."""
    (path,) = node.path("/var/lib/mesokit/leases/default").glob("*.json")
    lease = json.loads(path.read_text())
    for number in range(count):
        key = ["lan", f"x{number}", "eth0", *(["ipv6"] if version == 6 else [])]
        name = hashlib.sha256("\0".join(key).encode()).hexdigest()[:40]
        path.with_name(f"{name}.json").write_text(json.dumps(lease | {"containerID": f"x{number}"}))


def cost_of(node: Node) -> tuple[int, int]:
    """Open descriptors and kB of memory of the lease daemon."""
    process = node.path(f"/proc/{daemon_of(node)}")
    return len(list((process / "fd").iterdir())), memory_of(process)


def a_thousand_wait(node: Node, plugin: str, conf: dict[str, Any], *, version: int) -> None:
    """Files of a thousand leases that hold for an hour are taken up at once by one process, and cost memory
    alone, neither sockets nor namespaces."""
    box = node.netns("c1")
    with started(node.popen([MESOKIT, "dhcp"])):
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        node.cni("ADD", plugin, conf, "c1", box).ok()
    multiplied(node, 999, version)
    with started(node.popen([MESOKIT, "dhcp"])) as running:
        until(lambda: running.ended() or daemon_of(node) == str(running.pid), what="it has the leases")
        until(node.path("/run/mesokit/dhcp.sock").is_socket, what="the lease daemon listens")
        await_rest(node)  # all have been looked at, and given their lifetime
        descriptors, memory = cost_of(node)
        sys.stderr.write(f"1000 leases of IPv{version}: {descriptors} descriptors, {memory} kB\n")
        assert descriptors < 30
        assert memory < 60_000
        assert not running.ended()
        node.cni("DEL", plugin, conf, "c1", box).ok()
        assert len(leases(node)) == 999
