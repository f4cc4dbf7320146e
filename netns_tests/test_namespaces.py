"""Whose files and whose namespace a call is about: what is let go with its answer, what it never sees."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT, service, signal_service

# Calls a plugin as a Mesos agent does: the handle of a namespace is a bind mount, and is unmounted (no lazy
# umount) when the plugin has answered.
UNMOUNTS = """
import ctypes, json, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
plugin, rounds, conf = sys.argv[1], int(sys.argv[2]), sys.argv[3]
busy = 0
os.makedirs("/run/handles", exist_ok=True)
for number in range(rounds):
    handle = f"/run/handles/{number}"
    open(handle, "w").close()
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdin.write(b"x"); holder.stdin.flush(); holder.stdout.read(1)
    namespace = f"/proc/{holder.pid}/ns/net".encode()
    assert libc.mount(namespace, handle.encode(), None, 4096, None) == 0
    env = {"PATH": os.environ["PATH"], "CNI_CONTAINERID": f"c{number}", "CNI_NETNS": handle,
           "CNI_IFNAME": "eth0", "CNI_PATH": os.path.dirname(plugin)}
    for verb in ("ADD", "DEL"):
        done = subprocess.run([plugin], input=conf.encode(), env={**env, "CNI_COMMAND": verb},
                              stdout=subprocess.PIPE)
        assert done.returncode == 0, done.stdout
        if libc.umount2(handle.encode(), 0) != 0:
            assert ctypes.get_errno() == 16, ctypes.get_errno()
            busy += 1
            libc.umount2(handle.encode(), 2)
        assert libc.mount(namespace, handle.encode(), None, 4096, None) == 0
    assert libc.umount2(handle.encode(), 2) == 0
    holder.kill(); holder.wait()
print(busy)
"""


def bridge(**keys: object) -> dict[str, object]:
    ipam = {"type": "host-local", "subnet": "10.9.0.0/16"}
    network = {"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "isGateway": True}
    return {**network, "ipam": ipam, **keys}


@pytest.mark.parametrize(("by", "rounds"), [("service", 100), ("one-shot", 20)])
def test_a_namespace_can_be_unmounted_as_soon_as_the_plugin_has_answered(
    node: Node, ours: str, by: str, rounds: int
) -> None:
    with ExitStack() as there:
        if by == "service":
            there.enter_context(service(node))
        program = ["python3", "-c", UNMOUNTS, f"{ours}/bridge", str(rounds), json.dumps(bridge())]
        assert node.run(program, timeout=600).text == "0\n"
        if by == "service":
            status = node.json(MESOKIT, "node", "status", "--json")
            assert sum(row["calls"] for row in status["calls"]) == 2 * rounds


def test_a_service_that_is_stopped_holds_no_namespace(node: Node, ours: str) -> None:
    """The request lies in its socket; what it carries does not hold the runtime's mount."""
    with started(node.popen([MESOKIT, "node"])):
        until(node.path("/run/mesokit/node.sock").is_socket)
        assert node.json(MESOKIT, "node", "status", "--json")["workers"]  # all are there to be stopped
        signal_service(node, "STOP")
        program = ["python3", "-c", UNMOUNTS, f"{ours}/loopback", "1", json.dumps(bridge(type="loopback"))]
        assert node.run(program).text == "0\n"


def test_a_caller_with_mounts_of_its_own_finds_its_files_there(node: Node, ours: str) -> None:
    """Same root directory, other mount namespace: the reservation is the caller's, and its DEL removes it."""
    box = node.netns("c1")
    script = (
        "mount -t tmpfs none /var/lib/cni\n"
        "call() { env -i PATH=$PATH CNI_COMMAND=$1 CNI_CONTAINERID=c1 CNI_IFNAME=eth0 "
        f'CNI_NETNS={box.path} CNI_PATH={ours} {ours}/bridge < "$CONF"; }}\n'
        "call ADD >&2\n"
        "echo $(ls /var/lib/cni/networks/net | grep -c 10.9)\n"
        "call DEL >&2\n"
        "echo $(ls /var/lib/cni/networks/net | grep -c 10.9)\n"
    )
    node.path("/run/conf.json").write_text(json.dumps(bridge()))
    with service(node):
        env = {"CONF": "/run/conf.json"}
        done = node.run(["unshare", "--mount", "sh", "-c", script], env=env, check=False)
        assert done.text == "1\n0\n", done
        assert not node.path("/var/lib/cni/networks/net").exists()
        assert node.json(MESOKIT, "node", "status", "--json")["refused_calls"] == 2
        assert not list(node.path("/run/mesokit/attachments").rglob("c1*"))


def test_what_is_reserved_in_other_files_is_not_reserved_again_in_these(node: Node, ours: str) -> None:
    """A service that starts, and `reload`, see the record of a container whose agent has its own mounts."""
    box = node.netns("c1")
    node.path("/run/conf.json").write_text(json.dumps(bridge(ipMasq=True)))
    script = (
        "mount -t tmpfs none /var/lib/cni\n"
        "env -i PATH=$PATH CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_IFNAME=eth0 "
        f"CNI_NETNS={box.path} CNI_PATH={ours} {ours}/bridge < /run/conf.json\n"
    )
    node.run(["unshare", "--mount", "sh", "-ec", script])
    node.shell("nft flush ruleset")
    node.run([MESOKIT, "reload"])
    assert "10.9.0.2" in node.shell("nft list ruleset"), "its rules are the host's, and are made again"
    assert not node.path("/var/lib/cni/networks/net").exists()
