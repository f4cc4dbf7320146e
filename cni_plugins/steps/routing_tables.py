"""Which routing tables of a container are free.

A table is chosen and filled under a lock of the container's namespace, so that two calls for one container
never choose the same. What stands in the kernel then is the claim.
"""

import sys
from contextlib import AbstractContextManager
from itertools import count

from cni_plugins.kernel import links, routes, rules
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.namespace import Namespace
from cni_plugins.steps.context import Context
from cni_plugins.store.locks import locked

_LOCKS = 64
_RESERVED = frozenset((0, 253, 254, 255))  # unspec, default, main, local (linux/rtnetlink.h)
_VRF_TABLE = 1  # IFLA_VRF_TABLE, linux/if_link.h


def guarded(call: Call, namespace: Namespace, *, undoing: bool = False) -> AbstractContextManager[None]:
    """The lock of a container's routing tables and VRFs: one of a few files, which stay. CniError 5 or 11."""
    path = f"{call.roots.run}/locks/tables-{namespace.inode % _LOCKS}"
    return locked(path, call.deadline, undoing=undoing)


def vrf_table(link: Link) -> int:
    """The table of a VRF."""
    return int.from_bytes(link.data.get(_VRF_TABLE, b""), sys.byteorder)


def free(context: Context, first: int, wanted: int) -> list[int]:
    """So many tables from `first` on that no rule leads to, no VRF has, and that hold no route. The lock is
    held. CniError 999.
    """
    netlink = context.sandbox
    taken = set(_RESERVED)
    taken.update(vrf_table(link) for link in links.every(netlink) if link.kind == "vrf")
    for version in (4, 6):
        taken.update(rule.table for rule in rules.every(netlink, version))
        taken.update(item.route.table or 0 for item in routes.every(netlink, version))
    candidates = (table for table in count(first) if table not in taken)
    return [next(candidates) for _ in range(wanted)]
