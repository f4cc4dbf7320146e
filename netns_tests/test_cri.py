"""Pods as a kubelet makes them: sandboxes of containerd's CRI on our plugins alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netns_tests.case import DEFAULT4, bridge, local
from netns_tests.cri import containerd
from netns_tests.node import Node, NodeError
from netns_tests.plugins import MESOKIT
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_runtimes import RUNTIME, _configure, _portmap

#: What containerd keeps of its own.
OWN = (*RUNTIME, r"(file|dir|socket|link-file|mount) /(var/lib|etc|opt)/(containerd|cni/bin)")


def test_pods_come_and_go_in_every_way(node: Node, plugins: str) -> None:
    """A kubelet stops a sandbox again and again until it hears that it is stopped, and one of a pod whose
    namespace is gone as well; a sandbox that could not be made leaves nothing.
    """
    node.uplink()
    few = {"subnet": "10.9.0.0/24", "rangeEnd": "10.9.0.4"}
    pool = {"type": "host-local", "ranges": [[few], [{"subnet": "fd00:9::/64"}]], "routes": [DEFAULT4]}
    _configure(node, "pods", [bridge(pool, isDefaultGateway=True, ipMasq=True), _portmap()])
    with containerd(node, plugins) as cri:
        assert cri.ready()
        cri.remove(cri.run("zero"))  # containerd's own files come with the first
        before = snapshot(node)
        one, two = cri.run("one", [(8080, 80)]), cri.run("two")
        for pod in (one, two):
            assert cri.address(pod).startswith("10.9.0.")
            assert node.ping(cri.address(pod))
        three = cri.run("three")
        with pytest.raises(NodeError, match="no ip addresses available in range set"):
            cri.run("four")
        with pytest.raises(NodeError, match="host port 8080/tcp is taken by container"):
            cri.stop(three)
            cri.run("four", [(8080, 80)])
        cri.stop(one)
        cri.stop(one)
        (gone,) = (path for path in node.path("/run/netns").iterdir() if path.name.startswith("cni-"))
        node.shell(f"umount --lazy /run/netns/{gone.name} && rm /run/netns/{gone.name}")
        cri.stop(two)
        for pod in (one, two, three):
            cri.remove(pod)
        assert_clean(node, before, allowed=OWN)


@pytest.mark.parametrize("plugins", ["one-shot"], indirect=True)
def test_pods_go_by_their_names_and_are_more_than_their_loopback(node: Node, plugins: str) -> None:
    """containerd attaches each pod to a network of `loopback` beside its own, and says pods' names in
    CNI_ARGS. What is `lo`'s is no address of the pod, and a node of such pods is a sound one.
    """

    def say(*words: str, status: int = 0) -> str:
        finished = node.run([MESOKIT, *words], check=False)
        assert finished.status == status, (words, finished)
        return finished.text

    node.uplink()
    main = bridge(local("10.9.0.0/24"), isDefaultGateway=True, policy="open", policyLabels=["K8S_POD_NAME"])
    _configure(node, "pods", [main, {"type": "bandwidth", "capabilities": {"bandwidth": True}}, _portmap()])
    with containerd(node, plugins) as cri:
        one, two = cri.run("one", [(8080, 80)]), cri.run("two")
        assert "healthy" in say("doctor")
        assert "4 attachments as made, 0 not" in say("check")
        told = json.loads(say("ls", "--json"))["items"]
        assert {(item["container_id"], item["interface"], tuple(item["tasks"])) for item in told} == {
            (cid, ifname, (f"default/{name}",))
            for cid, name in ((one, "one"), (two, "two"))
            for ifname in ("lo", "eth0")
        }
        assert {address for item in told for address in item["addresses"]} == {
            f"{cri.address(one)}/24",
            f"{cri.address(two)}/24",
        }
        assert one in say("ls", "one") and two not in say("ls", "default/one")
        assert f"{cri.address(one)} -> {cri.address(two)} icmp: answered" in say("ping", "one", "default/two")
        assert "127.0.0.1" not in say("graph") and "cni-loopback" not in say("graph")
        labels = {item["container"]: item["labels"] for item in _endpoints(say("policy", "show", "--json"))}
        assert labels == {one: {"K8S_POD_NAME": "one"}, two: {"K8S_POD_NAME": "two"}}

        say("update", "one", "groups=web")  # of a list's records the bridge's has them
        groups = {item["container"]: item["groups"] for item in _endpoints(say("policy", "show", "--json"))}
        assert groups == {one: ["web"], two: []}
        say("update", "one", "mtu=1400")
        inside = say("exec", "one", "--", "ip", "link")
        assert "lo: <LOOPBACK,UP,LOWER_UP> mtu 65536" in inside and inside.count(" mtu 1400 ") == 1
        assert "packet-sizes" not in say("doctor", status=1)  # it differs from the network's file by now
        assert "2 attachments as made, 0 not" in say("reload", "--network", "pods")
        refused = node.run([MESOKIT, "update", "two", "ports+=8081:80/tcp"], check=False)
        assert refused.status == 1 and b"gave nothing to do" in refused.stderr
        for pod in (one, two):
            cri.stop(pod)
            cri.remove(pod)


def _endpoints(told: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(told)["endpoints"]
    return found
