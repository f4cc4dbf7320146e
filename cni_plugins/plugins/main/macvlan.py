"""macvlan: an interface of the container's own on a link of the host, with a MAC address of its own.

It is made on `master` (unless told, the link of the first default route) directly in the container's
namespace; with `linkInContainer` the master is looked for there. Frames leave by the master as they are, so
the network sees the container as one more machine; the host itself does not reach it that way. The addresses
are announced (ARP, neighbour advertisement). Without `ipam` the interface is up and has no address.

    {"name": "lan", "type": "macvlan", "master": "eth0", "mode": "bridge",
     "ipam": {"type": "host-local", "subnet": "192.168.7.0/24", "rangeStart": "192.168.7.200"}}
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach import delegation
from cni_plugins.attach.context import Context
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links, routes, verify
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.plugins.main import legacy
from cni_plugins.plugins.main.requests import configured_dns, mac_of_address, requested_mac
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, MAC_ADDRESS, integer, mtu, one_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Dns, Interface, Result

# linux/if_link.h
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_IFLA_MACVLAN_MODE = 1


@dataclass(frozen=True, slots=True)
class MacvlanConfig:
    master: str | None = option(
        "master", INTERFACE_NAME, None, "the host's link; default that of the first default route"
    )
    mode: str = option("mode", one_of(*_MODES), "bridge", "who of one master reaches whom")
    mtu: int = option("mtu", mtu(65535), 0, "MTU, not above the master's; 0 takes the master's")
    mac: str | None = option("mac", MAC_ADDRESS, None, "MAC address; default a random one")
    mac_from_ip: bool = option("macFromIP", BOOL, False, "make the MAC address of the first IP address")
    in_container: bool = option("linkInContainer", BOOL, False, "the master is a link of the container")
    queue: int = option(
        "bcqueuelen", integer(0, 2**32 - 1), 0, "queue for broadcast frames; 0 takes the kernel's, 1000"
    )
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")


def validate(call: Call, config: MacvlanConfig) -> None:
    requested_mac(call, config.mac)
    configured_dns(call, Dns())


def _default_master(netlink: Netlink) -> str:
    """The link of the default route with the lowest metric, IPv4 before IPv6. CniError 7 without one."""
    for version in (4, 6):
        index = routes.default_link(netlink, version)
        link = links.find_index(netlink, index) if index else None
        if link is not None:
            return link.name
    raise CniError(
        Code.INVALID_CONFIG,
        f"master is not given, and {netlink.namespace.path} has no default route to take it from",
        'name the link: "master": "eth0"',
    )


def _master(config: MacvlanConfig, context: Context) -> Link:
    netlink = context.sandbox if config.in_container else context.host
    name = config.master or _default_master(netlink)
    link = links.find(netlink, name)
    if link is None:
        where = "the container" if config.in_container else "the host"
        raise CniError(Code.INVALID_CONFIG, f"master is {name!r}, and {where} has no such link")
    if config.mtu > link.mtu:
        raise CniError(
            Code.INVALID_CONFIG,
            f"mtu is {config.mtu}, but master {name} has {link.mtu}",
            f"give at most {link.mtu}, or raise the master's",
        )
    return link


def add(call: Call, config: MacvlanConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    master = _master(config, tx.context)
    ipam = delegation.ipam_add(call, tx) if delegation.ipam_type(call) else Result()
    mac = _create(call, config, tx, master, mac_of_address(ipam.ips) if config.mac_from_ip else None)
    plan = interface.Plan(call.ifname, ipam.ips, ipam.routes, dad=config.dad)
    # It forwards as soon as it is up, so that the kernel's own announcements reach everybody.
    interface.configure(tx.context.sandbox, plan, call.deadline)
    return Result(
        interfaces=(Interface(call.ifname, mac, call.netns_path),),
        ips=tuple(replace(entry, interface=0) for entry in ipam.ips),
        routes=ipam.routes,
        dns=configured_dns(call, ipam.dns),
    )


def _create(call: Call, config: MacvlanConfig, tx: Transaction, master: Link, derived: str | None) -> str:
    """Make the link in the container and give it its name there; its MAC address.

    The kernel looks in the host for a link of the new one's name before it makes it elsewhere, so it is made
    under a name that nobody has.
    """
    context = tx.context
    name = links.random_name()
    data: list[tuple[str, Any]] = [("IFLA_MACVLAN_MODE", config.mode)]
    data += [("IFLA_MACVLAN_BC_QUEUE_LEN", config.queue)] * bool(config.queue)
    values: dict[str, Any] = {"link": master.index, "net_ns_fd": context.inside.fd}
    values |= {"mtu": config.mtu} if config.mtu else {}
    mac = requested_mac(call, config.mac) or derived
    if config.mode != "passthru" or mac:  # passthru takes the master's address
        values["address"] = mac = mac or links.random_mac()
    tx.intend("link.delete", where="sandbox", name=name)
    maker = context.sandbox if config.in_container else context.host
    maker.request(links.create(name, "macvlan", data, **values))
    link = links.find(context.sandbox, name)
    if link is None:
        raise CniError(Code.INTERNAL, f"macvlan {name} vanished as soon as it was made")
    tx.intend("link.delete", where="sandbox", name=call.ifname)
    try:
        context.sandbox.request(links.change(name, link.index, ifname=call.ifname))
    except CniError:
        tx.cancel()  # somebody else has that name: theirs is not ours to delete
        raise
    return mac or link.mac


def check(call: Call, config: MacvlanConfig, context: Context) -> None:
    delegation.ipam_forward(Verb.CHECK, call, context)
    result = call.previous or Result()
    link = verify.link(context.sandbox, call.ifname, "macvlan", result)
    master = _master(config, context)
    if link.peer != master.index:
        raise CniError(Code.INTERNAL, f"{call.ifname} is not a macvlan of {master.name}")
    mode = int.from_bytes(link.data.get(_IFLA_MACVLAN_MODE, bytes(4)), sys.byteorder)
    if mode != _MODES[config.mode]:
        names = {number: name for name, number in _MODES.items()}
        raise CniError(Code.INTERNAL, f"{call.ifname} is in mode {names.get(mode, mode)}, not {config.mode}")
    verify.ips(context.sandbox, link, result)
    verify.route_list(context.sandbox, result.routes)


def remove_legacy(call: Call, config: MacvlanConfig, context: Context) -> None:
    """Remove what the reference plugin made: its link and its reservation."""
    legacy.each(
        lambda: delegation.ipam_forward(Verb.DEL, call, context),
        lambda: legacy.delete_link(call, context, "macvlan"),
    )


def gc(call: Call, config: MacvlanConfig, context: Context) -> None:
    delegation.ipam_forward(Verb.GC, call, context)


def status(call: Call, config: MacvlanConfig, context: Context) -> None:
    if not config.in_container:
        _master(config, context)
    delegation.ipam_forward(Verb.STATUS, call, context)


PLUGIN: Plugin[Any] = Plugin(
    name="macvlan",
    kind=Kind.MAIN,
    about="an interface with a MAC address of its own on a link of the host",
    config=MacvlanConfig,
    add=add,
    validate=validate,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    args=True,
)
