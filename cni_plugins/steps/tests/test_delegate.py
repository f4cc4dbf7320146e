"""Delegates that are programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cni_plugins.cli.cni import command
from cni_plugins.conftest import World, told
from cni_plugins.kernel.namespace import entered
from cni_plugins.spec import call

RESULT = '{"cniVersion":"1.0.0","ips":[{"address":"10.7.0.5/24"}]}'
CONF: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "bridge",
    "ipam": {"type": "my-ipam", "own": "key"},
}


def program(folder: Path, body: str) -> dict[str, str]:
    """A plugin `my-ipam` that writes down each call, then runs `body`; the environment that finds it."""
    folder.mkdir(exist_ok=True)
    path = folder / "my-ipam"
    path.write_text(
        f"#!/bin/sh\ncat > {folder}/stdin.$CNI_COMMAND\nenv > {folder}/env.$CNI_COMMAND\n"
        f"echo $CNI_COMMAND >> {folder}/calls\n{body}\n"
    )
    path.chmod(0o755)
    return {"CNI_PATH": f"/no/such:{folder}"}


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split() if (folder / "calls").exists() else []


def test_add_and_delete(world: World, tmp_path: Path) -> None:
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = DEL ] || echo '{RESULT}'")
    result = world.add(CONF, **env, CNI_ARGS="IP=10.7.0.5")
    assert result["ips"] == [{"interface": 2, "address": "10.7.0.5/24"}]
    sent = json.loads((tmp_path / "p/stdin.ADD").read_text())
    assert sent == CONF
    env_lines = (tmp_path / "p/env.ADD").read_text().splitlines()
    assert {"CNI_ARGS=IP=10.7.0.5", "CNI_CONTAINERID=c1", "CNI_COMMAND=ADD"} <= set(env_lines)
    world.delete({"name": "n", "type": "bridge"}, CNI_PATH="/nowhere")
    assert calls(tmp_path / "p") == ["ADD", "DEL"]
    assert json.loads((tmp_path / "p/stdin.DEL").read_text()) == CONF
    assert world.links() == ["lo"]


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("""echo '{"code": 123, "msg": "no luck", "details": "d"}'; exit 1""", 123, "no luck"),
        ("echo rubbish; exit 3", 999, "status 3"),
        ("echo shouted >&2; exit 1", 999, "my-ipam"),
        ("kill -9 $$", 999, "signal 9"),
        ("echo rubbish", 6, "my-ipam"),
        ("echo null", 7, "no addresses"),
        ("""echo '{"ips": 7}'""", 6, "my-ipam"),
    ],
)
def test_its_failure_is_ours(world: World, tmp_path: Path, body: str, code: int, word: str) -> None:
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = DEL ] && exit 0\n{body}")
    error = world.refused(CONF, **env)
    assert (error["code"], word in told(error)) == (code, True), error
    assert calls(tmp_path / "p") == ["ADD", "DEL"]
    assert world.links() == ["lo"]
    assert not world.records()


def test_a_later_failure_calls_its_delete(world: World, tmp_path: Path) -> None:
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = DEL ] || echo '{RESULT}'")
    world.run("ip", "link", "add", "cni0", "type", "veth", "peer", "name", "x1")
    world.refused(CONF, **env)
    assert calls(tmp_path / "p") == ["ADD", "DEL"]


def test_one_that_hangs_is_ended(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = program(tmp_path / "p", "[ $CNI_COMMAND = DEL ] || exec sleep 600")
    monkeypatch.setattr(call, "_SECONDS", dict.fromkeys(call._SECONDS, 0.5))
    assert world.refused(CONF, **env)["code"] == 11
    assert calls(tmp_path / "p") == ["ADD", "DEL"]
    assert not world.records()


def test_a_directory_is_no_plugin(world: World, tmp_path: Path) -> None:
    (tmp_path / "a/my-ipam").mkdir(parents=True)
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = DEL ] || echo '{RESULT}'")
    world.add(CONF, CNI_PATH=f"{tmp_path}/a:{env['CNI_PATH']}")


def test_the_other_verbs_are_forwarded(world: World, tmp_path: Path) -> None:
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = ADD ] && echo '{RESULT}'\nexit 0")
    conf = CONF | {"cniVersion": "1.1.0"}
    result = world.add(conf, **env)
    assert world.call("CHECK", conf | {"prevResult": result}, **env).status == 0
    assert world.call("STATUS", conf, **env).status == 0
    assert (
        world.call(
            "GC", conf | {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}, **env
        ).status
        == 0
    )
    assert calls(tmp_path / "p") == ["ADD", "CHECK", "STATUS", "GC"]


def test_a_plugin_that_is_gone_has_an_explicit_end(world: World, tmp_path: Path) -> None:
    """DEL and GC keep what they know and say how it ends; `mesokit cni forget` ends it; DEL then succeeds."""
    env = program(tmp_path / "p", f"[ $CNI_COMMAND = DEL ] || echo '{RESULT}'")
    conf = CONF | {"cniVersion": "1.1.0"}
    world.add(conf, **env)
    (tmp_path / "p/my-ipam").unlink()
    for _ in range(2):
        answer = world.call("DEL", conf, **env)
        assert answer.code == 7
        for word in ("my-ipam", "mesokit cni forget n c1"):
            assert word in answer.document["details"]
        assert "eth0" not in world.links("c1")
    gone = conf | {"cni.dev/valid-attachments": []}
    assert "mesokit cni forget n c1" in world.call("GC", gone, **env).document["details"]
    for words, said in (
        (["m", "c1"], "no network 'm' on this node: there are n"),
        (["n", "c2"], "nothing here goes by 'c2'"),
        (["n", "c1", "--ifname", "eth7"], "c1 has no interface eth7 on network n"),
    ):
        with entered(world.host):
            done = CliRunner().invoke(command, ["forget", *words], env={"MESOKIT_ROOT": str(world.root)})
        assert (done.exit_code, said in done.output) == (1, True), done.output
    with entered(world.host):
        done = CliRunner().invoke(command, ["forget", "n", "c1"], env={"MESOKIT_ROOT": str(world.root)})
    assert done.exit_code == 0, done.output
    assert "eth0 of c1 is detached from n" in done.output
    assert "my-ipam" in done.output
    assert world.records() == []
    for verb, config in (("DEL", conf), ("GC", gone)):
        assert world.call(verb, config, **env).status == 0
    with entered(world.host):
        done = CliRunner().invoke(command, ["forget", "n", "c1"], env={"MESOKIT_ROOT": str(world.root)})
    assert done.exit_code == 1


def test_a_relative_directory_is_not_searched(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "p", f"echo '{RESULT}'")
    monkeypatch.chdir(tmp_path)
    error = world.refused(CONF, CNI_PATH="p:./p")
    assert (error["code"], "relative" in error["details"]) == (7, True)
    assert calls(tmp_path / "p") == []
