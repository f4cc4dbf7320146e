"""cni_plugins/RUNTIMES.md: its files are written as they stand there, its commands are run, by the runtimes
that Debian has; Nomad's calls are made as its source makes them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from netns_tests.cri import containerd
from netns_tests.node import Netns, Node
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.runtime import attach
from netns_tests.test_runtimes import ROOT, Podman, _image
from netns_tests.test_runtimes_networks import LISTS
from netns_tests.traffic import ask, server

DOCUMENT = (TOP / "cni_plugins/RUNTIMES.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in DOCUMENT.split("\n## ")}
SERVE = "while true; do echo hello | nc -l -p 80 >/dev/null; done"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
ALLOCATION = "6b235529-8111-4bbe-520b-d639b1d2a94e"
#: What Nomad takes for a version (hashicorp/go-version, SemverRegexpRaw): a whole word.
SEMVER = re.compile(r"v?(\d+(?:\.\d+)*)(?:-?[0-9A-Za-z~-]+(?:\.[0-9A-Za-z~-]+)*)?(?:\+[0-9A-Za-z~.-]+)?\??")

pytestmark = pytest.mark.parametrize("plugins", ["service"], indirect=True)


def blocks(title: str, language: str) -> list[str]:
    (section,) = (text for name, text in SECTIONS.items() if name.startswith(title))
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def put(node: Node, path: str, text: str) -> None:
    assert f"`{path}`" in DOCUMENT
    node.path(path).parent.mkdir(parents=True, exist_ok=True)
    node.path(path).write_text(text)


def play(node: Node, title: str) -> None:
    """The commands of a section; IMAGE is what there is instead of one."""
    (script,) = blocks(title, "sh")
    image = [*LIMITS, "--rootfs", f"{ROOT}:O", "/bin/sh", "-c", SERVE]
    for line in script.splitlines():
        words: list[str] = []
        for word in shlex.split(line):
            words += image if word == "IMAGE" else [MESOKIT] if word == "mesokit" else [word]
        node.run(words)


def labels(node: Node) -> dict[str, dict[str, str]]:
    """What policies may select the endpoints by, by the beginnings of their containers' ids."""
    told = json.loads(node.run([MESOKIT, "policy", "show", "--json"]).text)["endpoints"]
    return {item["container"][:8]: item["labels"] for item in told}


@pytest.fixture(autouse=True)
def app_net(node: Node, plugins: str) -> Iterator[dict[str, Any]]:
    """The network of the document, and the plugins where its package's are linked to."""
    (link,) = re.findall(r"^`(ln -s [^`]*)`\.$", DOCUMENT, re.MULTILINE)
    node.shell(link.replace("/usr/lib/mesokit/plugins", plugins))
    _image(node)
    (text,) = blocks("A network", "json")
    put(node, "/etc/cni/net.d/app-net.conflist", text)
    node.run([MESOKIT, "cni", "validate", "/etc/cni/net.d/app-net.conflist"])
    document: dict[str, Any] = json.loads(text)
    yield document
    assert "nothing is attached" in node.run([MESOKIT, "ls"]).stderr.decode()
    assert "healthy" in node.run([MESOKIT, "doctor"]).text


def test_podman(node: Node) -> None:
    world = node.uplink()
    Podman(node, "/opt/cni/bin")  # what podman needs on this machine
    path = "/etc/containers/containers.conf"
    engine = node.path(path).read_text().partition("[network]")[0]
    (settings,) = blocks("podman", "toml")
    put(node, path, engine + settings)
    play(node, "podman")
    assert ask(world, "tcp", "192.0.2.2", 8080, seconds=20) == "hello"
    node.run([MESOKIT, "update", "db", "--network", "app-net", "ports+=8081:80/tcp"])
    assert ask(world, "tcp", "192.0.2.2", 8081, seconds=20) == "hello"
    assert {item.get("K8S_POD_NAME") for item in labels(node).values()} == {"web", "db"}
    assert node.run([MESOKIT, "ping", "web", "db", "tcp/80"]).status == 0
    (policy,) = blocks("What there is more", "json")
    put(node, "/etc/mesokit/policy.d/db.json", policy)
    node.run([MESOKIT, "policy", "apply"])
    refused = node.run([MESOKIT, "ping", "web", "db", "tcp/80"], check=False)
    assert refused.status == 1 and "chain policy_deny" in refused.text, refused
    assert node.run([MESOKIT, "policy", "explain", "web", "db", "tcp/5432"]).status == 0
    node.run([MESOKIT, "update", "web", "--network", "app-net", "labels.tier=front"])
    assert {item.get("tier") for item in labels(node).values()} == {"front", None}
    other = node.run([MESOKIT, "update", "web", "labels.other=front"], check=False)
    assert other.status == 1 and b"policyLabels of the network is" in other.stderr
    (pid,) = node.run(["podman", "inspect", "web", "--format", "{{.ConmonPidFile}}"]).text.split()
    node.shell(f"kill -9 $(cat {pid})")
    assert "web" in node.run([MESOKIT, "ls", "web"]).text
    node.run(["podman", "rm", "--force", "--time", "0", "--all"])


