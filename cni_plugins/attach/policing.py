"""Whether an attachment is under policy, and the step that puts it there.

A network has policy when its configuration says so (`policy`), or when the node has a directory of policies.
Nothing is imported where neither is so.
"""

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.spec.call import Call
from cni_plugins.spec.config import TEXT, list_of, one_of, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address
from cni_plugins.spec.values import fold
from cni_plugins.steps.step import Step

DIRECTORY = "/etc/mesokit/policy.d"
POLICY = one_of("open", "isolated", "groups")
POLICY_ABOUT = "what holds where no policy selects a container; with any of them its packets are judged"
LABELS = list_of(TEXT)
LABELS_ABOUT = "labels of a task's network_info, or keys of CNI_ARGS, that policies may select it by"


def require_enforced(call: Call, name: str, config: type[Any]) -> None:
    """CniError 7 when a network asks for policy of a plugin that cannot enforce any."""
    default = fold(call.config, "policy")
    if default in (None, "") or "policy" in config.__dataclass_fields__:
        return
    raise CniError(
        Code.INVALID_CONFIG,
        f"policy is {shown(default)}, and {name} cannot enforce any: its packets pass the host by",
        "use a bridge, ptp, macvlan, ipvlan, vlan or host-device network, or leave policy out",
    )


def require_between_ports(call: Call, default: str) -> None:
    """CniError 50 when a bridge network has policy, and this kernel cannot judge between a bridge's ports."""
    if default or os.path.exists(f"{call.roots.prefix}{DIRECTORY}"):
        from cni_plugins.steps import policy_bridged

        policy_bridged.require_some(call.host, call.deadline)


def require_not_inside(call: Call, vrf: str) -> None:
    """CniError 7 when the interface is judged in its own network namespace: the rules there see packets of a
    VRF's port as the VRF's, and would let them pass.
    """
    if not os.path.exists(f"{call.roots.run}/policy/state.json"):
        return
    from cni_plugins.steps import policy_state

    mine = (call.container_id, call.ifname)
    state = policy_state.load(call.roots, call.host)
    if any(item.inside and (item.container, item.ifname) == mine for item in state.endpoints):
        raise CniError(
            Code.INVALID_CONFIG,
            f"vrfname is {shown(vrf)}, and {call.ifname} is under policy in its own network namespace, where "
            "packets of a VRF are not judged",
            "use a bridge or ptp network for the VRF, or leave policy out",
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What a configuration says of policy: the network's default, and the labels that count."""

    default: str
    labels: tuple[str, ...]


def judged(call: Call, said: Judged | None, ips: Sequence[Address]) -> Step | None:
    """The step of an interface whose packets the host does not see, None where there is no policy. It goes
    before the interface is there.
    """
    return None if said is None else step(call, said.default, said.labels, ips, inside=True)


def step(
    call: Call,
    default: str,
    allowed: Sequence[str],
    ips: Sequence[Address],
    *,
    link: str = "",
    port: str = "",
    bridged: bool = False,
    inside: bool = False,
) -> Step | None:
    """The step of an attachment, None where there is no policy. It goes before the container's link is up.
    `inside`: where the host does not see its packets; then there is one without addresses too.
    """
    if not (ips or inside) or not (default or os.path.exists(f"{call.roots.prefix}{DIRECTORY}")):
        return None
    from cni_plugins.steps.policy import PolicyEndpoint

    info = call.network_info
    given = call.args if info is None else info.labels
    labels = {key: given[key] for key in allowed if key in given}
    return PolicyEndpoint(
        default=default or "open",
        ips=tuple(ips),
        groups=() if info is None else tuple(sorted(set(info.groups))),
        labels=tuple(sorted(labels.items())),
        link=link,
        port=port,
        bridged=bridged,
        inside=inside,
    )
