"""Does a flow pass, and which rule says so: `mesokit policy explain`. The kernel's own sets are asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from ipaddress import ip_address
from typing import Any

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.policy import explain as explaining
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.explain import Packet, Place, Sets
from cni_plugins.policy.located import Node
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.profile import Entry, interface
from cni_plugins.policy.read import traffic_of
from cni_plugins.policy.traffic import NUMBERS
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip
from cni_plugins.steps.policy_bridged import Bridging
from cni_plugins.steps.policy_file import State
from cni_plugins.steps.policy_inside import Inside

_SECONDS = 10.0


class ExplainError(ValueError):
    """What was asked cannot be answered; the text is a sentence."""


def explain_flow(
    state: State, host: Namespace, source: str, target: str, traffic: str
) -> list[dict[str, Any]]:
    """An answer for each pair of addresses of one family: source, target, allowed, refusedBy, audited,
    kernel (what was looked up) and reasons. ExplainError, CniError.
    """
    pairs = _pairs(state, source, target)
    compiler = Compiler(state.policies)
    compiler.compile(state.endpoints)
    answers: list[dict[str, Any]] = []
    with ExitStack() as stack:
        socket = stack.enter_context(Nfnetlink(host))
        routed, between = _sets(socket), _sets(socket, kernel.BRIDGE)
        at = Inside(host, after(_SECONDS))

        @cache
        def place(endpoint: Endpoint) -> Place:
            namespace = stack.enter_context(at.opened(endpoint.netns_id, (endpoint,)))
            if namespace is None:
                raise ExplainError(f"the network namespace of container {endpoint.container} is gone")
            inner = _sets(stack.enter_context(Nfnetlink(namespace)))
            return Place(inner, "inside_", interface(endpoint.ifname))

        for a, b in pairs:
            packet = _packet(a, b, traffic)
            if packet is None:
                continue
            ends = {"source": _of(state, a), "target": _of(state, b)}
            inside = {end: place(each) for end, each in ends.items() if each is not None and each.inside}
            sets = between if _between_ports(state, tuple(ends.values())) else routed
            found = explaining.judge(sets, compiler.profiles, packet, inside)
            why = explaining.reasons(state.policies, _of(state, a), _of(state, b), packet)
            answers.append(
                {
                    "source": str(a),
                    "target": str(b),
                    "allowed": found.allowed,
                    "refusedBy": found.end,
                    "audited": found.audited,
                    "kernel": found.steps,
                    "reasons": [
                        {"end": item.end, "says": item.verdict, "policy": item.policy, "where": item.where}
                        for item in why
                    ],
                }
            )
    if not answers:
        raise ExplainError(f"{source} and {target} have no family in common for {traffic}")
    return answers


def _sets(socket: Nfnetlink, prefix: str = "") -> Sets:
    """A namespace's sets, each read once."""

    @cache
    def read(name: str) -> tuple[Entry, ...]:
        return tuple(Entry(name, *entry) for entry in kernel.read(socket, prefix + name))

    return read


def _between_ports(state: State, ends: Sequence[Endpoint | None]) -> bool:
    """Whether the bridge family judges what goes between both ends."""
    if state.bridging is not Bridging.CONNTRACK:
        return False
    return (
        all(end is not None and end.bridged for end in ends) and len({end and end.link for end in ends}) == 1
    )


def _of(state: State, address: Ip) -> Endpoint | None:
    return next((item for item in state.endpoints if address in item.addresses), None)


def _addresses(state: State, text: str) -> tuple[Ip, ...]:
    try:
        return (ip_address(text),)
    except ValueError:
        pass
    exact = [item for item in state.endpoints if item.container == text]
    found = exact or [item for item in state.endpoints if item.container.startswith(text)]
    if len({item.container for item in found}) > 1:
        names = ", ".join(sorted({item.container for item in found}))
        raise ExplainError(f"{text!r} may be each of {names}")
    if not found:
        raise ExplainError(f"{text!r} is no address, and no container under policy begins so")
    return tuple(address for item in found for address in item.addresses)


def _pairs(state: State, source: str, target: str) -> list[tuple[Ip, Ip]]:
    return [
        (a, b) for a in _addresses(state, source) for b in _addresses(state, target) if a.version == b.version
    ]


def _packet(source: Ip, target: Ip, text: str) -> Packet | None:
    """None when the traffic is of the other family."""
    try:
        listed = traffic_of(Node(text, 1))
    except ValueError as error:
        raise ExplainError(str(error)) from None
    numbers = NUMBERS[source.version]
    for item in listed:
        if item.low != item.high and item.protocol not in ("icmp", "icmpv4", "icmpv6"):
            raise ExplainError(f"{text!r} is more than one port: name one, such as tcp/80")
        if item.protocol in ("tcp", "udp", "sctp"):
            number = numbers[("tcp", "udp", "sctp").index(item.protocol)]
            return Packet(source, target, number, item.low)
        if item.protocol in ("icmp", f"icmpv{source.version}"):
            echo = 8 if source.version == 4 else 128
            return Packet(source, target, numbers[3], item.low if item.low == item.high else echo)
    return None
