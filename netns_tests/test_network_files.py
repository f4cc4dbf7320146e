"""Files of networks that change under running containers: shown, or applied by the service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.test_update import NET, record

CONF: dict[str, Any] = NET | bridge(local("10.9.0.0/24", "fd00:9::/64"), isDefaultGateway=True)
FILE = "/etc/cni/net.d/net.conf"


@contextmanager
def watching(node: Node, how: str) -> Iterator[Running]:
    with started(node.popen([MESOKIT, "node", "--watch-networks", how])) as running:
        until(node.path("/run/mesokit/node.sock").is_socket)
        yield running


@pytest.fixture
def box(node: Node, ours: str) -> Netns:
    """A container of CONF, whose file is there."""
    made = node.netns("c1")
    node.path(FILE).parent.mkdir(parents=True, exist_ok=True)
    node.path(FILE).parent.chmod(0o755)
    write(node, CONF)
    node.cni("ADD", f"{ours}/bridge", CONF, "c1", made).ok()
    return made


def write(node: Node, conf: Mapping[str, Any]) -> None:
    """As editors do: another file that takes the name."""
    new = node.path(FILE).with_name(".new")
    new.write_text(json.dumps(conf))
    new.rename(node.path(FILE))


def mtu(box: Netns) -> int:
    found: int = box.json("ip", "-j", "link", "show", "eth0")[0]["mtu"]
    return found


def test_what_is_edited_is_applied(node: Node, box: Netns) -> None:
    with watching(node, "apply") as service:
        write(node, CONF | {"mtu": 1400})
        until(lambda: mtu(box) == 1400, what="a file that took the name is applied")
        node.path(FILE).write_text(json.dumps(CONF | {"mtu": 1300})[:-10])  # half of it
        until(lambda: b"no whole JSON" in service.errors(), what="half a file is passed over")
        assert mtu(box) == 1400
        node.path(FILE).write_text(json.dumps(CONF | {"mtu": 1350}))
        until(lambda: mtu(box) == 1350, what="the whole file is applied")
        write(node, CONF | {"mtu": 1300, "vlan": 7})
        until(lambda: b"cannot be changed in place" in service.errors(), what="what cannot be is told")
        assert mtu(box) == 1350
        node.path(FILE).parent.chmod(0o777)
        write(node, CONF | {"mtu": 1300})
        until(lambda: b"may be written by others" in service.errors(), what="a directory of all is refused")
        assert mtu(box) == 1350


def test_the_environment_asks_for_it_as_a_unit_of_systemd_can(node: Node, box: Netns) -> None:
    command, key = [MESOKIT, "node"], "MESOKIT_WATCH_NETWORKS"
    with started(node.popen(command, env={key: "show"})) as service:
        until(node.path("/run/mesokit/node.sock").is_socket)
        write(node, CONF | {"mtu": 1400})
        until(lambda: b"c1 eth0 on net differs from its file" in service.errors(), what="it is shown")
    assert mtu(box) == 1500
    wrong = node.run(command, env={key: "always"}, check=False)
    assert wrong.status == 2
    assert b"--watch-networks" in wrong.stderr and b"'always'" in wrong.stderr


def test_a_pipe_among_the_files_makes_nobody_wait(node: Node, box: Netns) -> None:
    node.run(["mkfifo", "/etc/cni/net.d/00-pipe.conf"])
    done = node.run([MESOKIT, "doctor"], check=False, timeout=60)
    assert b"Traceback" not in done.stderr
    assert "00-pipe.conf" in done.text
    with watching(node, "apply") as service:
        write(node, CONF | {"mtu": 1400})
        until(lambda: mtu(box) == 1400, what="the file beside it is applied")
        assert b"00-pipe.conf is no regular file" in service.errors()


def test_what_is_edited_is_shown(node: Node, box: Netns) -> None:
    with watching(node, "show") as service:
        write(node, CONF | {"mtu": 1400})
        until(lambda: b"c1 eth0 on net differs from its file" in service.errors(), what="it is shown")
    assert mtu(box) == 1500


def test_a_change_that_was_made_without_a_service_is_found_at_its_start(node: Node, box: Netns) -> None:
    write(node, CONF | {"mtu": 1400})
    told = json.loads(node.run([MESOKIT, "doctor", "--json"], check=False).text)["items"]
    (found,) = [item for item in told if item["check"] == "differing-containers"]
    assert found["remedy"] == f"mesokit update --network net --from {FILE} --dry-run"
    assert "mtu" in found["evidence"]
    with watching(node, "apply"):
        until(lambda: mtu(box) == 1400, what="it is applied")
    told = json.loads(node.run([MESOKIT, "doctor", "--json"], check=False).text)["items"]
    assert "differing-containers" not in {item["check"] for item in told}


def test_what_differs_is_shown_wherever_an_operator_looks(node: Node, box: Netns) -> None:
    """What, from which file, and the command that brings the container there, which is pasted at the end."""
    command = f"mesokit update c1 --network net --from {FILE} --apply"
    (row,) = listed(node)
    assert (row["differs"], row["file"], row["update"]) == ([], "", "")
    with watching(node, "show"), started(node.popen([MESOKIT, "events", "-f", "--json"])) as events:
        until(lambda: b"attached" in events.output(), what="events of the past are told")
        route = CONF["ipam"] | {"routes": [{"dst": "10.40.0.0/16"}]}
        write(node, CONF | {"mtu": 1400, "hairpinMode": True, "ipam": route})
        until(lambda: b"differs" in events.output(), what="the edit is an event")
        what = ["mtu the link's own \u2192 1400", "hairpinMode false \u2192 true", "routes+=10.40.0.0/16"]
        (row,) = listed(node)
        assert sorted(row["differs"]) == sorted(what)
        assert (row["file"], row["update"], row["state"]) == (FILE, command, "up")
        event = json.loads(events.output().splitlines()[-1])
        assert (event["kind"], event["container"]) == ("differs", "c1")
        assert all(text in event["about"] for text in (*what, FILE, command))
        assert "up, differs" in node.run([MESOKIT, "ls"]).text
        assert node.run([MESOKIT, "ls", "-q", "-s", "differs"]).text == "c1\n"
        (inspected,) = json.loads(node.run([MESOKIT, "inspect", "c1", "--json"]).text)["items"]
        assert inspected["update"] == command and inspected["differs"] == row["differs"]
        for words in (["inspect", "c1"], ["events"], ["node", "status"]):
            told = node.run([MESOKIT, *words]).text
            assert command in told and what[0] in told, words
        assert "edits are logged" in node.run([MESOKIT, "node", "status"]).text
        assert 'differing{network="net"} 1' in node.run([MESOKIT, "node", "metrics", "--state"]).text
        found = json.loads(node.run([MESOKIT, "doctor", "--json"], check=False).text)["items"]
        assert any(what[0] in item["evidence"] for item in found if item["check"] == "differing-containers")
        node.run(command.replace("mesokit", MESOKIT, 1).split())
        until(lambda: b"agrees" in events.output(), what="that it is as the file says is an event too")
    assert (mtu(box), listed(node)[0]["differs"]) == (1400, [])
    write(node, CONF | {"mtu": 1400, "hairpinMode": True, "vlan": 7, "ipam": route})
    (row,) = listed(node)
    assert row["update"] == ""
    assert row["differs"] == [
        "vlan 0 \u2192 7 cannot be changed in place: the kernel makes a new interface for another VLAN: "
        "attach the container anew"
    ]


def test_an_update_that_the_file_does_not_know_is_said_to_differ(node: Node, box: Netns) -> None:
    done = node.run([MESOKIT, "update", "c1", "mtu=1400", "hairpinMode=true"])
    assert f"{FILE} says something else, and the next container gets it: hairpinMode" in done.stderr.decode()
    assert listed(node)[0]["differs"]


def listed(node: Node) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(node.run([MESOKIT, "ls", "--json"]).text)["items"]
    return items


def test_a_service_that_is_killed_while_it_applies(node: Node, ours: str, box: Netns) -> None:
    """All its processes, at several moments: the container is as the old or the new file says, and the next
    service brings it to the new one.
    """
    there = CONF | {"prevResult": record(node)["result"]}
    sizes = (1400, 1300, 1450, 1350, 1280, 1500)
    for number, size in enumerate(sizes):
        route = CONF["ipam"] | {"routes": [{"dst": f"10.{40 + number}.0.0/16"}]}
        flag = {"hairpinMode": number % 2 == 0, "macspoofchk": number % 2 == 0}
        write(node, CONF | flag | {"mtu": size, "ipam": route})
        with watching(node, "apply") as service:
            time.sleep(0.02 * number)
            node.shell(f"pkill -9 -P {service.pid} || true; kill -9 {service.pid} || true")
        assert mtu(box) in {size, 1500, *sizes[:number]}
        node.cni("CHECK", f"{ours}/bridge", there, "c1", box).ok()
    with watching(node, "apply"):
        until(lambda: not listed(node)[0]["differs"] and mtu(box) == 1500, what="it is applied")
    assert "10.45.0.0/16" in box.run(["ip", "route"]).text
    assert "10.40.0.0/16" not in box.run(["ip", "route"]).text
    node.cni("CHECK", f"{ours}/bridge", there, "c1", box).ok()
    node.cni("DEL", f"{ours}/bridge", CONF, "c1", box).ok()


def test_plugins_in_files_beside_a_list_are_the_lists(node: Node, ours: str) -> None:
    """As libcni 1.3 calls them: NETWORK/*.conf."""
    place = node.path("/etc/cni/net.d")
    (place / "net").mkdir(parents=True)
    place.chmod(0o755)
    head = {"cniVersion": "1.0.0", "name": "net"}
    maker = bridge(local("10.9.0.0/24")) | {"type": "bridge"}
    tuned = {"type": "tuning", "sysctl": {"net.core.somaxconn": "77"}}
    (place / "net.conflist").write_text(json.dumps(head | {"plugins": [maker]}))
    (place / "net" / "10-tuned.conf").write_text(json.dumps(tuned))
    box = node.netns("c1")
    node.run([MESOKIT, "cni", "add", "net", "c1", "--plugin-dir", ours])
    assert box.run(["cat", "/proc/sys/net/core/somaxconn"]).text.strip() == "77"
    node.run([MESOKIT, "cni", "check", "net", "c1", "--plugin-dir", ours])
    assert node.run([MESOKIT, "doctor", "--json"], check=False).text.count("differing-containers") == 0
    with watching(node, "apply") as service:
        tuned["sysctl"] = {"net.core.somaxconn": "88"}
        (place / "net" / "10-tuned.conf").write_text(json.dumps(tuned))
        (place / "net.conflist").write_text(json.dumps(head | {"plugins": [maker]}))
        said = box.run(["cat", "/proc/sys/net/core/somaxconn"]).text
        until(
            lambda: box.run(["cat", "/proc/sys/net/core/somaxconn"]).text.strip() == "88",
            what=f"a file beside the list is applied ({said}, {service.errors()!r})",
        )
    node.run([MESOKIT, "cni", "del", "net", "c1", "--plugin-dir", ours])
