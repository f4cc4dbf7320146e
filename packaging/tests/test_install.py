"""packaging/install and uninstall, into a root of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUNDLE = TOP / "packaging/bundle"


pytestmark = pytest.mark.timeout(900)  # the first of them builds


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    subprocess.run([TOP / "packaging/build"], check=True, stdout=subprocess.DEVNULL)


def run(script: str, root: Path, *arguments: str) -> str:
    argv: list[str | Path] = [sys.executable, BUNDLE / f"{script}.py", "--root", root, *arguments]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, cwd="/").stdout.decode()


def listing(root: Path) -> dict[str, str]:
    """Every file and link below `root` by name; links by their target, files by their inode."""
    return {
        os.fspath(path.relative_to(root)): os.fspath(path.readlink())
        if path.is_symlink()
        else str(path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def call_version(plugin: Path) -> dict[str, object]:
    finished = subprocess.run(
        [plugin], env={"CNI_COMMAND": "VERSION"}, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    answered = json.loads(finished.stdout)
    assert isinstance(answered, dict)
    return answered


def test_installed_it_works_and_uninstalled_it_is_gone(tmp_path: Path) -> None:
    said = run("install", tmp_path)
    assert "installed" in said
    assert "bridge" in said
    assert call_version(tmp_path / "opt/cni/bin/bridge")["cniVersion"]
    for program in ("mesokit", "mesokit-executor"):
        shown = subprocess.run([tmp_path / "usr/local/bin" / program, "--version"], check=True, stdout=-1)
        assert shown.stdout
    unit = (tmp_path / "etc/systemd/system/mesokit-node.service").read_text()
    assert "ExecStart=/usr/local/bin/mesokit node" in unit
    run("uninstall", tmp_path)
    assert not listing(tmp_path)


def test_uninstalled_under_containers_it_says_what_they_are_left_with(tmp_path: Path) -> None:
    """And of its own folders none is left, while the host's stay."""
    (tmp_path / "usr/local/share/man").mkdir(parents=True)
    said = run("install", tmp_path)
    assert re.search(r"^installed \d+ manual pages and completions in /usr/local/share$", said, re.MULTILINE)
    assert "man1" not in said
    record = tmp_path / "run/mesokit/attachments/net/0123"
    record.parent.mkdir(parents=True)
    record.write_text("{}\n")
    assert "containers are attached still (1 records in /run/mesokit/attachments)" in run(
        "uninstall", tmp_path
    )
    assert record.exists()
    assert [path.name for path in (tmp_path / "usr/local/share").iterdir()] == ["man"]


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    run("install", tmp_path)
    before = listing(tmp_path)
    manifest = "usr/local/lib/mesokit/installed.json"
    said = run("install", tmp_path)
    after = listing(tmp_path)
    assert before.pop(manifest)
    assert after.pop(manifest)
    assert after == before
    assert "installed " not in said


def test_plugins_of_others_are_kept_and_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "opt/cni/bin"
    folder.mkdir(parents=True)
    (folder / "bridge").write_text("theirs")
    (folder / "flannel").write_text("theirs too")
    assert "kept the bridge" in run("install", tmp_path)
    assert (folder / "bridge").read_bytes() != b"theirs"
    run("install", tmp_path)
    assert "put back" in run("uninstall", tmp_path)
    assert (folder / "bridge").read_text() == "theirs"
    assert sorted(path.name for path in folder.iterdir()) == ["bridge", "flannel"]


def test_an_upgrade_leaves_what_runs_alone(tmp_path: Path) -> None:
    """A program of the old release goes on, and its release stays until it has ended."""
    run("install", tmp_path)
    library = tmp_path / "usr/local/lib/mesokit"
    (current,) = (library / "releases").iterdir()
    old = library / "releases/0.0.1-older"
    current.rename(old)
    for name in ("mesokit-cni.d", "mesokit-executor.d"):
        (library / name).unlink()
        (library / name).symlink_to(f"releases/{old.name}/{name}")
    environment = {"PATH": os.environ["PATH"], "MESOKIT_ROOT": os.fspath(tmp_path)}
    running = subprocess.Popen([tmp_path / "usr/local/bin/mesokit", "node"], env=environment, stderr=-1)
    try:
        assert running.poll() is None
        wait_for(tmp_path / "run/mesokit/node.sock", running)
        assert "kept the old release 0.0.1-older" in run("install", tmp_path)
        shown = subprocess.run(
            [tmp_path / "usr/local/bin/mesokit", "node", "status", "--json"],
            env=environment,
            check=True,
            stdout=-1,
        )
        assert json.loads(shown.stdout)["pid"] == running.pid
    finally:
        running.terminate()
        running.communicate()
    assert running.returncode == 0
    assert "removed the old release 0.0.1-older" in run("install", tmp_path)
    assert [path.name for path in (library / "releases").iterdir()] == [current.name]


def wait_for(path: Path, running: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert running.poll() is None
        os.sched_yield()


def test_other_places_and_no_service(tmp_path: Path) -> None:
    said = run(
        "install",
        tmp_path,
        "--prefix",
        "/opt/mesokit",
        "--plugin-dir",
        "/a/bin",
        "--plugin-dir",
        "/b/bin",
        "--no-service",
    )
    assert "no node service" in said
    assert not (tmp_path / "etc").exists()
    for folder in ("a/bin", "b/bin"):
        assert call_version(tmp_path / folder / "loopback")
    run("install", tmp_path, "--prefix", "/opt/mesokit", "--plugin-dir", "/b/bin", "--no-service")
    assert not (tmp_path / "a/bin/loopback").exists()
    run("uninstall", tmp_path, "--prefix", "/opt/mesokit")
    assert not listing(tmp_path)
    assert "not installed" in run("uninstall", tmp_path, "--prefix", "/opt/mesokit")
