"""Set-up (packaging/lib/setup.sh): what it installs is what was locked, and it follows nobody's links."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SETUP = TOP / "packaging/lib/setup.sh"
LOCK = TOP / "packaging/requirements.lock"


def locked() -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))


def normal(name: str) -> str:
    """A package's name as the lock writes it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_has_what_is_declared() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        declared += [requirement for requirement in extra if not requirement.startswith("mesokit[")]
    for requirement in declared:
        name, _, version = requirement.partition("==")
        assert locked()[normal(name)] == version, "run packaging/lock"


def test_every_package_of_the_lock_has_hashes() -> None:
    blocks = re.split(r"^(?=[a-z])", LOCK.read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked())
    for block in blocks:
        assert "--hash=sha256:" in block, block


def test_what_runs_here_is_what_was_locked() -> None:
    """Transitive ones too."""
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    shown = subprocess.run([TOP / ".venv/bin/python", "-c", program], check=True, stdout=subprocess.PIPE)
    here = {}
    for each in shown.stdout.decode().split():
        name, _, version = each.partition("==")
        here[normal(name)] = version
    assert {name: here.get(name) for name in locked()} == locked()


def run(script: str, path: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    argv = ["bash", "-ec", f". {SETUP}; {script}"]
    return subprocess.run(argv, env=environment, capture_output=True, check=False)


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    hold = f"{tmp_path}/a/lock"
    begun = subprocess.Popen(
        ["bash", "-ec", f". {SETUP}; locked {hold} bash -c 'echo here; read -r'"], stdin=-1, stdout=-1
    )
    assert begun.stdout is not None
    assert begun.stdout.readline() == b"here\n"
    assert subprocess.run(["flock", "--nonblock", hold, "true"], check=False).returncode == 1
    begun.communicate(b"\n")
    assert run(f"locked {hold} echo mine").stdout == b"mine\n"


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "file"])
def test_a_lock_that_somebody_put_there_is_refused(tmp_path: Path, kind: str) -> None:
    victim, folder, lock = tmp_path / "victim", tmp_path / "folder", tmp_path / "lock"
    victim.write_text("precious")
    folder.mkdir()
    if kind == "file":
        lock.write_text("precious")
    else:
        lock.symlink_to(victim if kind == "link to a file" else folder)
    ended = run(f"locked {lock} echo done")
    assert ended.returncode != 0
    assert ended.stdout == b""
    assert f"{lock} is not a directory of user" in ended.stderr.decode()
    assert victim.read_text() == "precious"


def test_what_is_built_names_no_processor() -> None:
    """Paths and file names come from Python and dpkg."""
    folders = ("bundle", "launcher", "lib", "systemd")
    texts = {path: path.read_text() for each in folders for path in (TOP / "packaging" / each).glob("*.*")}
    assert len(texts) > 10
    named = re.compile(r"x86|amd64|aarch64|arm64|i386")
    allowed = ("(multiarch: /usr/lib/x86_64-linux-gnu)",)
    for path, text in texts.items():
        for line in text.splitlines():
            assert not named.search(line) or any(each in line for each in allowed), f"{path}: {line}"
