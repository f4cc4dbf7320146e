"""What a policy file means, written from its documentation alone: loops over rules, and no shared code.

Works on the plain objects that YAML or JSON give. An endpoint is a dict: network, container, addresses,
subnets, groups, labels, default.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

ANSWERS = {0: 8, 14: 13, 129: 128}
NAMED = {"echo-request": {4: 8, 6: 128}, "timestamp-request": {4: 13}}


def _is_nobodys(endpoints: list[dict[str, Any]], address: str) -> bool:
    """Whether an address that no endpoint has is of a network that is not open."""
    closed = [net for each in endpoints if each["default"] != "open" for net in each["subnets"]]
    return any(ip_address(address) in ip_network(net) for net in closed)


def allowed(
    policies: list[dict[str, Any]], endpoints: list[dict[str, Any]], probe: tuple[str, str, str, int]
) -> bool:
    """Whether the first packet of a flow passes: source, target, protocol (tcp, udp, sctp, icmp or another's
    number), port or type.
    """
    source, target, protocol, number = probe
    sender, receiver = _who(endpoints, source), _who(endpoints, target)
    if sender is None and _is_nobodys(endpoints, source):
        return False
    if sender is not None and source == target:
        return True
    for mine, other, address, direction, key in (
        (sender, receiver, target, "egress", "to"),
        (receiver, sender, source, "ingress", "from"),
    ):
        if mine is None:
            continue
        rules = _Side(mine, other, address, direction, key)
        if not _end(policies, rules, protocol, number):
            return False
    return True


def allowed_untracked(
    policies: list[dict[str, Any]], endpoints: list[dict[str, Any]], probe: tuple[str, str, str, int, int]
) -> bool:
    """Whether a packet passes that nobody tracks: source, target, protocol, its port (or type) at the source
    and at the target. Each closed end decides for itself: it refuses, unless a policy for it says `untracked:
    both`; then what its rules of that direction allow passes, by the target's port, and what those of the
    other direction allow, by the source's, if that direction is closed too.
    """
    source, target, protocol, near, far = probe
    sender, receiver = _who(endpoints, source), _who(endpoints, target)
    if sender is None and _is_nobodys(endpoints, source):
        return False
    if sender is not None and source == target:
        return True
    egress, ingress = ("egress", "to"), ("ingress", "from")
    for mine, other, address, asking, answering in (
        (sender, receiver, target, egress, ingress),
        (receiver, sender, source, ingress, egress),
    ):
        if mine is None or _is_open(policies, mine, *asking):
            continue
        if not any(
            policy.get("untracked") == "both" and not policy.get("audit") and _selected(policy["for"], mine)
            for policy in policies
        ):
            return False
        if _end(policies, _Side(mine, other, address, *asking), protocol, far, loose=True):
            continue
        if _is_open(policies, mine, *answering):
            return False
        back = far if protocol == "icmp" else near
        if not _end(policies, _Side(mine, other, address, *answering), protocol, back, loose=True):
            return False
    return True


def _is_open(policies: list[dict[str, Any]], mine: dict[str, Any], direction: str, key: str) -> bool:
    """Whether everything passes, by a rule that says so for everybody and none that denies."""
    holding = [
        policy
        for policy in policies
        if direction in policy and not policy.get("audit") and _selected(policy["for"], mine)
    ]
    rules = [rule for policy in holding for rule in policy[direction]]
    kept = all(policy.get("default") == "keep" for policy in holding)
    by_default = kept and (
        mine["default"] == "open" or (mine["default"] == "groups" and direction == "egress")
    )
    by_rule = any("any" in rule.get("allow", []) and "any" in rule[key] for rule in rules)
    return (by_default or by_rule) and not any("deny" in rule for rule in rules)


def _who(endpoints: list[dict[str, Any]], address: str) -> dict[str, Any] | None:
    for each in endpoints:
        if address in each["addresses"]:
            return each
    return None


class _Side(NamedTuple):
    mine: dict[str, Any]
    other: dict[str, Any] | None
    address: str
    direction: str
    key: str


def _end(
    policies: list[dict[str, Any]], side: _Side, protocol: str, number: int, *, loose: bool = False
) -> bool:
    """`loose`: an ICMP type is also what it answers, of which alone rules speak."""
    if loose and protocol == "icmp" and number in ANSWERS:
        return _end(policies, side, protocol, ANSWERS[number]) or _end(policies, side, protocol, number)
    mine, other, address, direction, key = side
    mine_policies = [
        policy
        for policy in policies
        if direction in policy and not policy.get("audit") and _selected(policy["for"], mine)
    ]
    may = False
    for policy in mine_policies:
        for rule in policy[direction]:
            if not any(_peer(peer, other, address) for peer in rule[key]):
                continue
            version = ip_address(address).version
            if "deny" in rule and any(_traffic(text, protocol, number, version) for text in rule["deny"]):
                return False
            if "allow" in rule and any(_traffic(text, protocol, number, version) for text in rule["allow"]):
                may = True
    if all(policy.get("default") == "keep" for policy in mine_policies):
        may = may or _default(mine, other, direction)
    return may


def _default(mine: dict[str, Any], other: dict[str, Any] | None, direction: str) -> bool:
    if mine["default"] == "open":
        return True
    if mine["default"] == "isolated":
        return False
    if direction == "egress" or other is None:
        return True
    return other["network"] == mine["network"] and bool(set(mine["groups"]) & set(other["groups"]))


def _selected(selector: dict[str, Any], endpoint: dict[str, Any]) -> bool:
    if "network" in selector and selector["network"] != endpoint["network"]:
        return False
    if "container" in selector and selector["container"] != endpoint["container"]:
        return False
    groups = selector.get("groups", []) + ([selector["group"]] if "group" in selector else [])
    if groups and not any(group in endpoint["groups"] for group in groups):
        return False
    for label, value in selector.get("labels", {}).items():
        if label not in endpoint["labels"]:
            return False
        if value is not None and endpoint["labels"][label] != value:
            return False
    return True


def _peer(peer: Any, other: dict[str, Any] | None, address: str) -> bool:
    if peer == "any":
        return True
    if peer == "world":
        return other is None
    if peer == "host":
        return False
    if "cidr" in peer:
        inside = ip_address(address) in ip_network(peer["cidr"])
        return inside and not any(ip_address(address) in ip_network(net) for net in peer.get("except", []))
    return other is not None and _selected(peer, other)


def _traffic(text: str, protocol: str, number: int, version: int) -> bool:
    if text == "any":
        return True
    name, _, rest = text.partition("/")
    if name in ("icmp", f"icmpv{version}"):
        name = "icmp"
    if name != protocol:
        return False
    if rest in NAMED:
        return NAMED[rest].get(version) == number
    low, _, high = rest.partition("-")
    return not rest or int(low) <= number <= int(high or low)
