"""Undo operations on traffic shaping."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.kernel import links, shaping


def remove(context: Context, args: Mapping[str, Any]) -> None:
    """`shaping.remove {link, direction: egress|ingress}`: of a link of the host, if it is still there."""
    link = links.find(context.host, args["link"])
    if link is not None:
        take = shaping.remove_egress if args["direction"] == "egress" else shaping.remove_ingress
        context.host.request(take(link.index))
