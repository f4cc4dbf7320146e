"""The Debian package on a machine with systemd: upgraded, removed, installed again, purged."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import pytest

from netns_tests.load import load
from netns_tests.machine import Machine
from netns_tests.node import until
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.unit import (
    FILES,
    ITSELF,
    PATH,
    PLUGINS,
    SERVICE,
    SOCKET,
    address,
    anew,
    attached,
    call,
    calls,
    dpkg,
    main_pid,
    socket_since,
    start_waiting,
)

pytestmark = pytest.mark.timeout(900)  # the first of them builds

ENABLED = f"/etc/systemd/system/sockets.target.wants/{SOCKET}"


@pytest.fixture(scope="session")
def package(built: Path) -> str:
    (path,) = built.glob("*.deb")
    return str(path)


@pytest.fixture(scope="session")
def newer(package: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The package again, as a later version: another number, and another word in the unit."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder / "tree"], check=True)
    replace(folder / "tree/DEBIAN/control", "^Version: .*", "Version: 99.0")
    replace(folder / "tree/usr/lib/systemd/system" / SERVICE, "^Description=.*", "Description=the newer one")
    output = str(folder / "newer.deb")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", folder / "tree", output], check=True
    )
    return output


def replace(path: Path, line: str, by: str) -> None:
    path.write_text(re.sub(line, by, path.read_text(), flags=re.MULTILINE))


def test_an_upgrade_under_calls(installed: Machine, newer: str) -> None:
    """No call fails, the socket stays open, another process serves, and what the old one attached goes on."""
    machine, kept = installed, installed.netns("kept")
    boxes = [machine.netns(f"c{number}") for number in range(3)]
    before = snapshot(machine, [*boxes, kept], FILES)
    had = call(machine, "ADD", kept).ok()["ips"]
    opened = socket_since(machine)
    with load(machine, PLUGINS, boxes) as running:
        running.more()
        old = main_pid(machine)
        dpkg(machine, "--install", newer)
        assert anew(machine, old)
        running.more()
    assert machine.property(SERVICE, "Description") == "the newer one"
    assert socket_since(machine) == opened
    assert had[0]["address"] == f"{address(kept)}/16"
    assert attached(machine, kept)
    call(machine, "DEL", kept).ok()
    assert_clean(machine, before, boxes=[*boxes, kept], files=FILES, allowed=ITSELF)


def test_an_upgrade_waits_for_the_call_in_work(installed: Machine, newer: str) -> None:
    machine, box = installed, installed.netns("c1")
    ended = start_waiting(machine, box)
    upgrade = machine.popen(["dpkg", "--install", newer])
    until(lambda: machine.property(SERVICE, "ActiveState") == "deactivating")
    machine.shell("touch /run/go")
    assert ended().ok()["ips"][0]["address"] == f"{address(box)}/16"
    assert upgrade.wait().status == 0
    assert machine.property(SERVICE, "ActiveState") == "active"


def test_an_upgrade_starts_no_service_that_did_not_run(installed: Machine, newer: str) -> None:
    dpkg(installed, "--install", newer)
    assert installed.property(SOCKET, "ActiveState") == "active"
    assert main_pid(installed) == "0"


def test_what_was_disabled_stays_so(installed: Machine, package: str, newer: str) -> None:
    """Over an upgrade, and over a removal."""
    machine = installed
    machine.systemctl("disable", "--now", SOCKET)
    dpkg(machine, "--install", newer)
    assert machine.systemctl("is-enabled", SOCKET, check=False) == "disabled\n"
    dpkg(machine, "--remove", "mesokit")
    dpkg(machine, "--install", package)
    assert machine.systemctl("is-enabled", SOCKET, check=False) == "disabled\n"
    assert machine.property(SOCKET, "ActiveState") == "inactive"


def own_files(machine: Machine) -> list[str]:
    """What the package brought, without folders, which others may use as well."""
    listed = machine.run(["dpkg", "--listfiles", "mesokit"]).text.splitlines()
    return [path for path in listed if not machine.path(path).is_dir()]


def test_removed_installed_again_and_purged(installed: Machine, package: str) -> None:
    """Containers keep their network and its record, so that the package installed again can delete it."""
    machine, box = installed, installed.netns("c1")
    before = snapshot(machine, [box], FILES)
    call(machine, "ADD", box).ok()
    record = [path for path in machine.path("/run/mesokit/attachments").rglob("*") if path.is_file()]
    files = own_files(machine)
    assert len(files) > 50

    dpkg(machine, "--remove", "mesokit")
    assert [path for path in files if machine.path(path).exists()] == []
    assert not machine.path("/usr/lib/mesokit").exists()
    for unit in (SERVICE, SOCKET):
        assert machine.property(unit, "ActiveState") == "inactive"
        assert machine.property(unit, "LoadState") == "not-found"
    assert not machine.path(PATH).exists()
    assert all(path.exists() for path in record)
    assert attached(machine, box)

    dpkg(machine, "--install", package)
    assert machine.property(SOCKET, "ActiveState") == "active"
    call(machine, "DEL", box).ok()
    assert calls(machine) == {"DEL": 1}
    assert_clean(machine, before, boxes=[box], files=FILES, allowed=ITSELF)

    dpkg(machine, "--purge", "mesokit")
    assert [path for path in files if machine.path(path).exists()] == []
    assert (
        machine.shell("find /etc /usr/lib/systemd /var/lib/dpkg/info -name 'mesokit*' ! -name '*test*'") == ""
    )
    assert machine.systemctl("is-system-running") == "running\n"


def test_a_removal_waits_for_the_call_in_work(installed: Machine) -> None:
    machine, box = installed, installed.netns("c1")
    ended = start_waiting(machine, box)
    removal = machine.popen(["dpkg", "--remove", "mesokit"])
    until(lambda: machine.property(SERVICE, "ActiveState") == "deactivating")
    machine.shell("touch /run/go")
    assert ended().ok()["ips"][0]["address"] == f"{address(box)}/16"
    assert removal.wait().status == 0


def test_a_removal_that_is_given_up(installed: Machine) -> None:
    """dpkg calls these two when another package's script, or a conflict, ends the removal."""
    scripts = "/var/lib/dpkg/info/mesokit"
    installed.run([f"{scripts}.prerm", "remove"])
    assert installed.property(SOCKET, "ActiveState") == "inactive"
    installed.run([f"{scripts}.postinst", "abort-remove"])
    assert installed.property(SOCKET, "ActiveState") == "active"


