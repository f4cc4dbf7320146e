"""chain with members that are programs of others."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World

BRIDGE = {"type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
KEEP: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "c9", "ifname": "eth0"}]}

# Answers ADD with the result it was given and a name server of its own; fails while a file says so.
STRANGER = """#!/usr/bin/env python3
import json, os, pathlib, sys
here, verb = pathlib.Path(__file__).parent, os.environ["CNI_COMMAND"]
config = json.load(sys.stdin)
with open(here / "calls", "a") as calls:
    calls.write(json.dumps([verb, config]) + "\\n")
if (here / f"fail-{verb}").exists():
    print(json.dumps({"code": 123, "msg": "no luck"}))
    sys.exit(1)
if verb == "ADD":
    print(json.dumps(config["prevResult"] | {"dns": {"nameservers": ["10.9.0.53"]}}))
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "stranger").write_text(STRANGER)
    (folder / "stranger").chmod(0o755)
    return folder


def chain(*more: dict[str, Any], **keys: Any) -> dict[str, Any]:
    plugins = [BRIDGE, {"type": "stranger", "capabilities": {"mac": True}, "own": 5}, *more]
    return {"cniVersion": "1.1.0", "name": "n", "type": "chain", "plugins": plugins, **keys}


def calls(stranger: Path) -> list[tuple[str, dict[str, Any]]]:
    return [tuple(json.loads(line)) for line in (stranger / "calls").read_text().splitlines()]


def test_a_stranger_is_called_as_a_runtime_calls_it(world: World, stranger: Path) -> None:
    env = {"CNI_PATH": str(stranger)}
    conf = chain({"type": "tuning", "mtu": 1400}, runtimeConfig={"mac": "02:00:00:00:00:05", "ips": []})
    result = world.add(conf, **env)
    assert result["dns"] == {"nameservers": ["10.9.0.53"]}
    assert world.call("CHECK", conf | {"prevResult": result}, **env).status == 0
    assert world.call("STATUS", conf, **env).status == 0
    kept = [{"containerID": "c1", "ifname": "eth0"}]
    assert world.call("GC", conf | {"cni.dev/valid-attachments": kept}, **env).status == 0
    world.delete({"name": "n", "type": "chain"}, CNI_PATH="/nowhere")
    assert world.links() == ["lo"] and not world.records()
    told = calls(stranger)
    assert [verb for verb, _ in told] == ["ADD", "CHECK", "STATUS", "GC", "DEL"]
    for verb, config in told:
        assert (config["name"], config["cniVersion"], config["own"]) == ("n", "1.1.0", 5), verb
        assert config["runtimeConfig"] == {"mac": "02:00:00:00:00:05"}, verb
        assert "capabilities" not in config
    sent = dict(told)
    assert sent["ADD"]["prevResult"]["ips"][0]["address"] == "10.9.0.2/24"
    assert sent["CHECK"]["prevResult"] == result
    assert sent["GC"]["cni.dev/valid-attachments"] == kept


def test_a_stranger_that_fails_takes_all_down(world: World, stranger: Path) -> None:
    (stranger / "fail-ADD").touch()
    error = world.refused(chain(), CNI_PATH=str(stranger))
    assert (error["code"], error["msg"]) == (123, "plugins[1] (stranger): no luck")
    assert [verb for verb, _ in calls(stranger)] == ["ADD", "DEL"]
    assert world.links() == ["lo"] and not world.records() and not world.reserved("n")


def test_a_stranger_that_cannot_let_go_holds_up_nobody_else(world: World, stranger: Path) -> None:
    env = {"CNI_PATH": str(stranger)}
    world.add(chain(), **env)
    (stranger / "fail-DEL").touch()
    failed = world.call("DEL", chain(), **env)
    assert failed.code == 123 and "no luck" in failed.document["details"]
    assert world.links() == ["lo"] and not world.reserved("n")
    (stranger / "fail-DEL").unlink()
    world.delete(chain(), **env)
    assert not world.records()


def test_a_stranger_under_delegate_gets_gc_s_list(world: World, stranger: Path) -> None:
    conf = {"cniVersion": "1.1.0", "name": "n", "type": "tuning", "delegate": {"type": "stranger"}}
    assert world.call("GC", conf | KEEP, CNI_PATH=str(stranger)).status == 0
    ((verb, config),) = calls(stranger)
    assert (verb, config["cni.dev/valid-attachments"]) == ("GC", KEEP["cni.dev/valid-attachments"])
