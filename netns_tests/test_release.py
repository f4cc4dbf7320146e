"""The release archive, on a host that has nothing: no Python, no compiler, no network, no library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from netns_tests.node import Finished, Node, answer
from netns_tests.plugins import TOP

pytestmark = pytest.mark.timeout(900)  # the first of them builds
ROOT = "/run/root"


@pytest.fixture(scope="session")
def archive(built: Path) -> Path:
    (found,) = built.glob("mesokit-[0-9]*.tar.gz")
    return found


@pytest.fixture
def host(node: Node, archive: Path) -> str:
    """A root file system of a static busybox; the path of the unpacked release in it."""
    node.shell(
        f"mkdir {ROOT} && mount -t tmpfs none {ROOT} && cd {ROOT}\n"
        "mkdir -p bin proc dev etc run tmp opt/cni/bin\n"
        "cp /usr/bin/busybox bin/ && for each in sh dirname rm; do ln -s busybox bin/$each; done\n"
        "mount -t proc proc proc && mount --bind /dev dev\n"
        f"tar -xzf {archive} -C tmp"
    )
    return f"/tmp/{archive.name.removesuffix('.tar.gz')}"


def run(node: Node, argv: Sequence[str], *, check: bool = True, **environment: str) -> Finished:
    return node.run(
        ["/usr/sbin/chroot", ROOT, *argv], env={"PATH": "/bin", **environment}, bare=True, check=check
    )


def listing(node: Node) -> list[str]:
    return node.shell(f"cd {ROOT} && find usr opt etc var ! -type d 2>/dev/null || true").splitlines()


def test_it_installs_itself_and_takes_itself_away(node: Node, host: str) -> None:
    said = run(node, [f"{host}/install"]).text
    assert "plugins in /opt/cni/bin: bandwidth bridge" in said
    assert "no systemd here" in said
    run(node, ["rm", "-rf", host])
    answered = answer(run(node, ["/opt/cni/bin/bridge"], CNI_COMMAND="VERSION")).ok()
    assert "1.1.0" in answered["supportedVersions"]
    for program in ("mesokit", "mesokit-executor"):
        assert run(node, [f"/usr/local/bin/{program}", "--version"]).text.startswith(program)
    for form in ("mesokit-executor", "mesokit-executor.tar.gz"):
        assert f"usr/local/lib/mesokit/{form}" in listing(node)


def test_it_takes_itself_away(node: Node, host: str) -> None:
    before = listing(node)
    run(node, [f"{host}/install", "--plugin-dir", "/srv/plugins"])
    assert run(node, [f"{host}/install"]).text.startswith("release ")
    assert "removed" in run(node, [f"{host}/uninstall"]).text
    assert listing(node) == before
    assert "not installed" in run(node, [f"{host}/uninstall"]).text


def test_help_and_a_wrong_option(node: Node, host: str) -> None:
    assert "--plugin-dir" in run(node, [f"{host}/install", "--help"]).text
    ended = run(node, [f"{host}/install", "--plugin-dri", "/x"], check=False)
    assert ended.status == 2
    assert b"--plugin-dri" in ended.stderr


def test_packaging_install_takes_an_archive(node: Node, archive: Path) -> None:
    """A checkout that is not set up; programs that would compile or fetch would be noticed."""
    node.shell(
        f"mkdir -p /run/host/checkout && cp -a {TOP}/packaging /run/host/checkout/\n"
        "mkdir /run/host/bin /run/host/image\n"
        "for each in gcc musl-gcc apt-get pip python3; do\n"
        '    printf "#!/bin/sh\\necho $0 >>/run/called; exit 1\\n" >/run/host/bin/$each\n'
        "    chmod +x /run/host/bin/$each\n"
        "done"
    )
    environment = {"PATH": f"/run/host/bin:{node.environment['PATH']}"}
    options = ["--root", "/run/host/image", "--no-service"]
    argv = ["/run/host/checkout/packaging/install", str(archive), *options]
    assert "added release" in node.run(argv, env=environment).text
    node.shell(f"mkdir /run/host/checkout/dist && cp {archive} /run/host/checkout/dist/")
    again = node.run(["/run/host/checkout/packaging/install", *options], env=environment).text
    assert "is there already" in again
    assert not node.path("/run/called").exists()
    assert node.path("/run/host/image/opt/cni/bin/bridge").exists()
