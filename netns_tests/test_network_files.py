"""Files of networks that change under running containers: shown, or applied by the service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node, Running, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.test_update import NET

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
