"""A profile's sets and chains are, byte for byte, what nft's compiler makes of the same in its language, and
what nft lists it takes back.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel.netlink.codec import attributes, every_attribute, string
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, SUBSYS_NFTABLES, Message, Nfnetlink
from cni_plugins.kernel.nft import library, policy, policy_rules
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.spec.namespace import Namespace

_GETRULE, _GETSET = 7, 10
_NO_OPERATION = b"byteorder"  # nft 1.0.6 swaps the bytes of one byte in front of an interval


@dataclass(frozen=True)
class Made:
    """A profile as the kernel's layer sees it."""

    name: str
    kind: str
    sets: frozenset[str]
    then: str = ""
    request: tuple[str, frozenset[str]] = ("", frozenset())
    answer: tuple[str, frozenset[str]] = ("", frozenset())


AUDITED = "in_00000000000a"
IN, OUT, ALL = "in_00000000000d", "out_00000000000e", frozenset("pahircn")
PROFILES = [
    Made("in_000000000001", "in", frozenset("pahircn")),
    Made("out_000000000002", "out", frozenset("pahircn")),
    Made("host_000000000003", "host", frozenset("wt")),
    Made("from_000000000004", "from", frozenset("wt")),
    Made("in_000000000005", "in", frozenset("c"), "-"),
    Made("out_000000000006", "out", frozenset("pi"), "-"),
    Made("in_000000000007", "in", frozenset("h"), AUDITED),
    Made("in_000000000008", "in", frozenset()),
    Made("host_000000000009", "host", frozenset("wts")),
    Made("send_00000000000b", "send", frozenset(), request=(OUT, ALL), answer=(IN, frozenset("pa"))),
    Made("take_00000000000c", "take", frozenset(), request=(IN, ALL)),
]
#: What others refer to.
BESIDE = [Made(AUDITED, "in", frozenset("p")), Made(IN, "in", ALL), Made(OUT, "out", ALL)]


def text_of_sets(profile: Made, version: int, family: str) -> list[str]:
    """In nft's language."""
    address = f"ipv{version}_addr"
    kind = "icmp_type" if version == 4 else "icmpv6_type"
    types = {
        "p": f"type {address} . inet_proto . inet_service ;",
        "a": f"type {address} . inet_proto ;",
        "h": f"type {address} ;",
        "i": f"type {address} . {kind} ;",
        "r": f"type {address} . inet_proto . inet_service ; flags interval ;",
        "c": f"type {address} . inet_proto . inet_service ; flags interval ;",
        "n": f"type {address} . {kind} ; flags interval ;",
        "w": "type inet_proto . inet_service ; flags interval ;",
        "s": "type inet_proto . inet_service ; flags interval ;",
        "t": f"type {kind} ;",
    }
    sets = sorted(profile.sets)
    return [f"add set {family} {TABLE} {profile.name}_{each}{version} {{ {types[each]} }}" for each in sets]


def text_of_rules(profile: Made, version: int) -> list[str]:
    ip, v, name = "ip" if version == 4 else "ip6", version, profile.name
    icmp = "icmp" if version == 4 else "icmpv6"
    if profile.kind in ("host", "from"):
        end = "return" if profile.kind == "host" else "goto policy_deny"
        rules = [
            f"meta l4proto . th dport @{name}_w{v} {end}",
            f"{icmp} type @{name}_t{v} {end}",
        ]
        if "s" in profile.sets:
            rules.append(f"ct state untracked meta l4proto . th sport @{name}_s{v} {end}")
        return [*rules, "goto policy_deny"] if profile.kind == "host" else rules
    if profile.kind in ("send", "take"):
        return text_of_untracked(profile, version)
    into = profile.kind == "in"
    then = "accept" if into else f"goto policy_to{v}"
    missed = ["goto policy_deny"]
    if profile.then:
        missed = ['limit rate 50/second burst 100 packets log prefix "mesokit audit " group 5', "counter"]
        then = then if profile.then == "-" else f"goto {profile.then}_{v}"
        missed.append(then)
    end = f"ct {'original' if into else 'reply'} {ip} saddr"
    by_set: dict[str, list[str]] = {
        "a": [f"{end} . meta l4proto @{name}_a{v}"],
        "h": [f"{end} @{name}_h{v}"],
    }
    for way in ("original", "reply"):
        peer = "saddr" if into == (way == "original") else "daddr"
        port = "dport" if way == "original" else "sport"
        unknown = f"{ip} {peer} != @policy_known{v} "
        keys = {
            "p": f"{ip} {peer} . meta l4proto . th {port} @{name}_p{v}",
            "i": f"{ip} {peer} . {icmp} type @{name}_i{v}",
            "r": f"{ip} {peer} . meta l4proto . th {port} @{name}_r{v}",
            "c": f"{unknown}{ip} {peer} . meta l4proto . th {port} @{name}_c{v}",
            "n": f"{unknown}{ip} {peer} . {icmp} type @{name}_n{v}",
        }
        for each, key in keys.items():
            by_set.setdefault(each, []).append(f"ct direction {way} {key}")
    return [f"{key} {then}" for each in "phaircn" if each in profile.sets for key in by_set[each]] + missed


