"""One look at the node: records, namespaces, the host's links, and what runtimes say of their containers.

Nothing is entered and nothing but netlink and small files is read, so a look at 300 containers takes some
30 ms. Who is not root sees what he may; the rest is named in `Seen.hidden`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.store import boot, records
from cni_plugins.view import runtimes
from cni_plugins.view.attachments import attachments
from cni_plugins.view.node import Node, Seen, node_of

SECONDS = 5.0  # for the kernel's answers


def host_namespace() -> Namespace:
    """The namespace that this process is in. CniError 8."""
    found = open_namespace(OWN_NETNS)
    if found is None:
        raise CniError(Code.INVALID_NETNS, f"cannot open {OWN_NETNS}: is /proc mounted?")
    return found


def node(roots: Roots, host: Namespace, *, tasks: bool = True) -> Node:
    """The node as it is now. CniError 999 when the kernel does not answer."""
    hidden: list[str] = []
    place = roots.run / "attachments"
    headless: list[Path] = []
    try:
        found = list(records.every(roots, headless=headless))
        headless += records.set_aside(roots)
    except PermissionError as error:
        found = []
        hidden.append(f"{error.filename}: only root may read the attachment records")
    if not found and place.exists() and not os.access(place, os.R_OK | os.X_OK) and not hidden:
        hidden.append(f"{place}: only root may read the attachment records")
    listed = attachments(found)
    with Netlink(host, after(SECONDS)) as netlink:
        there = tuple(links.every(netlink))
    return node_of(
        Seen(
            attachments=tuple(listed),
            links=there,
            namespaces=namespaces({item.netns for item in listed if item.netns}),
            host_id=(host.device, host.inode),
            boot=boot.current(),
            tasks=runtimes.tasks(roots, [item.identity for item in listed]) if tasks else {},
            hidden=tuple(hidden),
            headless=tuple(headless),
        )
    )


def namespaces(paths: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Device and inode of each path, None where nothing is there; paths that may not be looked at are left
    out.
    """
    found: dict[str, tuple[int, int] | None] = {}
    for path in paths:
        try:
            status = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            found[path] = None
        except (OSError, ValueError):
            continue
        else:
            found[path] = (status.st_dev, status.st_ino)
    return found
