"""`pip install` of the wheel in an empty environment gives everything that works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugins.plugins.registry import MODULES

TOP = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and what it needs, of the versions that were locked."""
    folder = tmp_path_factory.mktemp("wheel")
    maker = "import sys; sys.path.insert(0, sys.argv[1]); import wheel; from pathlib import Path; "
    maker += "wheel.build(Path(sys.argv[2]), Path(sys.argv[3]), 1_700_000_000)"
    subprocess.run(
        [sys.executable, "-c", maker, TOP / "packaging/bundle", folder / "stage", folder / "dist"], check=True
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    subprocess.run(["/usr/bin/python3", "-m", "venv", folder / "venv"], check=True)
    lock = folder / "runtime.lock"
    lock.write_text(without_hashes())
    pip: list[str | Path] = [
        folder / "venv/bin/pip",
        "install",
        "--quiet",
        "--constraint",
        lock,
        "--prefer-binary",
    ]
    subprocess.run([*pip, wheel], check=True)
    return folder / "venv/bin"


def without_hashes() -> str:
    """As constraints, which pip takes without hashes only."""
    text = (TOP / "packaging/requirements.lock").read_text()
    return "\n".join(re.findall(r"^[a-z0-9.-]+==\S+", text, re.MULTILINE))


def run(*argv: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv,
        env={"PATH": os.defpath, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        cwd="/",
    )


def test_it_has_our_packages_and_no_tests(installed: Path) -> None:
    shown = run(installed / "pip", "show", "--files", "mesokit").stdout.decode()
    files = re.findall(r"^  (\S+)$", shown, re.MULTILINE)
    assert "mesos/v1/executor/executor_pb2.py" in files
    assert "executor/framework/service/page.html" in files
    assert {f"cni_plugins/cli/web.{kind}" for kind in ("html", "css", "js")} <= set(files)
    assert {name.split("/")[0] for name in files if not name.startswith(("mesokit-", ".."))} == {
        "executor",
        "cni_plugins",
        "mesos",
    }
    assert [name for name in files if "/tests/" in name] == []


def test_the_commands_start(installed: Path) -> None:
    assert run(installed / "mesokit", "--version").stdout.startswith(b"mesokit")
    assert run(installed / "mesokit-executor", "--version").stdout.startswith(b"mesokit-executor")
    for command in ("run", "ps", "node", "cni", "reload"):
        assert b"Usage: mesokit " in run(installed / "mesokit", command, "--help").stdout


def test_every_plugin_answers(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "mesokit", "cni", "install", tmp_path / "a b").stdout.decode()
    for name in MODULES:
        answered = json.loads(run(tmp_path / "a b" / name, CNI_COMMAND="VERSION").stdout)
        assert "1.1.0" in answered["supportedVersions"], name
        assert name in said
    run(installed / "mesokit", "cni", "install", tmp_path / "a b")
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == sorted(MODULES)


def test_a_plugin_reserves_an_address(installed: Path, tmp_path: Path) -> None:
    """A whole call, with what only a call imports."""
    run(installed / "mesokit", "cni", "install", tmp_path / "plugins")
    ipam = {"type": "host-local", "subnet": "10.9.0.0/24"}
    conf = {"cniVersion": "1.0.0", "name": "net", "type": "host-local", "ipam": ipam}
    call = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/proc/1/ns/net",
    }
    ended = subprocess.run(
        ["unshare", "--net", tmp_path / "plugins/host-local"],
        env={"PATH": os.defpath, "MESOKIT_ROOT": os.fspath(tmp_path / "root"), **call},
        input=json.dumps(conf).encode(),
        capture_output=True,
        check=False,
    )
    assert ended.stderr == b""
    assert json.loads(ended.stdout)["ips"][0]["address"] == "10.9.0.2/24"


def test_a_plugin_of_somebody_else_is_left(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "bridge").write_text("theirs")
    argv: list[str | Path] = [installed / "mesokit", "cni", "install", tmp_path]
    ended = subprocess.run(argv, capture_output=True, check=False)
    assert ended.returncode == 1
    assert f"{tmp_path}/bridge is not of mesokit" in ended.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["bridge"]


def test_a_task_runs(installed: Path, tmp_path: Path) -> None:
    """`mesokit run` and the executor it starts, both of the wheel."""
    task = tmp_path / "task.json"
    task.write_text('{"name": "hello", "command": {"cmd": "echo it runs"}}')
    program = f"{installed}/mesokit run {task} --runtime-dir {tmp_path}/run --work-dir {tmp_path}/work"
    ended = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", program],
        env={"PATH": os.defpath},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert b"TASK_FINISHED" in ended.stdout + ended.stderr
