"""Undo operations on links."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink


def _netlink(context: Context, where: str) -> Netlink | None:
    if where == "host":
        return context.host
    return context.sandbox if context.sandbox_namespace is not None else None


def delete(context: Context, args: Mapping[str, Any]) -> None:
    """`link.delete {where: host|sandbox, name}`: a namespace that is gone took its links along."""
    netlink = _netlink(context, args["where"])
    if netlink is not None:
        links.remove(netlink, args["name"])


def restore(context: Context, args: Mapping[str, Any]) -> None:
    """`link.restore {where, name, flags?, clear?, mtu?, address?, txqlen?}`: put a link's settings back."""
    netlink = _netlink(context, args["where"])
    link = links.find(netlink, args["name"]) if netlink is not None else None
    if netlink is None or link is None:
        return
    attributes = {key: args[key] for key in ("mtu", "address", "txqlen") if key in args}
    netlink.request(
        links.change(
            link.name,
            link.index,
            set_flags=args.get("flags", 0),
            clear_flags=args.get("clear", 0),
            **attributes,
        )
    )
