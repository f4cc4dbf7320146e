"""Real container runtimes on our plugins and on no others: podman with its CNI backend, and containerd's
`ctr run --cni`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netns_tests.case import DUAL, V4, bridge, local
from netns_tests.node import Finished, Node, Running, started, until
from netns_tests.runtime import network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.traffic import ask

ROOT = "/var/tmp/root"
#: What a runtime leaves of its own.
RUNTIME = (
    r"(file|dir|socket|link-file) /run/(containers|libpod|crun|runc|containerd|lock)",
    r"(file|dir) /etc/cni/net\.d/cni\.lock",
    r"mount /(var/lib/containers|run/containerd)",
    r"process ",
)


def _image(node: Node) -> None:
    """A root file system with busybox."""
    node.shell(
        f"mkdir -p {ROOT}/bin {ROOT}/proc {ROOT}/sys {ROOT}/dev {ROOT}/etc {ROOT}/tmp {ROOT}/run\n"
        f"cp $(command -v busybox) {ROOT}/bin/busybox\n"
        f"for name in sh ip ping nc sleep cat; do ln -sf busybox {ROOT}/bin/$name; done\n"
    )


def _configure(node: Node, name: str, plugins: list[dict[str, Any]], version: str = "1.0.0") -> None:
    path = node.path(f"/etc/cni/net.d/{name}.conflist")
    path.write_text(json.dumps(network(plugins, name=name, version=version)))


def _portmap(**keys: Any) -> dict[str, Any]:
    return {"type": "portmap", "capabilities": {"portMappings": True}, **keys}


class Podman:
    """podman on one node; networks are the files of /etc/cni/net.d."""

    def __init__(self, node: Node, folder: str) -> None:
        self.node = node
        _image(node)
        settings = (
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["{folder}"]\n'
            'network_config_dir = "/etc/cni/net.d"\n'
        )
        node.path("/etc/containers").mkdir(exist_ok=True)
        node.path("/etc/containers/containers.conf").write_text(settings)

    def argv(self, options: tuple[str, ...], command: str) -> list[str]:
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--cap-add", "NET_RAW"]
        return ["podman", "run", *limits, *options, "--rootfs", f"{ROOT}:O", "/bin/sh", "-c", command]

    def run(self, *options: str, command: str) -> Finished:
        return self.node.run(self.argv(("--rm", *options), command))

    @contextmanager
    def container(self, name: str, *options: str, command: str = "sleep 1000") -> Iterator[dict[str, Any]]:
        """A running container's networks, as `podman inspect` tells them; removed at the end."""
        self.node.run(self.argv(("--detach", "--name", name, *options), command))
        try:
            yield self.node.json("podman", "inspect", name)[0]["NetworkSettings"]["Networks"]
        finally:
            self.node.run(["podman", "rm", "--force", "--time", "0", name])


@pytest.fixture
def podman(node: Node, plugins: str) -> Podman:
    return Podman(node, plugins)


def test_podman_runs_a_container_and_leaves_nothing(node: Node, podman: Podman) -> None:
    world = node.uplink()
    _configure(
        node, "blue", [bridge(V4, isDefaultGateway=True, ipMasq=True), {"type": "tuning", "mtu": 1400}]
    )
    podman.run("--network", "none", command="true")  # podman's own files come with the first container
    before = snapshot(node)
    with podman.container("one", "--network", "blue") as networks:
        assert networks["blue"]["IPAddress"].startswith("10.9.0.")
        assert networks["blue"]["Gateway"] == "10.9.0.1"
        inside = node.run(["podman", "exec", "one", "ip", "addr", "show", "eth0"]).text
        assert "mtu 1400" in inside and networks["blue"]["IPAddress"] + "/24" in inside
        assert node.ping(networks["blue"]["IPAddress"])
        reply = node.run(["podman", "exec", "one", "ping", "-c", "1", "-W", "5", "192.0.2.1"])
        assert "1 packets received" in reply.text
        assert world.ping("192.0.2.2")
    assert_clean(node, before, allowed=RUNTIME)


def test_podman_publishes_ports(node: Node, podman: Podman) -> None:
    world = node.uplink()
    _configure(node, "blue", [bridge(DUAL, isDefaultGateway=True, ipMasq=True, hairpinMode=True), _portmap()])
    podman.run("--network", "none", command="true")
    before = snapshot(node)
    serve = "while true; do echo hello | nc -l -p 80 >/dev/null; done"
    ports = ("--publish", "8080:80", "--publish", "192.0.2.2:8081:80")
    with podman.container("web", "--network", "blue", *ports, command=serve):
        for place in (world, node):
            for port in (8080, 8081):
                assert ask(place, "tcp", "192.0.2.2", port, seconds=20) == "hello"
    assert ask(world, "tcp", "192.0.2.2", 8080, seconds=0.5) is None
    assert_clean(node, before, allowed=RUNTIME)


