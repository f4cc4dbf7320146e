"""The release archive: all that an agent's host gets, with an `install` that needs a shell and no more.

mesokit-VERSION-ARCHITECTURE/
    install, uninstall      run the bundled mesokit, which has Python with it (install.py, uninstall.py)
    RELEASE                 version and digest of what it was built from
    bin/  lib/  share/      commands; bundles and launchers; manual pages and completions
    systemd/                units, with @BINDIR@ for the place of the commands
    uri/                    the executor as a framework fetches it
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import archive
import deb
import freeze
import launchers
from frozen import version_of_project

_SCRIPT = """\
#!/bin/sh
# {about} See --help.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
exec "$here/bin/mesokit" --{verb}-release {more}"$@"
"""
_README = """\
mesokit {version}: a custom executor and CNI plugins for Apache Mesos.

    sudo ./install      plugins into /opt/cni/bin, commands into /usr/local/bin, the node service
    sudo ./uninstall    off the host again; containers keep running

Both have --help, may be run again at any time, and need neither network nor compiler nor Python.
"""


def name() -> str:
    return f"mesokit-{version_of_project()}-{deb.architecture()}"


def stage(package: Path, dist: Path, folder: Path, digest: str) -> None:
    """Fills `folder` from the tree of the Debian package and the executor's two forms."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    freeze.link_tree(package / "usr/lib/mesokit", folder / "lib/mesokit")
    freeze.link_tree(package / "usr/bin", folder / "bin")
    for each in (package / "usr/share").iterdir():
        if each.name != "doc":
            freeze.link_tree(each, folder / "share" / each.name)
    shutil.copytree(launchers.TOP / "packaging/systemd", folder / "systemd")
    (folder / "uri").mkdir()
    for program in ("mesokit-executor", "mesokit-executor.tar.gz"):
        os.link(dist / program, folder / "uri" / program)
    version = version_of_project()
    (folder / "RELEASE").write_text(f"{version} {digest[:12]}\n")
    (folder / "README").write_text(_README.format(version=version))
    installs = _SCRIPT.format(about="Installs mesokit on this host.", verb="install", more='--from "$here" ')
    (folder / "install").write_text(installs)
    removes = _SCRIPT.format(about="Takes mesokit off this host again.", verb="uninstall", more="")
    (folder / "uninstall").write_text(removes)
    for script in ("install", "uninstall"):
        (folder / script).chmod(0o755)


def write(folder: Path, dist: Path, date: int) -> None:
    archive.write(dist / f"{name()}.tar.gz", archive.tree(folder), date, prefix=f"{name()}/")
