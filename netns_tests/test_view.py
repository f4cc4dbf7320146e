"""The operator's commands on a node with containers, without and with the node service."""

from __future__ import annotations

import json
import signal
from typing import Any
from xml.etree import ElementTree

import pytest

from netns_tests.node import Netns, Node, until
from netns_tests.plugins import MESOKIT, TOP

WEB: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "web-net",
    "type": "chain",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "web0",
            "isDefaultGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
POINT: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "ptp-net",
    "type": "ptp",
    "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.8.0.0/28"},
}


def published(conf: dict[str, Any], host_port: int, container_port: int = 80) -> dict[str, Any]:
    mapping = {"hostPort": host_port, "containerPort": container_port, "protocol": "tcp"}
    return conf | {"runtimeConfig": {"portMappings": [mapping]}}


def attach(node: Node, folder: str, conf: dict[str, Any], cid: str) -> Netns:
    box = node.netns(cid)
    node.cni("ADD", f"{folder}/{conf['type']}", conf, cid, box).ok()
    return box


def asked(node: Node, *words: str) -> Any:
    return node.run([MESOKIT, *words, "--json"]).json()


def items(node: Node, *words: str) -> list[dict[str, Any]]:
    document = asked(node, *words)
    assert document["schema"] == 1
    found: list[dict[str, Any]] = document["items"]
    return found


def test_ls_and_inspect_find_a_container_by_all_its_names(node: Node, plugins: str) -> None:
    attach(node, plugins, published(WEB, 8080), "4c7f-one")
    box = attach(node, plugins, POINT, "9ab2-two")
    one, two = items(node, "ls", "-n", "web-net")[0], items(node, "ls", "-n", "ptp-net")[0]
    assert one["addresses"] == ["10.9.0.2/24", "fd00:9::2/64"] and one["state"] == two["state"] == "up"
    sleeper = box.popen(["sleep", "600"])
    pid = node.shell("pidof -s sleep").strip()
    names = [
        "4c7f-one",
        "4c",
        "10.9.0.2",
        "fd00:9::2",
        "FD00:9:0::2",
        one["mac"],
        one["host_interface"],
        "8080",
    ]
    for name in [*names, "tcp/8080", "/run/netns/4c7f-one"]:
        assert [item["container_id"] for item in items(node, "inspect", name)] == ["4c7f-one"], name
    assert items(node, "inspect", f"pid/{pid}")[0]["container_id"] == "9ab2-two"
    sleeper.kill()
    node.shell("ip -n 4c7f-one link set lo up")
    shown = items(node, "inspect", "4c7f-one")[0]
    assert {step["verdict"] for step in shown["steps"]} <= {"ok", "passive"}
    assert {item["name"]: item["running"] for item in shown["inside"]} == {"lo": True, "eth0": True}
    lost = node.run([MESOKIT, "inspect", "10.9.0.77"], check=False)
    assert lost.status == 1 and b"nothing here goes by '10.9.0.77'" in lost.stderr


def run_of(node: Node, cid: str, executor: str, *tasks: str) -> None:
    """What a Mesos agent has on disk of an executor's run, and of its tasks."""
    place = node.path("/var/lib/mesos/meta/slaves/S1/frameworks/F1/executors") / executor / "runs"
    for task in tasks:
        (place / cid / "tasks" / task).mkdir(parents=True)
    (place / "latest").symlink_to(f"/var/lib/mesos/meta/nowhere/{cid}")
    latest = node.path("/var/lib/mesos/meta/slaves/latest")
    if not latest.is_symlink():
        latest.symlink_to("S1")


def test_ls_names_the_task_of_mesokit_run(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "5f2c-run")
    runs = node.path("/var/lib/mesokit/agent/slaves/A1/frameworks/F1/executors") / "hello" / "runs"
    (runs / "5f2c-run").mkdir(parents=True)
    assert items(node, "ls")[0]["tasks"] == ["hello"]
    assert items(node, "inspect", "hello")[0]["container_id"] == "5f2c-run"


@pytest.mark.parametrize("columns", ["60", "200"])
def test_a_table_fits_the_terminal_and_no_name_acts_on_it(node: Node, ours: str, columns: str) -> None:
    attach(node, ours, POINT, "c" * 36)
    evil = "task\x1b]0;title\x07-\u202e" + "x" * 60
    run_of(node, "c" * 36, "executor-1", evil, "web.1")
    told = node.run([MESOKIT, "ls"], env={"COLUMNS": columns}).text
    assert max(map(len, told.splitlines())) <= int(columns)
    assert "\x1b" not in told and "\x07" not in told and "\u202e" not in told
    assert items(node, "ls")[0]["tasks"] == [evil, "web.1"]
    for name in ("web.1", "executor-1", evil):
        told = node.run([MESOKIT, "inspect", name]).text
        assert "10.8.0.2/28" in told and "\x1b" not in told, name


