"""The Debian package: bundles and launchers in /usr/lib/mesokit, the commands in /usr/bin, units,
manual pages, completions, and what documents.py writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import documents
import freeze
import launchers
import manual
from frozen import version_of_project

_SYSTEMD = launchers.TOP / "packaging" / "systemd"

_CONTROL = """\
Package: mesokit
Version: {version}
Architecture: {architecture}
Maintainer: The mesokit authors <mesokit@localhost>
Installed-Size: {kilobytes}
Section: net
Priority: optional
Suggests: iptables
Description: custom executor and CNI plugins for Apache Mesos
 mesokit runs a Mesos task and gives it its network: an executor that speaks the
 V1 executor API, the CNI plugins that an agent calls, a resident service that
 makes them fast, and the commands an operator looks after a node with.
 .
 Plugins are in /usr/lib/mesokit/plugins: name that directory in the agent's
 --network_cni_plugins_dir.
"""

# Containers run on whatever happens here: plugins need no service, and the service keeps no state of theirs.
# So what systemd refuses (a masked unit, say) is told and fails no installation.
#
# The socket is enabled once, with systemd running or not (an image is built without), and only a purge takes
# that back: it is configuration, so that an operator's `disable` lasts, and removed and installed again the
# service is there again.
_POSTINST = """\
#!/bin/sh
set -e
case "$1" in
configure|abort-upgrade|abort-remove|abort-deconfigure)
    if [ -e /usr/local/lib/mesokit/installed.json ]; then
        echo "mesokit: a release is installed in /usr/local too, and goes before this package:" >&2
        echo "its commands in PATH, its units in /etc/systemd/system. Take it away with its uninstall." >&2
    fi
    command -v systemctl >/dev/null || exit 0
    if [ "$1" = configure ] && [ -z "$2" ]; then
        systemctl enable mesokit-node.socket || true
    fi
    [ -d /run/systemd/system ] || exit 0
    systemctl daemon-reload || true
    if systemctl --quiet is-enabled mesokit-node.socket; then
        systemctl start mesokit-node.socket || true
    fi
    systemctl try-restart mesokit-node.service || true
    ;;
esac
"""
_PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -n "$(find /run/mesokit/attachments -mindepth 2 -type f 2>/dev/null)" ]; then
    echo "mesokit: containers are attached still (/run/mesokit/attachments): their runtimes cannot detach" >&2
    echo "them without these plugins; install mesokit again to end them." >&2
fi
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop mesokit-node.socket mesokit-node.service || true
fi
"""
_POSTRM = """\
#!/bin/sh
set -e
if [ "$1" = purge ]; then
    rm -f /etc/systemd/system/sockets.target.wants/mesokit-node.socket
    rm -f /etc/systemd/system/multi-user.target.wants/mesokit-node.service
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
"""


def architecture() -> str:
    answer = subprocess.run(["dpkg", "--print-architecture"], stdout=subprocess.PIPE, check=True)
    return answer.stdout.decode().strip()


def file_name(version: str) -> str:
    return f"mesokit_{version}_{architecture()}.deb"


def build(bundles: Path, stage: Path, dist: Path, date: int) -> None:
    """Writes the package into `dist`."""
    version = version_of_project()
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    fill(bundles, stage, version)
    control = stage / "DEBIAN"
    control.mkdir()
    kilobytes = sum(path.lstat().st_size for path in stage.rglob("*") if path.is_file()) // 1024
    text = _CONTROL.format(version=version, architecture=architecture(), kilobytes=kilobytes)
    (control / "control").write_text(text)
    for name, script in (("postinst", _POSTINST), ("prerm", _PRERM), ("postrm", _POSTRM)):
        (control / name).write_text(script)
        (control / name).chmod(0o755)
    output = dist / file_name(version)
    fresh = stage.with_name(f"{output.name}.new")
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build", stage, fresh],
        env={"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": str(date)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    shutil.move(fresh, output)


def fill(bundles: Path, root: Path, version: str) -> None:
    """The tree of installed files."""
    library = root / "usr/lib/mesokit"
    names = launchers.plugin_names()
    launchers.install_launchers(library / "plugins", names)
    for bundle in (launchers.BUNDLE, "mesokit-executor.d"):
        freeze.link_tree(bundles / bundle, library / bundle)
    share_equal_files(library)
    commands = root / "usr/bin"
    commands.mkdir(parents=True)
    for program in ("mesokit", "mesokit-executor"):
        shutil.copy(launchers.compile_all() / program, commands / program)
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in sorted(_SYSTEMD.iterdir()):
        (units / unit.name).write_text(unit.read_text().replace("@BINDIR@", "/usr/bin"))
    documents.write(root / "usr/share/doc/mesokit", version, freeze.epoch())
    for name in ("mesokit", "mesokit-executor"):
        for page in manual.pages(commands / name, name):
            manual.write(page, version, root)
    manual.completions(commands / "mesokit", root)


def share_equal_files(folder: Path) -> None:
    """Files of the same bytes become one file: the two bundles have Python and the C library in common."""
    seen: dict[tuple[int, bytes], Path] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.stat().st_size < 4096:
            continue
        key = (path.stat().st_mode, path.read_bytes())
        first = seen.setdefault(key, path)
        if not first.samefile(path):
            path.unlink()
            path.hardlink_to(first)