def test_masked_units_fail_no_installation(machine: Machine, package: str) -> None:
    """An operator who wants no service has none; plugins work all the same."""
    machine.systemctl("mask", SERVICE, SOCKET)
    dpkg(machine, "--install", package)
    assert machine.run(["dpkg-query", "-Wf", "${db:Status-Status}", "mesokit"]).text == "installed"
    call(machine, "ADD", machine.netns("c1")).ok()
    assert main_pid(machine) == "0"
    dpkg(machine, "--purge", "mesokit")
    assert machine.path(f"/etc/systemd/system/{SOCKET}").is_symlink(), "the mask is the operator's"


def test_installed_into_an_image_it_starts_at_boot(machine: Machine, package: str) -> None:
    """Where systemd does not run, the socket is enabled all the same."""
    hidden = f"mount -t tmpfs none /run/systemd; exec dpkg --install {package}"
    machine.run(["unshare", "--mount", "sh", "-ec", hidden])
    assert machine.path(ENABLED).is_symlink()
    assert machine.property(SOCKET, "ActiveState") == "inactive"
    machine.shell("systemctl daemon-reload; systemctl start sockets.target")
    call(machine, "ADD", machine.netns("c1")).ok()
    assert calls(machine) == {"ADD": 1}


def test_manual_pages(installed: Machine) -> None:
    """Each command has one, and the units point to one that is there."""
    pages = {path.name: path for path in installed.path("/usr/share/man/man1").glob("mesokit*")}
    commands = "mesokit node node-status node-metrics run ps cni cni-help completion executor"
    for name in commands.split():
        page = "mesokit.1.gz" if name == "mesokit" else f"mesokit-{name}.1.gz"
        text = gzip.decompress(pages[page].read_bytes()).decode()
        assert ".TH" in text
        assert "SYNOPSIS" in text
    for unit in (SERVICE, SOCKET):
        assert installed.property(unit, "Documentation") == '"man:mesokit-node(1)"'


COMPLETE = """
set -eu
source /usr/share/bash-completion/completions/mesokit
complete -p mesokit >&2
COMP_WORDS=(mesokit node st) COMP_CWORD=2
set +eu
"$(complete -p mesokit | sed 's/.*-F \\([^ ]*\\).*/\\1/')" mesokit
echo "${COMPREPLY[@]}"
"""


def test_completion_in_bash(installed: Machine) -> None:
    completed = installed.run(["bash", "-c", COMPLETE])
    assert completed.text == "status\n"
    assert completed.stderr.startswith(b"complete ")
    assert len(completed.stderr.splitlines()) == 1, "no error of it"