def test_podman_dual_stack(node: Node, podman: Podman) -> None:
    _configure(node, "blue", [bridge(DUAL, isDefaultGateway=True)])
    with (
        podman.container("one", "--network", "blue") as one,
        podman.container("two", "--network", "blue") as two,
    ):
        for peer in (one["blue"]["IPAddress"], one["blue"]["GlobalIPv6Address"]):
            pinging = [
                "podman",
                "exec",
                "two",
                "sh",
                "-c",
                f"for i in 1 2 3 4 5; do ping -c 1 -W 1 {peer} && exit 0; done; exit 1",
            ]
            assert node.run(pinging).status == 0
        assert one["blue"]["GlobalIPv6Address"] != two["blue"]["GlobalIPv6Address"]


def test_podman_static_address_and_mac(node: Node, podman: Podman) -> None:
    wish = {"ips": True, "mac": True}
    _configure(node, "blue", [bridge(V4, isGateway=True, capabilities=wish)])
    options = ("--network", "blue", "--ip", "10.9.0.77", "--mac-address", "02:11:22:33:44:55")
    with podman.container("one", *options) as networks:
        assert networks["blue"]["IPAddress"] == "10.9.0.77"
        assert networks["blue"]["MacAddress"] == "02:11:22:33:44:55"
        assert node.ping("10.9.0.77")
        again = node.run(podman.argv(("--rm", *options[:4]), "true"), check=False)
        assert again.status != 0 and "10.9.0.77" in again.stderr.decode()


def test_podman_two_networks(node: Node, podman: Podman) -> None:
    """podman asks for a published port on each of them."""
    _configure(node, "blue", [bridge(V4, isDefaultGateway=True), _portmap()])
    red = bridge(local("10.10.0.0/24"), bridge="br1", isDefaultGateway=True)
    _configure(node, "red", [red, _portmap()])
    podman.run("--network", "none", command="true")
    before = snapshot(node)
    options = ("--network", "blue", "--network", "red", "--publish", "8080:80")
    serve = "while true; do echo hello | nc -l -p 80 >/dev/null; done"
    with podman.container("one", *options, command=serve) as networks:
        assert {"blue", "red"} == networks.keys()
        for name in networks:
            assert node.ping(networks[name]["IPAddress"])
        routes = node.run(["podman", "exec", "one", "ip", "route"]).text
        assert re.search(r"^default via 10\.(9|10)\.0\.1 ", routes, re.MULTILINE)
        assert ask(node, "tcp", "127.0.0.1", 8080, seconds=20) == "hello"
        node.run(["podman", "network", "disconnect", "blue", "one"])
        assert ask(node, "tcp", "127.0.0.1", 8080, seconds=20) == "hello"
    assert_clean(node, before, allowed=RUNTIME)


@pytest.mark.parametrize("plugins", ["service"], indirect=True)
def test_podman_changes_networks_of_a_running_container(node: Node, podman: Podman) -> None:
    """Connected, disconnected and connected again; reloaded after a flush; restarted; killed and started."""
    world = node.uplink()
    _configure(node, "blue", [bridge(V4, isDefaultGateway=True), _portmap(), {"type": "firewall"}])
    red = bridge(local("10.10.0.0/24"), bridge="br1", isGateway=True, capabilities={"ips": True})
    _configure(node, "red", [red, _portmap()])
    podman.run("--network", "none", command="true")
    before = snapshot(node)
    serve = "while true; do echo hello | nc -l -p 80 >/dev/null; done"

    def changed(*argv: str) -> None:
        node.run(["podman", *argv])
        assert ask(world, "tcp", "192.0.2.2", 8080, seconds=20) == "hello", argv

    with podman.container("one", "--network", "blue", "--publish", "8080:80", command=serve):
        changed("network", "connect", "red", "one")
        changed("network", "disconnect", "red", "one")
        changed("network", "connect", "--ip", "10.10.0.77", "red", "one")
        assert node.ping("10.10.0.77")
        node.run(["nft", "flush", "ruleset"])
        changed("network", "reload", "--all")
        changed("restart", "--time", "0", "one")
        assert node.ping("10.10.0.77")
        node.run(["podman", "kill", "one"])
        changed("start", "one")
    assert_clean(node, before, allowed=RUNTIME)


@contextmanager
def _containerd(node: Node) -> Iterator[Running]:
    with started(node.popen(["containerd"])) as running:
        until(node.path("/run/containerd/containerd.sock").is_socket, what="containerd listens")
        yield running


def test_containerd_runs_a_container_and_leaves_nothing(node: Node, plugins: str) -> None:
    node.uplink()
    _image(node)
    _configure(node, "blue", [bridge(DUAL, isDefaultGateway=True, ipMasq=True), _portmap()])
    for path in Path(plugins).iterdir():
        node.path(f"/opt/cni/bin/{path.name}").symlink_to(path)
    with _containerd(node):
        run = ["ctr", "run", "--rm", "--cni", "--rootfs", ROOT]
        node.run([*run, "zero", "/bin/sh", "-c", "true"])
        before = snapshot(node)
        command = "ip addr show eth0; ping -c 1 -W 5 10.9.0.1; ping -c 1 -W 5 192.0.2.1"
        finished = node.run([*run, "one", "/bin/sh", "-c", command])
        assert re.search(r"inet 10\.9\.0\.\d+/24", finished.text), finished
        assert finished.text.count("1 packets received") == 2
        assert_clean(node, before, allowed=RUNTIME)
