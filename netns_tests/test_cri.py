"""Pods as a kubelet makes them: sandboxes of containerd's CRI on our plugins alone."""

from __future__ import annotations

import pytest

from netns_tests.case import DEFAULT4, bridge
from netns_tests.cri import containerd
from netns_tests.node import Node, NodeError
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
