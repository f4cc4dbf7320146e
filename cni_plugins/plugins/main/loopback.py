"""loopback: brings `lo` up in the container and reports its addresses.

CNI_IFNAME is not looked at. DEL takes `lo` down again if ADD found it down.

    {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
"""

from dataclasses import dataclass

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import addresses, links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Interface, Result
from cni_plugins.steps.context import Context
from cni_plugins.steps.link_settings import LinkSettings, Settings


@dataclass(frozen=True, slots=True)
class LoopbackConfig:
    """loopback has no keys of its own."""


def _lo(netlink: Netlink) -> links.Link:
    link = links.find(netlink, "lo")
    if link is None:
        raise CniError(Code.INTERNAL, f"{netlink.namespace.path} has no interface lo")
    return link


def add(call: Call, config: LoopbackConfig, tx: Transaction) -> Result:
    netlink = tx.context.sandbox
    link = _lo(netlink)
    if not link.up:
        tx.apply(LinkSettings("lo", Settings(flags=links.IFF_UP), Settings(clear=links.IFF_UP)))
    if call.previous is not None:
        return call.previous
    found = addresses.of_link(netlink, link.index)
    for item in found:
        if not item.address.is_loopback:
            raise CniError(
                Code.INTERNAL,
                f'loopback interface found with non-loopback address "{item.address.ip}"',
                f"lo has address {item.address}, which is not a loopback address",
            )
    ips = tuple(Address(item.address, interface=0) for item in found)
    return Result(interfaces=(Interface("lo", link.mac, call.netns_path),), ips=ips)


def check(call: Call, config: LoopbackConfig, context: Context) -> None:
    if not _lo(context.sandbox).up:
        raise CniError(Code.INTERNAL, "loopback interface is down", f"lo is down in {call.netns_path}")


PLUGIN = Plugin(
    name="loopback",
    kind=Kind.MAIN,
    about="bring up the loopback interface of a container",
    config=LoopbackConfig,
    add=add,
    check=check,
    takes_ipam=False,
)
