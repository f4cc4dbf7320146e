"""The Debian package's documents and manual pages, and installing beside it; nothing is built for this."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
BUNDLE = TOP / "packaging/bundle"


def module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    monkeypatch.syspath_prepend(os.fspath(BUNDLE))
    return importlib.import_module(name)


def release(folder: Path) -> Path:
    """An unpacked release with a file of each kind."""
    for path in (
        "lib/mesokit/mesokit-cni.d/program",
        "lib/mesokit/mesokit-executor.d/program",
        "lib/mesokit/plugins/bridge",
        "bin/mesokit",
        "uri/mesokit-executor",
        "uri/mesokit-executor.tar.gz",
        "share/man/man1/mesokit.1.gz",
        "systemd/mesokit-node.socket",
        "systemd/mesokit-node.service",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "RELEASE").write_text("1.0 abcdef\n")
    return folder


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, os.fspath(BUNDLE / f"{script}.py"), *(os.fspath(each) for each in arguments)]
    return subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())


def test_the_package_has_copyright_readme_and_examples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "doc"
    begun = tmp_path.stat().st_mtime  # a reproducible package has no times of the checkout
    module(monkeypatch, "documents").write(folder, "1.0", 1_700_000_000)
    readme = (folder / "README.md").read_text()
    for path in re.findall(r"/usr/share/doc/mesokit/(\S+?)[`*\s]", readme):
        assert (folder / path).exists(), path
    for name in ("net.d/data-net.json", "net.d/dev-net.json", "task.json"):
        assert json.loads((folder / "examples" / name).read_text())["name"]
    rights = (folder / "copyright").read_text()
    assert rights.startswith("Format: https://www.debian.org/")
    for name in ("click", "pyroute2", "protobuf", "requests", "starlette", "certifi"):
        assert re.search(rf"Files: usr/lib/mesokit/\*/{name}\*\nCopyright: .+\nLicense: \S", rights), name
    for name in re.findall(r"The text is in /usr/share/doc/mesokit/(licenses/[\w.-]+?)\.\n", rights):
        assert len((folder / name).read_text()) > 300, name
    assert (folder / "changelog.gz").read_bytes()
    assert all(path.stat().st_mtime >= begun for path in folder.rglob("*")), "a time of the checkout's"


def test_the_name_of_a_manual_page_is_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    manual = module(monkeypatch, "manual")
    text = "Usage: mesokit ls [OPTIONS]\n\n"
    text += "  List what is attached on this node, with the\n  task's name. More.\n"
    text += "\nOptions:\n  --json  As JSON.\n"
    page = manual.roff(manual.Page("mesokit-ls", text), "1.0").splitlines()
    said = page[page.index(".SH NAME") + 1]
    assert said == "mesokit\\-ls \\- List what is attached on this node, with the task's name"
    assert page[page.index(".SH NAME") + 2] == ".SH SYNOPSIS"


def test_an_install_beside_the_package_says_who_goes_first(tmp_path: Path) -> None:
    root = tmp_path / "root"
    package = root / "usr/lib/mesokit/mesokit-cni.d"
    package.mkdir(parents=True)
    (package / "program").write_text("the package's")
    source = release(tmp_path / "release")
    said = run("install", "--from", source, "--root", root)
    assert said.returncode == 0, said.stderr
    (last,) = [line for line in said.stdout.splitlines() if "Debian package" in line]
    for word in ("/usr/local/bin/mesokit", "/usr/bin/mesokit", "apt-get remove mesokit", "uninstall"):
        assert word in last
    before = files(root)
    refused = run("install", "--from", source, "--root", root, "--prefix", "/usr")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--prefix /usr" in refused.stderr
    assert "apt-get remove mesokit" in refused.stderr
    assert files(root) == before
    assert run("uninstall", "--root", root).returncode == 0
    assert files(root) == [package / "program"]
    alone = tmp_path / "alone"
    alone.mkdir()
    assert "Debian" not in run("install", "--from", source, "--root", alone).stdout


def test_a_root_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    source, wrong = release(tmp_path / "release"), tmp_path / "imgae"
    for script, options in (("install", ("--from", source)), ("uninstall", ())):
        refused = run(script, *options, "--root", wrong)
        assert refused.returncode == 2
        assert f"argument --root: '{wrong}' is no directory" in refused.stderr
        assert not wrong.exists()