def test_states_of_what_was_harmed(node: Node, ours: str) -> None:
    for number in range(4):
        attach(node, ours, WEB, f"c{number}")
    links = {item["container_id"]: item["host_interface"] for item in items(node, "ls")}
    node.shell(f"ip link set {links['c1']} down; ip link set {links['c2']} nomaster; ip netns del c3")
    states = {item["container_id"]: item["state"] for item in items(node, "ls")}
    assert states == {"c0": "up", "c1": "down", "c2": "broken", "c3": "stale"}


def test_nothing_here_and_nothing_to_see(node: Node, ours: str) -> None:
    told = node.run([MESOKIT, "ls"])
    assert told.status == 0 and told.text == "" and b"nothing is attached here" in told.stderr
    attach(node, ours, POINT, "c1")
    user = ["setpriv", "--reuid", "1000", "--clear-groups"]
    told = node.run([*user, MESOKIT, "ls"], check=False)
    assert told.status == 0 and b"only root may read" in told.stderr and b"nothing is" not in told.stderr


def test_pools_tell_who_has_what_and_how_many_are_free(node: Node, plugins: str) -> None:
    attach(node, plugins, WEB, "c1")
    attach(node, plugins, POINT, "c2")
    pools = {(item["network"], item["subnets"][0]): item for item in items(node, "ip")}
    assert pools["web-net", "10.9.0.0/24"]["free"] == 252 and pools["ptp-net", "10.8.0.0/28"]["size"] == 13
    (held,) = pools["ptp-net", "10.8.0.0/28"]["held"]
    assert (held["address"], held["container_id"], held["state"]) == ("10.8.0.2", "c2", "up")
    assert "10.8.0.2" in node.run([MESOKIT, "ip", "ptp-net"]).text


