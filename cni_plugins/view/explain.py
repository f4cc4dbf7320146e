"""Does a flow pass, and which rule says so: `mesokit policy explain`. The kernel's own sets are asked."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache, partial
from typing import Any

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.kernel.nft.policy_rules import AGENT_PORT, NEIGHBOUR_TYPES
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
from cni_plugins.steps.policy_file import State
from cni_plugins.steps.policy_inside import Inside
from cni_plugins.view.beside import Untracked, Way
from cni_plugins.view.flow_ends import End, ExplainError, Kind, Known

_SECONDS = 10.0
#: Of the host: protocols, and ports or types of ICMP.
_ALWAYS = frozenset(((6, AGENT_PORT), (17, 67), (17, 547), *((58, kind) for kind in NEIGHBOUR_TYPES)))


def explain_flow(
    state: State, host: Namespace, source: str, target: str, traffic: str
) -> list[dict[str, Any]]:
    """An answer for each pair of addresses of one family: source, target, sourceAddress, targetAddress,
    allowed, refusedBy, audited, kernel (what was looked up), reasons and others (rules that are not ours); of
    the parts of a network that are treated alike the first. ExplainError, CniError.
    """
    at = Inside(host, after(_SECONDS))
    known = Known(state.endpoints, state.policies, at.node())
    ends = known.end(source), known.end(target)
    compiler = Compiler(state.policies, names=state.names)
    for item in state.endpoints:
        compiler.assignment(item)
    answers: list[dict[str, Any]] = []
    with ExitStack() as stack:
        socket = stack.enter_context(Nfnetlink(host))
        routed, between = _sets(socket), _sets(socket, kernel.BRIDGE)

        @cache
        def inner(endpoint: Endpoint) -> Nfnetlink:
            namespace = stack.enter_context(at.opened(endpoint.netns_id, (endpoint,)))
            if namespace is None:
                raise ExplainError(f"the network namespace of container {endpoint.container} is gone")
            return stack.enter_context(Nfnetlink(namespace))

        @cache
        def place(endpoint: Endpoint) -> Place:
            return Place(_sets(inner(endpoint)), "inside_", interface(endpoint.ifname))

        for a, b in _pairs(*ends):
            packet = _packet(a, b, traffic)
            if packet is None:
                continue
            there = {"source": _of(state, a), "target": _of(state, b)}
            inside = {end: place(each) for end, each in there.items() if each is not None and each.inside}
            way = Way(socket, inner, there["source"], there["target"], state.bridging)
            if Kind.HOST in (ends[0].kind, ends[1].kind):
                outward = ends[1].kind is Kind.HOST
                mine, end = (there["source"], "source") if outward else (there["target"], "target")
                if mine is None:
                    continue
                key = (a if outward else b).packed
                found = explaining.judge_host(
                    inside.get(end) or Place(routed, key=key), packet, _ALWAYS, outward=outward
                )
                why = explaining.host_reasons(state.policies, mine, packet, outward=outward)
                others = way.beside(packet, found, None, host="target" if outward else "source")
            else:
                sets = between if way.between_ports else routed
                found = explaining.judge(sets, compiler.profiles, packet, inside)
                why = explaining.reasons(state.policies, there["source"], there["target"], packet)
                untracked = partial(explaining.judge_untracked, sets, compiler.profiles)
                others = way.beside(packet, found, Untracked(untracked, inside))
            answers.append(
                {
                    "source": ends[0].shown(a),
                    "target": ends[1].shown(b),
                    "sourceAddress": "" if ends[0].kind is Kind.HOST else str(a),
                    "targetAddress": "" if ends[1].kind is Kind.HOST else str(b),
                    "allowed": found.allowed,
                    "refusedBy": found.end,
                    "audited": found.audited,
                    "kernel": found.steps,
                    "reasons": [
                        {"end": item.end, "says": item.verdict, "policy": item.policy, "where": item.where}
                        for item in why
                    ],
                    "others": others,
                }
            )
    if not answers:
        raise ExplainError(_unanswered(state, ends, (source, target), traffic))
    return _alike(answers, ends)


def _unanswered(state: State, ends: tuple[End, End], said: tuple[str, str], traffic: str) -> str:
    one, other = said
    if Kind.HOST in (ends[0].kind, ends[1].kind):
        apart = other if ends[0].kind is Kind.HOST else one
        if not any(_of(state, address) for end in ends for address in end.addresses):
            return f"{apart} is no container under policy: of the host policy judges what is from or to those"
    return f"{one} and {other} have no family in common for {traffic}"


def _alike(answers: list[dict[str, Any]], ends: tuple[End, End]) -> list[dict[str, Any]]:
    """Of answers for parts of a network those that say something new."""
    if Kind.NETWORK not in (ends[0].kind, ends[1].kind):
        return answers
    found: dict[str, dict[str, Any]] = {}
    for answer in answers:
        container = [
            answer[key]
            for end, key in zip(ends, ("source", "target"), strict=True)
            if end.kind is Kind.ADDRESS
        ]
        said = (
            *(container, answer["allowed"], answer["refusedBy"], answer["audited"], answer["reasons"]),
            answer["others"],
        )
        found.setdefault(repr(said), answer)
    return list(found.values())


def _sets(socket: Nfnetlink, prefix: str = "") -> Sets:
    """A namespace's sets, each read once."""

    @cache
    def read(name: str) -> tuple[Entry, ...]:
        return tuple(Entry(name, *entry) for entry in kernel.read(socket, prefix + name))

    return read


def _of(state: State, address: Ip) -> Endpoint | None:
    return next((item for item in state.endpoints if address in item.addresses), None)


def _pairs(source: End, target: End) -> list[tuple[Ip, Ip]]:
    return [(a, b) for a in source.addresses for b in target.addresses if a.version == b.version]


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
