"""Other people's rules that drop what containers send or receive: Docker's FORWARD DROP, firewalld, the
operator's own firewall.

A base chain at the forward hook drops us if its policy or its last rule does, unless one of its rules (or a
chain that it leads to) names our bridge, our interfaces or our subnets and does not drop. Its text comes from
`nft`, and is asked for such chains alone.
"""

from __future__ import annotations

import fnmatch
import re
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_network

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import base_chains
from cni_plugins.kernel.nft.base_chains import FORWARD, BaseChain
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.view.doctor.facts import Facts, Finding, Level, subnet_of

_SECONDS = 10
_NAMES = re.compile(r'"([^"]+)"')
_NETWORKS = re.compile(r"\b[0-9a-f.:]+(?:/[0-9]+)")
_DROPS = re.compile(r"^(counter( packets \d+ bytes \d+)? )?(drop|reject\b.*)$")
_LETS = re.compile(r"\b(accept|jump|goto)\b")
_LEADS = re.compile(r"\b(?:jump|goto) ([^\s{}]+)")
_OF_FAMILY = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}


def foreign_forward_drop(facts: Facts) -> Iterator[Finding]:
    routed = facts.routed()
    if not routed:
        return
    versions = {6 if ":" in entry.ip else 4 for item in routed for entry in item.addresses}
    ours: dict[str, tuple[set[str], set[str]]] = {}  # bridge, or subnet: names of links, subnets
    for item in routed:
        for entry in item.addresses:
            subnet = str(subnet_of(entry.address))
            names, subnets = ours.setdefault(item.parent or subnet, (set(), set()))
            names.update(name for name in (item.parent, item.host_interface) if name)
            subnets.add(subnet)
    with Nfnetlink(facts.host) as socket:
        chains = [
            chain
            for chain in base_chains.every(socket)
            if chain.hook == FORWARD and chain.table != TABLE and chain.type == "filter"
        ]
        docker = base_chains.regular(socket, "ip", "DOCKER-USER")
    for chain in chains:
        concerned = versions.intersection(_OF_FAMILY.get(chain.family, ()))
        if not concerned:
            continue
        text = table_text(chain)
        rules = chains_of(text)
        own = rules.get(chain.name, [])
        last = bool(own) and bool(_DROPS.match(own[-1]))
        if not (chain.drops or last):
            continue
        left = [
            key
            for key, (names, subnets) in sorted(ours.items())
            if _concerned(key, concerned) and not _passes(chain.name, rules, names, subnets)
        ]
        if left:
            why = "policy drop" if chain.drops else f"last rule: {own[-1]}"
            yield Finding(
                "foreign-forward-drop",
                Level.FAIL,
                f"a firewall of others drops what containers of {', '.join(left)} send and receive",
                f"table {chain.family} {chain.table}, chain {chain.name} (forward): {why}, and none of its "
                f"rules lets {left[0]} pass",
                "; ".join(_remedy(chain, name, docker=docker) for name in left),
            )


def _concerned(key: str, versions: set[int]) -> bool:
    """Whether a chain of these families sees what has this name; a bridge may carry both."""
    return "/" not in key or ip_network(key).version in versions


def _remedy(chain: BaseChain, name: str, *, docker: bool) -> str:
    subnet = "/" in name
    if chain.table == "firewalld":
        what = "source" if subnet else "interface"
        return f"firewall-cmd --permanent --zone=trusted --add-{what}={name}; firewall-cmd --reload"
    if chain.family in {"ip", "ip6"} and chain.table == "filter":
        tool = "iptables" if chain.family == "ip" else "ip6tables"
        where = "DOCKER-USER" if docker and chain.family == "ip" else chain.name
        one, other = ("-s", "-d") if subnet else ("-i", "-o")
        return f"{tool} -I {where} {one} {name} -j ACCEPT; {tool} -I {where} {other} {name} -j ACCEPT"
    place = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    family = "ip6" if ":" in name else "ip"
    one, other = (f"{family} saddr", f"{family} daddr") if subnet else ("iifname", "oifname")
    return f"{place} {one} {name} accept; {place} {other} {name} accept"


def table_text(chain: BaseChain, *options: str) -> str:
    argv = ["nft", "--terse", "--stateless", *options, "list", "table", chain.family, chain.table]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def chains_of(text: str) -> dict[str, list[str]]:
    """The rules of each chain of a table, with their handles where those are listed."""
    found: dict[str, list[str]] = {}
    rules: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("chain ") and line.partition(" # handle ")[0].endswith("{"):
            rules = found.setdefault(line.split()[1], [])
        elif line == "}":
            rules = None
        elif rules is not None and line and not line.startswith("type "):
            rules.append(line)
    return found


def _passes(start: str, rules: Mapping[str, list[str]], names: set[str], subnets: set[str]) -> bool:
    """Whether a rule on the way from a chain lets pass what concerns links or subnets of ours."""
    seen, left = set(), [start]
    while left:
        chain = left.pop()
        if chain in seen:
            continue
        seen.add(chain)
        for rule in rules.get(chain, ()):
            plain = rule.removeprefix("counter ")
            if plain.startswith("accept"):
                return True
            if plain.startswith(("jump ", "goto ")):
                left += _LEADS.findall(plain)
            elif _LETS.search(rule) and _concerns(rule, names, subnets):
                return True
    return False


def _concerns(rule: str, names: set[str], subnets: set[str]) -> bool:
    patterns = _NAMES.findall(rule)
    if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns):
        return True
    for text in _NETWORKS.findall(rule):
        try:
            there = ip_network(text, strict=False)
        except ValueError:
            continue
        for subnet in subnets:
            ours = ip_network(subnet)
            if there.version == ours.version and there.overlaps(ours):
                return True
    return False


CHECKS = (foreign_forward_drop,)