def test_exec_runs_in_the_container_with_the_status_of_the_program(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    told = node.run([MESOKIT, "exec", "10.8.0.2", "--", "ip", "-br", "address", "show", "eth0"])
    assert "10.8.0.2/28" in told.text
    assert node.run([MESOKIT, "exec", "c1", "--", "sh", "-c", "exit 7"], check=False).status == 7
    assert node.run([MESOKIT, "exec", "c1", "no-such-program"], check=False).status == 127
    killed = node.run([MESOKIT, "exec", "c1", "--", "sh", "-c", "kill -TERM $$"], check=False)
    assert killed.status == -signal.SIGTERM
    words = node.run(
        [MESOKIT, "exec", "c1", "--", "sh", "-c", 'pwd; echo "$@"', "sh", "--json", "-n"], cwd="/etc"
    )
    assert words.text == "/etc\n--json -n\n"


def test_check_needs_no_configuration_and_its_remedies_work(node: Node, ours: str) -> None:
    attach(node, ours, published(WEB, 8080), "c1")
    attach(node, ours, POINT, "c2")
    assert node.run([MESOKIT, "check"]).text == "2 attachments as made, 0 not\n"
    (link,) = [item["host_interface"] for item in items(node, "ls", "c1")]
    node.shell(
        f"nft flush ruleset; ip route flush 10.8.0.2; ip link set {link} nomaster\n"
        "nsenter --net=/run/netns/c2 ip route flush dev eth0\n"
        "nsenter --net=/run/netns/c1 ip link set eth0 mtu 1300\n"
        "sysctl -qw net.ipv4.ip_forward=0; ip addr del 10.9.0.1/24 dev web0"
    )
    told = node.run([MESOKIT, "check", "--json"], check=False)
    steps = [step for item in told.json()["items"] for step in item["steps"] if step["verdict"] == "failed"]
    assert told.status == 1
    assert {"masquerade", "ports", "host-routes", "bridge-port", "addresses", "veth", "gateway"} <= {
        step["kind"] for step in steps
    }
    for step in steps:
        assert step["problem"] and step["remedy"], step
        node.shell(step["remedy"].replace("mesokit", MESOKIT), check=False)
    node.run([MESOKIT, "reload"])
    assert node.run([MESOKIT, "check"], check=False).text == "2 attachments as made, 0 not\n"


def test_gc_removes_what_is_stale_and_nothing_else(node: Node, ours: str) -> None:
    for number in range(4):
        attach(node, ours, published(WEB, 8000 + number), f"c{number}")
    node.shell("ip netns del c1; ip netns del c2; ip netns del c3")
    known = node.path("/run/mesos/isolators/network/cni/c3/web-net/eth0")
    known.mkdir(parents=True)  # the agent will detach it
    place = node.path("/var/lib/cni/networks/web-net")
    (place / "10.9.0.77").write_bytes(b"somebody\r\neth0")  # by a reference plugin, as far as anybody knows
    before = node.run([MESOKIT, "gc", "--dry-run"], check=False)
    assert before.status == 1 and before.text.count("would go: attachment of") == 2
    assert b"left alone: reservation of somebody eth0" in before.stderr
    assert len(items(node, "ls")) == 4
    told = node.run([MESOKIT, "gc"], check=False)
    assert told.status == 0, told
    assert {item["container_id"] for item in items(node, "ls")} == {"c0", "c3"}
    left = {path.name for path in place.iterdir() if path.name.startswith("10.")}
    assert left == {"10.9.0.2", "10.9.0.5", "10.9.0.77"}
    rules = node.shell("nft list ruleset")
    assert "id: c0" in rules and "id: c1" not in rules and "id: c2" not in rules
    assert node.run([MESOKIT, "check", "c0"]).status == 0
    assert node.run([MESOKIT, "gc"]).text == "nothing is stale\n"


def test_what_cannot_be_undone_is_forgotten_on_request(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    (record,) = node.path("/run/mesokit/attachments/ptp-net").iterdir()
    with record.open("a") as file:
        file.write('{"step": "of-tomorrow", "id": 90, "args": {}}\n')
    node.shell("ip netns del c1")
    told = node.run([MESOKIT, "gc"], check=False)
    assert told.status == 1 and b"of-tomorrow" in told.stderr and "left: attachment of c1" in told.text
    assert node.run([MESOKIT, "gc", "--forget"], check=False).status == 0
    assert items(node, "ls") == [] and items(node, "ip") == []


def test_events_tell_failures_of_the_past_and_what_happens(node: Node, plugins: str) -> None:
    attach(node, plugins, WEB, "c1")
    box = node.netns("c2")
    wrong = {"cniVersion": "1.0.0", "name": "n", "type": "bridge", "mtu": 3}
    refused = node.cni("ADD", f"{plugins}/bridge", wrong, "c2", box)
    assert refused.code
    told = [json.loads(line) for line in node.run([MESOKIT, "events", "--json"]).text.splitlines()]
    assert {(event["kind"], event["container"]) for event in told} == {("attached", "c1"), ("failed", "c2")}
    (failed,) = [event for event in told if event["kind"] == "failed"]
    assert refused.error is not None and refused.error["msg"] in failed["about"]
    for words, containers in (
        (["c1"], ["c1"]), (["10.9.0.2"], ["c1"]), (["c2"], ["c2"]), (["-n", "n"], ["c2"]),
        (["c1", "-n", "web-net"], ["c1"]), (["c1", "-n", "n"], []),
    ):  # fmt: skip
        lines = node.run([MESOKIT, "events", "--json", *words]).text.splitlines()
        assert [json.loads(line)["container"] for line in lines] == containers, words
    for words, says in (
        (["c7"], "nothing here goes by 'c7'"),
        (["-n", "10.9.0.2"], "container c1 goes by that"),
    ):
        strange = node.run([MESOKIT, "events", *words], check=False)
        assert strange.status == 1 and says in strange.stderr.decode(), strange
    out = node.path("/run/events")
    command = f"exec {MESOKIT} events -f --since 1h --json > /run/events 2>&1"
    following = node.popen(["sh", "-c", command])
    until(lambda: out.exists() and '"failed"' in out.read_text(), what="the past")
    attach(node, plugins, WEB, "c3")
    until(lambda: '"container": "c3"' in out.read_text(), what="attached")
    node.shell("ip netns del c3")
    until(lambda: "-> stale" in out.read_text(), what="stale")
    node.run([MESOKIT, "gc"])
    until(lambda: '"detached"' in out.read_text(), what="detached")
    following.kill(signal.SIGINT)
    following.wait(30)
    assert "Traceback" not in out.read_text()


def test_a_picture_has_all_containers_and_marks_what_is_wrong(node: Node, ours: str) -> None:
    node.uplink()
    attach(node, ours, published(WEB, 8080), "c1")
    attach(node, ours, POINT, "c2")
    run_of(node, "c1", "e", "<web>&\x1b.1")
    node.shell("ip link set web0 down")
    told = node.run([MESOKIT, "graph"]).text
    assert "10.9.0.2" in told and "8080->80/tcp" in told and "web0" in told and "DOWN" in told
    document = node.run([MESOKIT, "graph", "--svg"]).text
    tree = ElementTree.fromstring(document)
    texts = " ".join(tree.itertext())
    assert "<web>&\\x1b.1" in texts and "10.8.0.2" in texts
    assert "web0  DOWN  bridge 10.9.0.1/24" in texts
    assert [item for item in tree.iter() if item.get("class") == "bad"]


def test_json_has_the_keys_that_the_readme_lists(node: Node, ours: str) -> None:
    node.uplink()
    attach(node, ours, published(WEB, 8080), "c1")
    attach(node, ours, POINT, "c2")
    node.shell("ip netns del c2")
    text = (TOP / "cni_plugins/cli/README.md").read_text()
    told: dict[str, Any] = {}
    asks = {"ls": ["c1"], "inspect": ["c1"], "check": ["c1"], "ip": [], "gc": ["--dry-run"], "doctor": [],
            "ping": ["c1", "10.9.0.1"], "graph": []}  # fmt: skip
    for name, words in asks.items():
        document = node.run([MESOKIT, name, *words, "--json"], check=False).json()
        told[name] = set(document["items"][0])
        if name == "gc":
            assert {"removed", "left", "foreign", "errors"} <= set(document)
        row = next(
            line for line in text.splitlines() if line.startswith(f"| `{name}` | {document['kind']} |")
        )
        listed = row.split("|")[3].partition(";")[0].strip().replace(",", "").split()
        if listed[:3] == ["those", "of", "`ls`"]:
            listed = [*told["ls"], *listed[3:]]
        assert told[name] == set(listed), name


EVERY: list[list[str]] = [
    ["ls"], ["ls", "--json"], ["inspect", "c1"], ["ip"], ["check"], ["gc", "--dry-run"], ["doctor"],
    ["graph"], ["graph", "--svg"], ["events"], ["node", "metrics", "--state"], ["exec", "c1", "true"],
]  # fmt: skip


def _nothing_breaks(node: Node, prefix: tuple[str, ...] = ()) -> None:
    for words in EVERY:
        told = node.run([*prefix, MESOKIT, *words], check=False)
        said = told.text + told.stderr.decode()
        assert told.status in {0, 1, 2} and "Traceback" not in said and "a mistake in" not in said, (
            words,
            said,
        )


def test_records_of_the_release_before(node: Node) -> None:
    node.netns("c1")
    records = json.loads((TOP / "cni_plugins/steps/tests/records_version1.json").read_text())
    place = node.path("/run/mesokit/attachments/net")
    place.mkdir(parents=True)
    for name, record in records.items():
        for line in record["lines"]:
            if "containerID" in line and "plugin" in line:
                line |= {"netns": "/run/netns/c1", "netnsID": None, "containerID": f"c1-{name}"}
        (place / name).write_text("".join(json.dumps(line) + "\n" for line in record["lines"]))
    found = items(node, "ls")
    assert len(found) == len(records)
    assert any("10.9.0.2/24" in item["addresses"] for item in found)
    _nothing_breaks(node)


def test_a_node_with_nothing_and_one_with_garbage(node: Node) -> None:
    _nothing_breaks(node)
    place = node.path("/run/mesokit/attachments/net")
    place.mkdir(parents=True)
    head = {"network": "net", "containerID": "c1", "ifname": "eth0", "plugin": "bridge", "version": 2}
    odd: list[Any] = [
        head,
        head | {"netnsID": "x", "time": "never", "hostID": [1], "config": {"plugins": [1, {"plugins": 7}]}},
        head | {"netns": "/etc/passwd", "containerID": "c2", "boot": 5},
    ]
    lines: list[Any] = [
        {"step": "veth", "id": 1, "args": 5},
        {"step": "ports", "id": 2, "args": {"wanted": {"forwards": [{"host_port": "x"}, 7]}}},
        {"step": "addresses", "id": 3, "args": {"routes": 5, "ips": [5]}},
        {"step": "gateway", "id": 4, "args": {"addresses": 5}},
        {"result": {"interfaces": [5, {}], "ips": [{"interface": 99}, 5, {"address": "nonsense"}]}},
    ]
    for number, one in enumerate(odd):
        for count in range(len(lines) + 1):
            text = "".join(
                json.dumps(item) + "\n" for item in (one | {"ifname": f"e{count}"}, *lines[:count])
            )
            (place / f"{number}{count}").write_text(text)
    (place / "binary").write_bytes(bytes(range(256)))
    networks = node.path("/var/lib/cni/networks/net")
    networks.mkdir(parents=True)
    (networks / "10.0.0.1").write_bytes(b"\xff\x00\x1b[2J\r\neth0")
    (networks / "10.0.0.2").mkdir()
    _nothing_breaks(node)
    _nothing_breaks(node, ("setpriv", "--reuid", "1000", "--clear-groups"))


def test_a_full_disk_and_a_reader_that_leaves(node: Node, ours: str) -> None:
    attach(node, ours, WEB, "c1")
    full = node.run(["sh", "-c", f"{MESOKIT} ls > /dev/full"], check=False)
    assert full.status not in {0, 70}
    left = node.run(["sh", "-c", f"{MESOKIT} ls --json | head -c 1"], check=False)
    assert left.status == 0
