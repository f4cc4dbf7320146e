"""Undo operations on bridges."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.kernel import bridges, links, vlans
from cni_plugins.store.locks import locked


def release(context: Context, args: Mapping[str, Any]) -> None:
    """`bridge.release {name, mac}`: remove a bridge of ours when this was its last port."""
    with locked(bridges.lock_path(context.call.roots.run, args["name"]), context.deadline):
        bridges.release(context.host, args["name"], args["mac"])


def release_vlan(context: Context, args: Mapping[str, Any]) -> None:
    """`vlan.release {bridge, vid}`: remove a VLAN's gateway interface of ours when its last port is gone."""
    with locked(bridges.lock_path(context.call.roots.run, args["bridge"]), context.deadline):
        name = f"{args['bridge']}.{args['vid']}"
        gateway = links.find(context.host, name)
        if gateway is None or gateway.kind != "veth" or gateway.alias != bridges.ALIAS:
            return
        peer = links.find_index(context.host, gateway.peer)
        members = vlans.of_ports(context.host, peer.master) if peer is not None and peer.master else {}
        others = [index for index, vids in members.items() if args["vid"] in vids and index != gateway.peer]
        if not others:
            links.remove(context.host, name)
