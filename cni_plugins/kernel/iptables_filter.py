"""The reference firewall's chains in iptables' filter table, to the byte: either side's DEL takes down what
the other's ADD made.

    FORWARD                 -> CNI-ISOLATION-STAGE-1 (with an ingressPolicy), -> CNI-FORWARD, both at the head
    CNI-FORWARD             -> the administrator's chain; what a container sends, and answers to it: accept
    CNI-ISOLATION-STAGE-1/2 what goes from one guarded bridge to another: drop

The frame of chains stays, since the administrator's rules are in it. Callers hold the iptables lock.
"""

from collections.abc import Sequence

from cni_plugins.kernel import iptables
from cni_plugins.kernel.iptables import Tool
from cni_plugins.kernel.netlink.codec import attributes
from cni_plugins.kernel.netlink.netfilter import NFPROTO_IPV4, NFPROTO_IPV6, Nfnetlink
from cni_plugins.kernel.nft import elements, xtables
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

TABLE = "filter"
FORWARD, STAGE1, STAGE2 = "CNI-FORWARD", "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"
_RULES = '-m comment --comment "CNI firewall plugin rules"'
_ADMIN = '-m comment --comment "CNI firewall plugin admin overrides"'
_ISOLATION = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge)"'
_CLOSED = '-m comment --comment "CNI firewall plugin rules (ingressPolicy: isolated)"'
_CHAIN_POLICY = 5  # NFTA_CHAIN_POLICY, linux/netfilter/nf_tables.h
_DROP = (0).to_bytes(4, "big")


def tool(host: Namespace, version: int, deadline: Deadline) -> Tool:
    return Tool(host, version, deadline, TABLE)


def installed(version: int) -> bool:
    """Whether iptables of a family is there."""
    name = iptables.FAMILIES[version]
    return all(iptables.find(f"{name}-{part}") is not None for part in ("save", "restore"))


def _frame(saved: Sequence[str], *chains: str) -> list[str]:
    return [
        f":{chain} - [0:0]" for chain in chains if not any(line.startswith(f":{chain} ") for line in saved)
    ]


def _rules_of(ip: Ip) -> tuple[str, str]:
    address = f"{ip}/{ip.max_prefixlen}"
    return (
        f"{FORWARD} -d {address} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"{FORWARD} -s {address} -j ACCEPT",
    )


def admit(tool: Tool, addresses: Sequence[Ip], admin_chain: str) -> None:
    """Accept what `addresses` send, and the answers. CniError 11 or 999."""
    saved = tool.save()
    lines = _frame(saved, FORWARD, admin_chain)
    if f"-A FORWARD {_RULES} -j {FORWARD}" not in saved:
        lines.append(f"-I FORWARD 1 {_RULES} -j {FORWARD}")
    if f"-A {FORWARD} {_ADMIN} -j {admin_chain}" not in saved:
        lines.append(f"-I {FORWARD} 1 {_ADMIN} -j {admin_chain}")
    lines += [f"-A {rule}" for ip in addresses for rule in _rules_of(ip) if f"-A {rule}" not in saved]
    if lines:
        tool.restore(lines)


def withdraw(tool: Tool, addresses: Sequence[Ip]) -> str:
    """Undo `admit` for `addresses`; idempotent. What could not be removed, as a sentence, "" for nothing.
    CniError 11 or 999.
    """
    wanted = [f"-A {rule}" for ip in addresses for rule in _rules_of(ip)]
    packed = {ip.packed for ip in addresses}
    return iptables.remove(
        tool,
        FORWARD,
        lambda saved: ["-D" + line[2:] for line in saved if line in wanted],
        lambda family: xtables.remove_about(tool.host, family, FORWARD, packed, TABLE),
    )


def admitted(tool: Tool, addresses: Sequence[Ip]) -> bool:
    """Whether `addresses` are accepted, and FORWARD leads to where they are."""
    saved = tool.save()
    return f"-A FORWARD {_RULES} -j {FORWARD}" in saved and all(
        f"-A {rule}" in saved for ip in addresses for rule in _rules_of(ip)
    )


def _fence_rules(interface: str, *, closed: bool) -> list[str]:
    rules = [
        f"{STAGE1} -i {interface} ! -o {interface} {_ISOLATION} -j {STAGE2}",
        f"{STAGE2} -o {interface} {_ISOLATION} -j DROP",
    ]
    return [f"{STAGE1} -i {interface} -o {interface} {_CLOSED} -j DROP", *rules] if closed else rules


def fence(tool: Tool, interface: str, *, closed: bool) -> None:
    """Drop what goes from `interface` to another fenced one, with `closed` to itself too. CniError."""
    saved = tool.save()
    lines = _frame(saved, STAGE1, STAGE2)
    if f"-A FORWARD {_ISOLATION} -j {STAGE1}" not in saved:
        lines.append(f"-I FORWARD 1 {_ISOLATION} -j {STAGE1}")
    for rule in _fence_rules(interface, closed=closed):
        if f"-A {rule}" not in saved:
            chain, _, rest = rule.partition(" ")
            lines.append(f"-I {chain} 1 {rest}")
    for chain in (STAGE1, STAGE2):
        if f"-A {chain} {_ISOLATION} -j RETURN" not in saved:
            lines.append(f"-A {chain} {_ISOLATION} -j RETURN")
    if lines:
        tool.restore(lines)


def unfence(tool: Tool, interface: str, *, closed: bool, fenced_still: bool) -> str:
    """Undo `fence`; idempotent; with `fenced_still` only what `closed` adds to it. What could not be removed,
    as a sentence, "" for nothing. CniError 11, 999.
    """
    rules = _fence_rules(interface, closed=closed)
    wanted = [f"-A {rule}" for rule in (rules[:1] if fenced_still else rules)]
    names = {interface.encode()}

    def by_netlink(family: int) -> None:
        for chain in () if fenced_still else (STAGE1, STAGE2):
            xtables.remove_about(tool.host, family, chain, names, TABLE)

    return iptables.remove(
        tool, STAGE1, lambda saved: ["-D" + line[2:] for line in saved if line in wanted], by_netlink
    )


def fenced(tool: Tool, interface: str, *, closed: bool) -> bool:
    saved = tool.save()
    return f"-A FORWARD {_ISOLATION} -j {STAGE1}" in saved and all(
        f"-A {rule}" in saved for rule in _fence_rules(interface, closed=closed)
    )


def drops_forwarded(host: Namespace, version: int) -> bool:
    """Whether iptables' FORWARD chain drops what none of its rules accepts, as Docker sets it."""
    family = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}[version]
    with Nfnetlink(host) as socket:
        (answer,) = socket.request([elements.chain_message(family, TABLE, "FORWARD")])
    return bool(answer.bodies) and attributes(answer.bodies[0]).get(_CHAIN_POLICY) == _DROP
