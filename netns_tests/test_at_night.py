"""What an operator meets at three in the morning: names that nobody has, a network that is misspelt, records
that are spoilt, no root. Every answer is true, one sentence, and its exit status says how it went.
"""

from __future__ import annotations

import json

import pytest

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.test_view import POINT, WEB, attach, items, published, run_of

ANYBODY = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]


def told(node: Node, *words: str, by: list[str] | None = None) -> tuple[int, str]:
    """Status and what was said, on both streams; never a traceback, never a bare errno."""
    done = node.run([*(by or []), MESOKIT, *words], check=False)
    said = (done.stdout + done.stderr).decode()
    assert "Traceback" not in said and "a mistake in" not in said, said
    return done.status, said


@pytest.fixture
def pair(node: Node, ours: str) -> Node:
    """A container on each of two networks, of tasks web.1 and db.0."""
    attach(node, ours, published(WEB, 8080), "4c7f-web")
    attach(node, ours, POINT, "9ab2-db")
    run_of(node, "4c7f-web", "web", "web.1")
    run_of(node, "9ab2-db", "db", "db.0")
    return node


NOT_A_CONTAINER = {
    "": "the name is empty",
    "web-net": "'web-net' is a network: mesokit ls -n web-net",
    "web0": "'web0' is the bridge of network web-net: mesokit ls -n web-net",
    "lo": "is an interface of this host, and no container's",
    "10.9.0.1": "10.9.0.1 is the gateway of network web-net, on web0",
    "10.9.0.77": "nothing here goes by '10.9.0.77': network web-net gives addresses of 10.9.0.0/24",
    "203.0.113.9": "nothing here goes by '203.0.113.9', and no network here gives it",
    "tcp/22": "no container publishes host port tcp/22",
    "tcp/99999": "ports are 1 to 65535",
    "pid/1": "runs in no container's network namespace",
    "nobody": "nothing here goes by 'nobody'",
}


@pytest.mark.parametrize("name", NOT_A_CONTAINER)
def test_a_name_that_no_container_has_is_told_for_what_it_is(pair: Node, name: str) -> None:
    for command in (["ls"], ["inspect"], ["exec"]):
        status, said = told(pair, *command, name)
        assert status == 1 and NOT_A_CONTAINER[name] in said, (command, said)


def test_a_port_is_found_as_any_tool_writes_it(pair: Node) -> None:
    for name in ("8080", "tcp/8080", "8080/tcp", ":8080", "0.0.0.0:8080", "0.0.0.0:8080/tcp"):
        assert [item["container_id"] for item in items(pair, "ls", name)] == ["4c7f-web"], name


def test_every_command_takes_a_container_by_any_of_its_names(pair: Node) -> None:
    for words, about in (
        (("update", "db.0", "mtu=1400", "--dry-run"), "9ab2-db eth0 on ptp-net: would change"),
        (("update", "10.8.0.2", "mtu=1400", "--dry-run"), "9ab2-db eth0 on ptp-net: would change"),
        (("reload", "--container", "web.1"), "1 attachment as made"),
        (("trace", "web.1", "--to", "db.0", "--duration", "50ms"), "following 4c7f-web (10.9.0.2); "),
        (("policy", "explain", "web.1", "db.0", "tcp/80"), "tcp/80 from 10.9.0.2 to 10.8.0.2 passes"),
    ):
        status, said = told(pair, *words)
        assert status == 0 and about in said and "\\n" not in said, (words, said)


def test_a_network_that_is_misspelt_is_no_success(pair: Node) -> None:
    for words in (
        *(("ls", "-n"), ("check", "-n"), ("graph", "-n"), ("gc", "--dry-run", "-n"), ("gc", "-n")),
        *(("reload", "-n"), ("ip",)),
    ):
        status, said = told(pair, *words, "web-nte")
        assert status == 1 and "no network 'web-nte' on this node: is 'web-net' meant?" in said, (words, said)
    assert told(pair, "update", "-n", "nope", "mtu=1400")[0] == 1


@pytest.mark.parametrize(
    "target", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "fe80::1", "::1", "web.1"]
)
def test_ping_refuses_what_no_probe_can_answer(pair: Node, target: str) -> None:
    status, said = told(pair, "ping", "web.1", target)
    assert status == 2 and "Error: " in said and "lost" not in said
    assert told(pair, "ping", "web.1", "db.0", "tcp/0")[0] == told(pair, "trace", "web.1", "tcp/0")[0] == 2


