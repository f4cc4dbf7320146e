"""Single rules of others, in whatever chain, that spoil what containers send and get: that drop all of a
bridge or a subnet of ours, take its packets out of connection tracking, or lead a published port elsewhere.

A rule that says more, such as `tcp dport 25 drop`, is somebody's wish; but not what leaves packets untracked
where policy refuses those. Tables are listed with `nft` where
others have base chains at the hooks that packets of containers pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import base_chains
from cni_plugins.kernel.nft.base_chains import FORWARD, OUTPUT, POSTROUTING, PREROUTING, BaseChain
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.spec.values import IpNetwork
from cni_plugins.view.attachments import Published
from cni_plugins.view.doctor.facts import Facts, Finding, Level, subnet_of
from cni_plugins.view.doctor.firewall import chains_of, table_text
from cni_plugins.view.doctor.policy import refusing_untracked

_HOOKS = frozenset((PREROUTING, FORWARD, POSTROUTING, OUTPUT))
_RULE = re.compile(
    r"^(?:(?:iifname|oifname) \"(?P<link>[^\"]+)\" |ip6? [sd]addr (?P<network>[0-9a-f.:/]+) )?"
    r"(?:counter (?:packets \d+ bytes \d+ )?)?"
    r"(?P<does>drop|reject\b.*|notrack|ct zone set \d+)$"
)
_NOTRACK = re.compile(r"\bnotrack$")
_LED = re.compile(
    r"\b(?P<protocol>tcp|udp) dport (?P<ports>\d+|\{[^}]*\})(?P<rest>.*)\b(?:dnat (?:ip6? )?to|redirect)\b"
)
_NARROWER = re.compile(r"\b(?:daddr|saddr|iifname|fib)\b")


def foreign_rules(facts: Facts) -> Iterator[Finding]:
    routed = facts.routed()
    if not routed:
        return
    links = {name for item in routed for name in (item.parent, item.host_interface) if name}
    subnets = {subnet_of(entry.address) for item in routed for entry in item.addresses}
    ports = {
        (port.protocol, port.host_port): (item.container_id, port) for item in routed for port in item.ports
    }
    with Nfnetlink(facts.host) as socket:
        chains = [
            chain for chain in base_chains.every(socket) if chain.hook in _HOOKS and chain.table != TABLE
        ]
    judged = refusing_untracked(facts) if chains else []
    tables = {(chain.family, chain.table): chain for chain in chains if chain.family != "bridge" or judged}
    for chain in tables.values():
        for name, rules in chains_of(table_text(chain, "--handle")).items():
            for line in rules:
                rule, _, handle = line.partition(" # handle ")
                found: list[Finding] = []
                if chain.family != "bridge":
                    found += _of_rule(chain, name, rule, links, subnets)
                    found += _of_ports(chain, name, rule, ports)
                if not found and judged and _NOTRACK.search(rule):
                    found.append(_untracked(chain, name, rule, handle, judged))
                yield from found


def _untracked(chain: BaseChain, name: str, rule: str, handle: str, judged: list[str]) -> Finding:
    place = f"{chain.family} {chain.table} {name}"
    more = f" and {len(judged) - 1} more" if len(judged) > 1 else ""
    return Finding(
        "foreign-rules",
        Level.WARN,
        f"a rule of others takes packets out of connection tracking, and policy refuses those to container "
        f"{judged[0]}{more}",
        f"table {chain.family} {chain.table}, chain {name}, handle {handle}: {rule}",
        "write untracked: both into a policy for them, so that its rules judge such packets; or nft delete "
        f"rule {place} handle {handle}",
    )


def _of_rule(
    chain: BaseChain, name: str, rule: str, links: set[str], subnets: set[IpNetwork]
) -> Iterator[Finding]:
    match = _RULE.match(rule)
    if match is None:
        return
    link, network, does = match["link"], match["network"], match["does"]
    tracked = does == "notrack" or does.startswith("ct zone")
    ours = link in links or (network is not None and _covers(network, subnets))
    if not ours and (link or network or not tracked):
        return  # a rule for all that drops is for the chain's own check
    where = link or network or "every packet"
    about = (
        f"a rule of others takes {where} out of connection tracking as it is: addresses are not masqueraded, "
        "ports do not answer"
        if tracked
        else f"a rule of others drops all of {where}"
    )
    place = f"{chain.family} {chain.table} {name}"
    yield Finding(
        "foreign-rules",
        Level.FAIL,
        about,
        f"table {chain.family} {chain.table}, chain {name}: {rule}",
        f"nft --handle list chain {place}  # then: nft delete rule {place} handle N",
    )


def _covers(text: str, subnets: set[IpNetwork]) -> bool:
    try:
        there = ip_network(text, strict=False)
    except ValueError:
        return False
    return any(
        there.version == one.version and there.prefixlen <= one.prefixlen and there.overlaps(one)
        for one in subnets
    )


def _of_ports(
    chain: BaseChain, name: str, rule: str, ports: dict[tuple[str, int], tuple[str, Published]]
) -> Iterator[Finding]:
    match = _LED.search(rule)
    if match is None or _NARROWER.search(rule[: match.start()] + match["rest"]):
        return
    for number in re.findall(r"\d+", match["ports"]):
        container, port = ports.get((match["protocol"], int(number)), ("", None))
        if port is not None:
            place = f"{chain.family} {chain.table} {name}"
            yield Finding(
                "foreign-rules",
                Level.FAIL,
                f"a rule of others leads port {port.host_port}/{port.protocol} elsewhere, and not to "
                f"container {container}, which publishes it",
                f"table {chain.family} {chain.table}, chain {name}: {rule}",
                f"nft --handle list chain {place}  # then: nft delete rule {place} handle N, or choose "
                "another hostPort",
            )


CHECKS = (foreign_rules,)