def test_containerd(node: Node, plugins: str) -> None:
    world = node.uplink()
    (settings,) = blocks("containerd", "toml")
    put(node, "/etc/containerd/config.toml", settings)
    version, _, tables = settings.partition("\n")
    assert version == "version = 2"
    with containerd(node, plugins, tables) as cri:
        rates = {f"kubernetes.io/{way}-bandwidth": "8M" for way in ("ingress", "egress")}
        pods = [cri.run("web", [(8080, 80)], annotations=rates), cri.run("db")]
        play(node, "containerd")
        assert labels(node) == {
            pod[:8]: {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": name}
            for pod, name in zip(pods, ("web", "db"), strict=True)
        }
        (web,) = json.loads(node.run([MESOKIT, "ls", "tcp/8081", "--json"]).text)["items"]
        assert "rate 8Mbit" in node.run(["tc", "qdisc", "show", "dev", web["host_interface"]]).text
        with server(Netns(node, web["netns"]), "tcp", 80):
            for port in (8080, 8081):
                assert ask(world, "tcp", "192.0.2.2", port, seconds=20) is not None
        for pod in pods:
            cri.stop(pod)
            cri.remove(pod)
        told = node.run(
            ["ctr", "run", "--rm", "--cni", "--rootfs", ROOT, "web", "/bin/sh", "-c", "ip addr show eth0"]
        )
        assert "inet 10.50.0." in told.text


def test_nomad(node: Node, app_net: dict[str, Any]) -> None:
    """A job on the document's network, and the `bridge` network of the release that knows IPv6."""
    world = node.uplink()
    client, job = blocks("Nomad", "hcl")
    said = dict(re.findall(r'^ *(\w+) += "([^"]*)"$', client + job, re.MULTILINE))
    assert said["mode"] == f"cni/{app_net['name']}"
    assert node.path(f"{said['cni_config_dir']}/app-net.conflist").exists()
    words = ["IgnoreUnknown=true", f"tier={said['tier']}"]
    asked = {
        "portMappings": [
            {"hostPort": 21001, "containerPort": 80, "protocol": protocol, "hostIP": "192.0.2.2"}
            for protocol in ("tcp", "udp")
        ]
    }
    own = json.loads(json.dumps(LISTS["nomad"]))
    own["plugins"][1]["ipam"]["ranges"].append([{"subnet": "fd00:a110:c8::/120"}])
    own["plugins"][1]["ipam"]["routes"].append({"dst": "::/0"})
    for config in (app_net, own):
        for args in (";".join(words), ";".join(reversed(words))):  # a map's pairs come in any order
            box = node.netns(ALLOCATION)
            made = attach(node, said["cni_path"], config, ALLOCATION, box, args=args, capabilities=asked)
            assert made.result is not None
            with server(box, "tcp", 80):
                assert ask(world, "tcp", "192.0.2.2", 21001, seconds=20) is not None
            (told,) = json.loads(node.run([MESOKIT, "ls", ALLOCATION[:8], "--json"]).text)["items"]
            assert told["container_id"] == ALLOCATION and len(told["addresses"]) == 2
            if config is app_net:
                assert labels(node) == {ALLOCATION[:8]: {"tier": "front"}}
            assert "healthy" in node.run([MESOKIT, "doctor"]).text
            assert made.check().error is None
            box.delete()  # the container that held it died
            assert made.delete().error is None and made.delete().error is None


def test_nomad_reads_a_version_of_each_plugin(node: Node) -> None:
    """It takes the first word that looks like one of what a plugin prints when it is called with nothing, and
    places no job with `bridge` on a client whose plugins say less than 0.4.0, or nothing.
    """
    names = [path.name for path in node.path("/opt/cni/bin").iterdir() if not path.name.endswith(".d")]
    assert {"bridge", "firewall", "host-local", "loopback", "portmap"} <= set(names)
    for name in names:
        printed = node.run([f"/opt/cni/bin/{name}"])
        words = (printed.stdout + printed.stderr).decode().split()
        found = next((match[1] for word in words if (match := SEMVER.fullmatch(word))), "0")
        assert tuple(map(int, found.split("."))) >= (0, 4, 0), (name, found)


def test_by_hand(node: Node) -> None:
    play(node, "cnitool")


def test_a_container_is_started_again_after_a_reboot(node: Node, app_net: dict[str, Any]) -> None:
    """podman calls it by the id that it had; its reservations outlive the boot that its record ends with."""
    box = node.netns("c1")
    made = attach(node, "/opt/cni/bin", app_net, "c1", box)
    reservations = node.path(f"/var/lib/cni/networks/{app_net['name']}")
    box.delete()
    node.shell("ip link del app0; nft flush ruleset")
    for record in node.path(f"/run/mesokit/attachments/{app_net['name']}").iterdir():
        record.unlink()
    made.box = node.netns("c2")
    for path in reservations.iterdir():
        if "user.mesokit.reserved" in os.listxattr(path):
            os.setxattr(path, "user.mesokit.reserved", b"another-boot 1.0")
    assert made.add().error is None
    assert sum(path.read_bytes().startswith(b"c1") for path in reservations.iterdir()) == 2  # one a family
    assert made.delete().error is None
    assert not any(path.read_bytes().startswith(b"c1") for path in reservations.iterdir())
