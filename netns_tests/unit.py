"""The node service as a unit of systemd: what tests do with it, and ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netns_tests.load import bridge
from netns_tests.machine import Machine
from netns_tests.node import Answer, Netns, answer, until

SERVICE, SOCKET = "mesokit-node.service", "mesokit-node.socket"
PATH = "/run/mesokit/node.sock"
PLUGINS = "/usr/lib/mesokit/plugins"
#: Where plugins keep state; systemd has its own below /run.
FILES = ("/run/mesokit", "/var/lib/cni", "/var/lib/mesokit", "/etc/cni")
#: The service is there before and after, but not as the same process.
ITSELF = (r"process \d+ /usr/\S*mesokit-cni\.d/.*/mesokit node = ", r"socket /run/mesokit/dhcp\.sock = ")


def dpkg(machine: Machine, *arguments: str) -> str:
    """What dpkg prints. The hosts of tests are often set to install no manual pages."""
    ended = machine.run(["dpkg", "--path-include=*", *arguments])
    return (ended.stdout + ended.stderr).decode()


def call(
    machine: Machine, verb: str, box: Netns, conf: dict[str, Any] | None = None,
    *, plugin: str = f"{PLUGINS}/bridge", cni_path: str | None = None,
) -> Answer:  # fmt: skip
    return machine.cni(verb, plugin, conf or bridge(), box.name, box, cni_path=cni_path)


def status(machine: Machine) -> dict[str, Any]:
    answered = machine.json("mesokit", "node", "status", "--json")
    assert isinstance(answered, dict)
    return answered


def calls(machine: Machine) -> dict[str, int]:
    """How many calls the service that runs has done, by verb."""
    return {row["verb"]: row["calls"] for row in status(machine)["calls"]}


def main_pid(machine: Machine) -> str:
    """The service's main process; "0" when there is none."""
    return machine.property(SERVICE, "MainPID")


def anew(machine: Machine, old: str) -> bool:
    return machine.property(SERVICE, "ActiveState") == "active" and main_pid(machine) not in ("0", old)


def processes(machine: Machine) -> list[str]:
    """All of the service's, foreign plugins included."""
    group = machine.property(SERVICE, "ControlGroup")
    return machine.run(["cat", f"/sys/fs/cgroup{group}/cgroup.procs"]).text.split()


def address(box: Netns) -> str:
    (link,) = box.json("ip", "-j", "-4", "addr", "show", "eth0")
    return str(link["addr_info"][0]["local"])


def attached(machine: Machine, box: Netns) -> bool:
    """The container still has its network: its address, and the way to its gateway."""
    return bool(address(box)) and box.ping("10.9.0.1")


def socket_since(machine: Machine) -> str:
    """When the socket was opened, in systemd's clock."""
    return machine.property(SOCKET, "ActiveEnterTimestampMonotonic")


WAIT = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo $$ >> /run/waiting
while [ ! -e /run/go ]; do sleep 0.05; done
echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.7.7/16","gateway":"10.9.0.1"}]}'
"""


def foreign(machine: Machine, name: str, script: str) -> None:
    """A plugin of somebody else in /opt/cni/bin."""
    path = machine.path(f"/opt/cni/bin/{name}")
    path.write_text(script)
    path.chmod(0o755)


def waiting(machine: Machine) -> list[str]:
    path = machine.path("/run/waiting")
    return path.read_text().split() if path.exists() else []


def alive(machine: Machine, pid: str) -> bool:
    return machine.path(f"/proc/{pid}").exists()


def start_waiting(machine: Machine, box: Netns) -> Callable[[], Answer]:
    """An ADD that is in the middle of its work, in a foreign plugin; the function waits for its answer."""
    foreign(machine, "wait-ipam", WAIT)
    conf = bridge(ipam={"type": "wait-ipam"})
    begun = machine.cni_start("ADD", f"{PLUGINS}/bridge", conf, box.name, box, cni_path="/opt/cni/bin")
    until(lambda: len(waiting(machine)) == 1)
    return lambda: answer(begun.wait())