def text_of_untracked(profile: Made, version: int) -> list[str]:
    ip, v = "ip" if version == 4 else "ip6", version
    icmp = "icmp" if version == 4 else "icmpv6"
    peer = f"{ip} {'daddr' if profile.kind == 'send' else 'saddr'}"
    end = "accept" if profile.kind == "take" else f"goto policy_taken{v}"
    unknown = f"{peer} != @policy_known{v} "
    rules = []
    for (name, sets), port in ((profile.request, "dport"), (profile.answer, "sport")):
        keys = {
            "p": f"{peer} . meta l4proto . th {port}",
            "h": peer,
            "a": f"{peer} . meta l4proto",
            "i": f"{peer} . {icmp} type",
            "r": f"{peer} . meta l4proto . th {port}",
            "c": f"{unknown}{peer} . meta l4proto . th {port}",
            "n": f"{unknown}{peer} . {icmp} type",
        }
        rules += [f"{keys[each]} @{name}_{each}{v} {end}" for each in "phaircn" if each in sets]
    return [*rules, "goto policy_deny_untracked"]


def write_as_text(host: Namespace, profile: Made, family: str) -> None:
    lines = [line for version in (4, 6) for line in text_of_sets(profile, version, family)]
    for version in (4, 6):
        chain = f"{family} {TABLE} {profile.name}_{version}"
        lines.append(f"add chain {chain}")
        lines += [f"add rule {chain} {rule}" for rule in text_of_rules(profile, version)]
    library.run(host, "\n".join(lines) + "\n")


def kernel_has(
    socket: Nfnetlink, profile: Made, family: int = NFPROTO_INET
) -> tuple[dict[str, object], dict[str, object]]:
    """The sets with their attributes, and the chains with their rules' expressions."""
    sets: dict[str, object] = {}
    chains: dict[str, list[object]] = {}
    table = string(1, TABLE)
    for body in socket.dump(Message(SUBSYS_NFTABLES, _GETSET, 0, family, table)):
        found = attributes(body)
        name = found[2].rstrip(b"\0").decode()
        if name.startswith(profile.name):
            # flags, type and length of the key, its fields, nft's own note
            sets[name] = [found.get(each, b"") for each in (3, 4, 5, 9, 13)]
    for body in socket.dump(Message(SUBSYS_NFTABLES, _GETRULE, 0, family, table)):
        found = attributes(body)
        name = found[2].rstrip(b"\0").decode()
        if name.startswith(profile.name):
            listed = [attributes(each) for _, each in every_attribute(found[4])]
            rule = [(each[1], each.get(2)) for each in listed if not each[1].startswith(_NO_OPERATION)]
            chains.setdefault(name, []).append(rule)
    return sets, dict(chains)


def assert_is_what_the_compiler_makes(profile: Made, *, bridged: bool) -> None:
    """In the table of IP, or of bridges."""
    families = policy.IP_AND_BRIDGE if bridged else policy.IP
    fixed = [policy_rules.SECTION, *([policy_rules.BRIDGED] if bridged else [])]
    found = []
    for by_compiler in (True, False):
        host = new_namespace()
        with Nfnetlink(host) as socket:
            policy.ensure(socket, fixed)
            policy.apply(socket, new=BESIDE, fill=(), remove=(), add=(), families=families)
            if by_compiler:
                write_as_text(host, profile, "bridge" if bridged else "inet")
            else:
                policy.apply(socket, new=[profile], fill=(), remove=(), add=(), families=families)
            found.append(kernel_has(socket, profile, families[-1]))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2 * len(profile.sets)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.kind}-{profile.then}")
def test_a_profile_is_what_the_compiler_makes_of_it(profile: Made) -> None:
    assert_is_what_the_compiler_makes(profile, bridged=False)


def test_what_nft_lists_of_profiles_it_takes_back() -> None:
    host, other = new_namespace(), new_namespace()
    with Nfnetlink(host) as socket:
        policy.ensure(socket, [policy_rules.SECTION, policy_rules.SOURCES, policy_rules.PORTS_UNTAGGED])
        policy.apply(socket, new=[*PROFILES, *BESIDE], fill=(), remove=(), add=())
    listed = library.run(host, "list ruleset\n")
    library.run(other, listed)
    assert library.run(other, "list ruleset\n") == listed
    assert "@in_000000000001_c4 accept" in listed


def test_a_profile_that_was_harmed_is_whole_again_with_its_elements() -> None:
    host = new_namespace()
    with Nfnetlink(host) as socket:
        policy.ensure(socket, [policy_rules.SECTION])
        policy.apply(socket, new=PROFILES[:1], fill=(), remove=(), add=())
        whole = kernel_has(socket, PROFILES[0])
        name = f"inet {TABLE} in_000000000001"
        library.run(
            host, f"add element {name}_h4 {{ 10.0.0.1 }}; flush chain {name}_4; add rule {name}_6 accept"
        )
        assert kernel_has(socket, PROFILES[0]) != whole
        policy.apply(socket, new=PROFILES[:1], fill=(), remove=(), add=())
        assert kernel_has(socket, PROFILES[0]) == whole
    assert "10.0.0.1" in library.run(host, f"list set {name}_h4\n")


def test_profiles_go_whole() -> None:
    host = new_namespace()
    with Nfnetlink(host) as socket:
        policy.ensure(socket, [policy_rules.SECTION])
        before = library.run(host, "list ruleset\n")
        policy.apply(socket, new=[*PROFILES, *BESIDE], fill=(), remove=(), add=())
        policy.discard(socket, {profile.name for profile in (*PROFILES, *BESIDE)})
        assert library.run(host, "list ruleset\n") == before
