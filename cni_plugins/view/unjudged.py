"""Attachments that are outside the policy of a node that has one, and why. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass

from cni_plugins.policy.model import Default
from cni_plugins.steps.policy_file import State
from cni_plugins.view import attachments
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node

_LIVING = frozenset((attachments.State.UP, attachments.State.DOWN, attachments.State.BROKEN))
_ENFORCED = ("bridge", "ptp", "macvlan", "ipvlan", "vlan", "host-device")


@dataclass(frozen=True, slots=True)
class Outside:
    """An attachment that no policy judges; `remedy` is what would change that."""

    item: Attachment
    why: str
    remedy: str

    def as_json(self) -> dict[str, str]:
        return {
            "network": self.item.network,
            "container": self.item.container_id,
            "ifname": self.item.ifname,
            "type": self.item.type,
            "reason": self.why,
        }

    def __str__(self) -> str:
        where = f"{self.item.container_id}: {self.item.ifname} on network {self.item.network}"
        return f"{where} is OUTSIDE POLICY: {self.why}"


def unjudged(node: Node, state: State) -> list[Outside]:
    """Each attachment of this host that lives and is no endpoint, where the operator has asked for any policy
    at all.
    """
    if not state.policies and all(item.default is Default.OPEN for item in state.endpoints):
        return []
    judged = {item.identity for item in state.endpoints}
    return [
        Outside(item, *_why(item))
        for item in node.attachments
        if item.type != "loopback"
        and (item.network, item.container_id, item.ifname) not in judged
        and node.state(item) in _LIVING
    ]


def _why(item: Attachment) -> tuple[str, str]:
    another = f"give network {item.network} an interface of another type: {', '.join(_ENFORCED)}"
    if item.type in ("tap", "dummy"):
        return f"{item.type} cannot enforce any", another
    if item.type not in _ENFORCED:
        return f"{item.type} is a plugin of others, which knows no policy", another
    if not item.addresses and item.type in ("bridge", "ptp"):
        return (
            f"a {item.type} network without ipam, and policy tells endpoints by their addresses",
            f"give network {item.network} an ipam section",
        )
    return (
        "it was attached when neither its network nor the node had one",
        f"restart the containers of network {item.network}: what is attached anew is judged",
    )
