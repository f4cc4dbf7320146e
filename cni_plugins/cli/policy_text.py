"""What `mesokit policy` tells of a node's policy."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cni_plugins.cli.table import aligned
from cni_plugins.kernel.nft import library
from cni_plugins.kernel.nft.policy_rules import AGENT_PORT
from cni_plugins.policy.compare import Difference, told
from cni_plugins.policy.compile import Assignment, Compiler
from cni_plugins.policy.model import Direction, Endpoint
from cni_plugins.policy.rules import applying
from cni_plugins.spec.namespace import Namespace
from cni_plugins.steps.policy_bridged import Bridging
from cni_plugins.steps.policy_file import State

#: By fingerprint of a namespace, the processes in it that have CAP_NET_ADMIN over it.
Admins = Mapping[tuple[int, ...], Sequence[int]]


_FEW = 10


def builtin() -> list[str]:
    """What is allowed or refused whatever the policies say."""
    return [
        "replies and ICMP errors of allowed flows pass",
        "an endpoint reaches itself, by its published ports too",
        "neighbour discovery and multicast listener reports pass; router advertisements and redirects from a "
        "bridge port do not",
        f"the host's tcp/{AGENT_PORT} (the agent) and DHCP are reached from every endpoint",
        "the host reaches its endpoints unless a rule denies it",
        "what others leave untracked (notrack) passes neither to nor from who is closed, but by a policy "
        "with untracked: both",
        "frames from a port with another address than its endpoint's do not pass",
    ]


def as_json_endpoint(
    endpoint: Endpoint, assigned: Assignment, admins: Admins, bridging: Bridging
) -> dict[str, Any]:
    """`admins`: the processes that could take the rules of its namespace away."""
    return {
        "network": endpoint.network,
        "container": endpoint.container,
        "ifname": endpoint.ifname,
        "addresses": [str(item) for item in endpoint.addresses],
        "groups": sorted(endpoint.groups),
        "labels": dict(endpoint.labels),
        "default": endpoint.default.value,
        "enforced": bridging.told(endpoint),
        **({"admins": list(admins.get(endpoint.netns_id, ()))} if endpoint.inside else {}),
        "profiles": {
            "egress": assigned.out,
            "ingress": assigned.into,
            "host": assigned.host,
            "fromHost": assigned.back,
        },
    }


def overview(
    state: State, compiler: Compiler, lacking: int, admins: Admins, outside: Sequence[str]
) -> Iterator[str]:
    """`outside`: a sentence for each attachment that no policy judges."""
    if not state.endpoints:
        yield "no container is under policy"
    else:
        rows: list[tuple[str, ...]] = [
            ("CONTAINER", "NETWORK", "DEFAULT", "ADDRESSES", "EGRESS", "INGRESS", "ENFORCED")
        ]
        for item in state.endpoints:
            assigned = compiler.assignment(item)
            rows.append(
                (
                    item.container,
                    item.network,
                    item.default.value,
                    ",".join(map(str, item.addresses)),
                    assigned.out or "open",
                    assigned.into or "open",
                    state.bridging.told(item),
                )
            )
        yield from aligned(rows)
    yield ""
    for policy in state.policies:
        yield f"policy {policy.name}{' (audit)' if policy.audit else ''}, {policy.where}"
    for item in state.endpoints:
        listed = admins.get(item.netns_id, ()) if item.inside else ()
        if listed:
            yield (
                f"{item.container}: has CAP_NET_ADMIN in its network namespace (process "
                f"{', '.join(map(str, listed[:3]))}), so it may take it away: what it sends and gets is then "
                "not judged until the node service, or mesokit policy apply, makes it again"
            )
    yield from outside
    if lacking:
        yield (
            f"NOT ENFORCED as it should be: the kernel lacks {lacking} elements; mesokit policy apply puts "
            "that right"
        )
    yield "always:"
    yield from (f"  {line}" for line in builtin())
    yield (
        "not covered: tap, dummy and loopback; one of them that asks for a policy is refused. What is judged "
        "in a container's own namespace (macvlan, ipvlan, vlan, host-device): raw frames of who has "
        "CAP_NET_RAW there, and false source addresses on the LAN; a vrf around it is refused"
    )


def as_json_difference(item: Difference) -> dict[str, Any]:
    def end(who: Endpoint | str) -> object:
        if isinstance(who, str):
            return who
        return {"network": who.network, "container": who.container, "ifname": who.ifname}

    return {
        "from": end(item.source),
        "to": end(item.target),
        "family": f"IPv{item.version}",
        "before": told(item.before, item.version),
        "after": told(item.after, item.version),
    }


def changes(found: Sequence[Difference], endpoints: Sequence[Endpoint]) -> Iterator[str]:
    """A line for each pair and what happens to it, both families in one where that is the same."""
    often = Counter(endpoint.container for endpoint in endpoints)

    def name(who: Endpoint | str) -> str:
        if isinstance(who, str):
            return who
        return f"{who.container} ({who.network})" if often[who.container] > 1 else who.container

    lines: dict[str, set[int]] = {}
    for item in found:
        was, now = (told(lanes, item.version) for lanes in (item.before, item.after))
        line = f"{name(item.source)} -> {name(item.target)}: {now}, was {was}"
        lines.setdefault(line, set()).add(item.version)
    families = {address.version for endpoint in endpoints for address in endpoint.addresses}
    for line, versions in lines.items():
        yield line if versions == families else f"{line} (IPv{min(versions)})"


def few(lines: Sequence[str]) -> Iterator[str]:
    """The first of many lines, and how many more there are."""
    yield from lines[:_FEW]
    if len(lines) > _FEW:
        yield f"and {len(lines) - _FEW} more: mesokit policy show"


def audited(state: State, host: Namespace) -> list[dict[str, Any]]:
    """What each auditing profile counted. CniError 999."""
    compiler = Compiler(state.policies, names=state.names)
    found: dict[str, dict[str, Any]] = {}
    for item in state.endpoints:
        assigned = compiler.assignment(item)
        for name, direction in ((assigned.out, Direction.EGRESS), (assigned.into, Direction.INGRESS)):
            if not name or not compiler.profiles[name].then:
                continue
            audits = [each.name for each in applying(state.policies, item, direction) if each.audit]
            entry = found.setdefault(
                name,
                {
                    "profile": name,
                    "direction": direction.value,
                    "containers": [],
                    "policies": ", ".join(audits),
                    "packets": _counted(host, name),
                },
            )
            entry["containers"].append(item.container)
    return list(found.values())


def _counted(host: Namespace, profile: str) -> int:
    total = 0
    for family, version in itertools.product(("inet", "bridge"), (4, 6)):
        try:
            text = library.run(host, f"list chain {family} mesokit {profile}_{version}", json=True)
        except library.ScriptError:
            continue
        for item in json.loads(text)["nftables"]:
            for expression in item.get("rule", {}).get("expr", []):
                if "counter" in expression:
                    total += int(expression["counter"]["packets"])
    return total
