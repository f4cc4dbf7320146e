"""What the Debian package has in /usr/share/doc/mesokit: README, examples, licences, changes."""

from __future__ import annotations

import gzip
import re
import shutil
import sysconfig
import tomllib
from email.utils import formatdate
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from frozen import TOP

_README = """\
# mesokit {version}

A custom executor and CNI plugins for Apache Mesos, and for podman, containerd and Nomad.

| what | where |
|---|---|
| commands | `/usr/bin/mesokit`, `/usr/bin/mesokit-executor` |
| plugins | `/usr/lib/mesokit/plugins` |
| the node service, which makes plugins fast | `mesokit-node.socket`, `mesokit-node.service` |
| networks and a task to begin with | `/usr/share/doc/mesokit/examples` |

The agent's options:

    --network_cni_plugins_dir=/usr/lib/mesokit/plugins --network_cni_config_dir=/etc/cni/net.d
    --http_executor_domain_sockets

podman: `cni_plugin_dirs = ["/usr/lib/mesokit/plugins"]` in containers.conf; containerd: `bin_dir` of its CNI
table; Nomad: `cni_path`. For who looks in /opt/cni/bin alone: ln -s /usr/lib/mesokit/plugins/* /opt/cni/bin/
`RUNTIMES.md` beside this file has the whole of it.

A task on two networks, without any agent:

    mkdir -p /etc/cni/net.d
    cp /usr/share/doc/mesokit/examples/net.d/* /etc/cni/net.d/
    mesokit run /usr/share/doc/mesokit/examples/task.json

The example's `dev-net` has 11.50.11.0/24, which is public space of somebody else: on a host that has an
Internet to reach, write a private network there, 10.50.12.0/24 say.

`mesokit --help` lists the commands, `mesokit cni help` the plugins, `mesokit doctor` says what is wrong with
this node. Every command has a manual page: `man mesokit-doctor`.
"""

_COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: mesokit
Comment: The programs in /usr/lib/mesokit bring Python and what it needs of the C library and of
 libnftables with them, as Debian packages these; /usr/share/doc of a Debian system has their licences.
 The Python packages among them are listed below, and their licences are in /usr/share/doc/mesokit/licenses.

Files: *
Copyright: The mesokit authors
License: mesokit
 All rights are with the authors: no licence has been given with this package.

Files: usr/lib/mesokit/*/python3* usr/lib/mesokit/*.d/mesokit*
Copyright: Python Software Foundation
License: PSF-2.0
 The text is in /usr/share/doc/mesokit/licenses/python.
"""

_ANOTHER = """
Files: usr/lib/mesokit/*/{name}*
Copyright: the authors of {name} {version}
License: {license}
 The text is in /usr/share/doc/mesokit/licenses/{name}.
"""


def write(folder: Path, version: str, date: int) -> None:
    """Fills `folder`; `date`, in seconds since 1970, is that of the changes."""
    (folder / "licenses").mkdir(parents=True)
    (folder / "README.md").write_text(_README.format(version=version))
    pages = (TOP / "cni_plugins/RUNTIMES.md").read_text()
    (folder / "RUNTIMES.md").write_text(
        re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", pages)
    )  # links lead nowhere there
    for source in sorted((TOP / "packaging/example").rglob("*.json")):
        target = folder / "examples" / source.relative_to(TOP / "packaging/example")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())  # without the checkout's times, which the archive would show
    changes = f"mesokit ({version}) unstable; urgency=medium\n\n  * Version {version}.\n\n"
    changes += f" -- The mesokit authors <mesokit@localhost>  {formatdate(date)}\n"
    (folder / "changelog.gz").write_bytes(gzip.compress(changes.encode(), mtime=0))
    text = _COPYRIGHT
    for found in brought():
        texts = _licence_texts(found)
        if texts:
            (folder / "licenses" / found.name).write_text("\n".join(texts))
        text += _ANOTHER.format(name=found.name, version=found.version, license=_licence(found))
    python = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if python.is_file():
        shutil.copy(python, folder / "licenses/python")
    (folder / "copyright").write_text(text)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def brought() -> list[Distribution]:
    """The Python packages that our programs need, with what those need, as they are installed here."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["framework"]]
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
        if name in found or "extra ==" in requirement:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other systems only
        wanted += found[name].requires or []
    return [found[name] for name in sorted(found)]


def _licence(of: Distribution) -> str:
    """Its name, on one line."""
    said = [*of.metadata.get_all("License-Expression", []), *of.metadata.get_all("License", [])]
    said += [
        each.rpartition(":: ")[2] for each in of.metadata.get_all("Classifier", []) if "License ::" in each
    ]
    return next((each.strip().splitlines()[0] for each in said if each and each.strip()), "other")


def _licence_texts(of: Distribution) -> list[str]:
    paths = [
        path
        for path in of.files or []
        if re.search(r"dist-info/.*(licen[cs]e|copying|notice)", str(path), re.IGNORECASE)
    ]
    return [Path(str(path.locate())).read_text(errors="replace") for path in sorted(paths, key=str)]
