"""A DEL under another network name than its ADD's: an operator renamed the network, or the runtime composed
the configuration anew.

The reference plugins find most of what they made by container and interface alone. A record is one network's,
and the same container may have had the same interface name on another network since: so the other record is
taken only when the DEL brings proof that it means that attachment, its result (prevResult).
"""

from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Result, decode
from cni_plugins.spec.versions import NEWEST
from cni_plugins.store import records
from cni_plugins.store.records import Contents, Record


def find(call: Call, plugin: str) -> Record | None:
    """The record, locked, of the attachment that `prevResult` is the result of, under whatever network name;
    None if there is none, or more than one. CniError 5 or 11.
    """
    if call.previous is None:
        return None
    places = [
        path
        for path, contents in records.elsewhere(call.roots, call.identity, plugin)
        if _proves(call, contents)
    ]
    if len(places) != 1:
        return None
    record = records.open_path(places[0], call.deadline)
    if record is None or (record.contents is not None and _proves(call, record.contents)):
        return record
    record.close()  # made anew meanwhile
    return None


def _proves(call: Call, contents: Contents) -> bool:
    """Whether the DEL's result is that of the recorded ADD: the same interface with the same addresses and
    MAC address in the same namespace. The rest of a result may have been changed by later plugins of a list.
    """
    assert call.previous is not None
    if contents.result is None:
        return False
    try:
        made = decode(contents.result, NEWEST)
    except CniError:
        return False
    ours = _told(made, call.ifname)
    return ours == _told(call.previous, call.ifname) and any(ours[1:])


def _told(result: Result, ifname: str) -> tuple[str, frozenset[str], str]:
    """The namespace's path, the addresses and the MAC address that a result has of an interface."""
    inside = result.container_interface(ifname)
    addresses = frozenset(str(entry.address) for entry in result.ips_of(ifname))
    return inside.sandbox, addresses, inside.mac.lower()