def test_gc_leaves_what_a_container_has_whose_record_is_spoilt(pair: Node) -> None:
    """It was alive, and its address was given to the next one."""
    for path in pair.path("/run/mesokit/attachments/ptp-net").iterdir():
        path.write_bytes(b"\x00\xff not a record\n" * 20)
    rules = pair.shell("nft list table inet mesokit")
    status, said = told(pair, "gc", "--dry-run")
    assert status == 0 and "left alone: reservation of 9ab2-db eth0 on network ptp-net" in said
    told(pair, "gc")
    assert pair.path("/var/lib/cni/networks/ptp-net/10.8.0.2").exists()
    assert pair.shell("nft list table inet mesokit") == rules
    for words, expected in ((("ls",), 0), (("check",), 2), (("doctor",), 2)):
        status, said = told(pair, *words)
        assert status == expected and "cannot be read" in said, said
    pair.shell("ip netns del 9ab2-db")
    status, said = told(pair, "gc", "--forget")
    assert status == 0 and "gone: reservation of 9ab2-db eth0" in said
    assert not pair.path("/var/lib/cni/networks/ptp-net/10.8.0.2").exists()
    assert told(pair, "check")[0] == 0 and "9ab2-db" not in pair.shell("nft list table inet mesokit")


def test_a_reservation_that_is_lost_comes_back_unless_another_has_the_address(pair: Node) -> None:
    file = pair.path("/var/lib/cni/networks/ptp-net/10.8.0.2")
    file.unlink()
    assert told(pair, "check", "db.0")[0] == 1
    assert told(pair, "reload")[0] == 0 and file.read_bytes() == b"9ab2-db\r\neth0"
    assert told(pair, "check", "db.0")[0] == 0
    file.write_bytes(b"another\r\neth0")
    status, said = told(pair, "reload")
    assert status == 1 and "address 10.8.0.2 of eth0 of 9ab2-db was given to another meanwhile" in said


def test_who_is_not_root_is_told_the_truth(pair: Node) -> None:
    """What is used is counted by the names of files; what may not be seen is a sentence with a way out."""
    pools = json.loads(pair.run([*ANYBODY, MESOKIT, "ip", "--json"]).stdout)["items"]
    assert {item["network"]: item["used"] for item in pools} == {"ptp-net": 1, "web-net": 2}
    pair.path("/var/lib/mesokit/leases").mkdir(mode=0o700, parents=True, exist_ok=True)
    for words in (
        *(("gc", "--dry-run"), ("policy", "show"), ("policy", "explain", "web.1", "db.0", "tcp/80")),
        *(("web", "--socket", "/run/mesokit/web.sock"), ("cni", "status", "web-net"), ("dhcp", "leases")),
    ):
        status, said = told(pair, *words, by=ANYBODY)
        assert status == 1 and ("root" in said or "no network" in said), (words, said)
    pair.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    pair.path("/etc/cni/net.d/w.conf").write_text(json.dumps(WEB))
    status, said = told(pair, "cni", "validate", "/etc/cni/net.d", by=ANYBODY)
    assert status == 0, said


def test_a_route_to_one_container_is_no_overlap(pair: Node) -> None:
    """Doctor advised to delete the route of a living container whose record was lost."""
    for path in pair.path("/run/mesokit/attachments/ptp-net").iterdir():
        path.unlink()
    pair.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    pair.path("/etc/cni/net.d/p.conf").write_text(json.dumps(POINT))
    assert "ip route del" not in told(pair, "doctor")[1]


FAKE = "import time; time.sleep(600)"


def test_a_dead_container_of_an_agent_that_is_gone_is_told(node: Node, ours: str) -> None:
    """`check` said: mesokit gc; and that said no more than: nothing is stale."""
    node.uplink()
    box = attach(node, ours, POINT, "c1")
    note = "/run/mesos/isolators/network/cni/c1"
    node.shell(f"mkdir -p {note}/ptp-net/eth0")
    box.delete()
    told = node.run([MESOKIT, "gc", "--dry-run"])
    assert told.text == "nothing is stale\n"
    assert "left to its Mesos agent: attachment of c1 eth0 on network ptp-net" in told.stderr.decode()
    (found,) = node.run([MESOKIT, "doctor", "--json"], check=False).json()["items"]
    assert found["check"] == "stale" and "none runs here" in found["about"] and note in found["remedy"]
    node.shell(f"rm -r {note}")
    assert node.run([MESOKIT, "gc"]).text.startswith("gone: attachment of c1")
    assert node.run([MESOKIT, "doctor"]).status == 0


def test_a_podman_container_goes_by_its_name_and_no_task_can_take_one(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    node.shell("mkdir -p /run/libpod; ln -s $(command -v python3) /run/conmon")
    monitor = ["/run/conmon", "-c", FAKE, "-c", "c1", "-n", "shop"]
    with started(node.popen(["unshare", "--pid", "--fork", *monitor])) as inside:
        until(lambda: node.shell("pidof conmon || true").strip(), what="the one that only says so runs")
        assert items(node, "ls")[0]["tasks"] == []
        inside.kill(9)
    node.shell("kill -9 $(pidof conmon) || true")
    with started(node.popen(monitor)):
        until(lambda: items(node, "ls")[0]["tasks"] == ["shop"], what="podman's name is known")
        assert [item["container_id"] for item in items(node, "inspect", "shop")] == ["c1"]
        assert "task       shop (podman)" in node.run([MESOKIT, "inspect", "c1"]).text
