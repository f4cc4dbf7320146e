"""Whether a container's link still has the MTU that it was made with."""

from cni_plugins.kernel.links import Link
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.store import records

_REFERENCE_TUNING = "/run/cni/tuning"


def require_mtu(context: Context, link: Link, wanted: int) -> None:
    """CniError 999 when a link of the container has another MTU than it was made with (`wanted`; 0: any), and
    nobody changed it on the attachment's behalf: a later plugin of the list, as prevResult or a record says,
    a DHCP server, or the reference's tuning.
    """
    call = context.call
    if not wanted or link.mtu == wanted:
        return
    result = call.previous
    for entry in result.interfaces if result is not None else ():
        if entry.name == link.name and entry.sandbox and entry.mtu == link.mtu:
            return
    for _, contents in records.every(call.roots, call.network):
        if contents.identity == call.identity and any(
            line.get("step") == "link-settings"
            or line.get("undo") == "link.restore"
            or (line.get("step") == "dhcp-lease" and link.mtu < wanted)  # option 26
            for line in contents.steps
        ):
            return
    if call.roots.relocate(f"{_REFERENCE_TUNING}/{call.container_id}_{call.ifname}.json").exists():
        return
    raise CniError(Code.INTERNAL, f"{link.name} has MTU {link.mtu}, and was made with {wanted}")
