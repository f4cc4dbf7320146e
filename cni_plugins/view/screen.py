"""Which attachments stand for sure, from one look at all: for `mesokit check`, which tells of the others.

A check goes step by step, each with its own questions to the kernel and objects of its own, and takes a
container a millisecond. Nearly always nothing is wrong. So what the host has is listed once, each container
is looked at once (kernel/sandboxes.py), and what its record says is compared as bytes and text. What is of a
kind of step that is not compared here, written in another way than we write it, or different from what the
kernel has, is left to the check (endpoint.py): this knows no problems and can only say that there are none.
`netns_tests/test_fault_lab.py` holds it against the check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from cni_plugins.kernel import addresses, bridges, forwarding, links, routes, sandboxes, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft import elements, nat, owner
from cni_plugins.kernel.nft.ports import PROTOCOLS
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.kernel.sandboxes import Sandbox
from cni_plugins.spec import files
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import IpInterface, JsonObject, Network, packed_cidr, packed_network, parse_cidr
from cni_plugins.store.records import Contents
from cni_plugins.store.reservations import Owner
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Node

_SECONDS = 30.0
#: Kinds of steps with nothing to check (a test holds this against their classes).
PASSIVE = frozenset(
    (
        "added-addresses",
        "added-host-routes",
        "added-routes",
        "advertised-routers",
        "bucket-change",
        "delegate",
        "delegate-file",
        "dns-file",
        "policy-change",
        "port-claims",
        "port-flags",
        "ports-change",
        "replaced-route",
        "vlan-gateway",
    )
)
#: What results that we write have; one with anything else is not ours to compare.
_OF_RESULT = frozenset(("cniVersion", "interfaces", "ips", "routes", "dns"))
_OF_ADDRESS = frozenset(("address", "gateway", "interface"))
_OF_ROUTE = frozenset(("dst", "gw", "mtu", "advmss"))


class Host:
    """What the host has, listed when it is first asked for."""

    def __init__(self, node: Node, host: Namespace) -> None:
        self.namespace = host
        self.links: Mapping[str, Link] = node.by_name
        self._addresses: set[tuple[int, str]] | None = None
        self._routes: set[tuple[bytes, int, int]] | None = None
        self._elements: dict[str, dict[bytes, str]] = {}
        self._counts = Counts()
        self._known: dict[object, bool] = {}
        self._socket: Nfnetlink | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def once(self, what: object, ask: Callable[[], bool]) -> bool:
        """The answer to a question that many attachments have."""
        if what not in self._known:
            self._known[what] = ask()
        return self._known[what]

    def forwards(self, version: int) -> bool:
        return self.once(("forwarding", version), lambda: forwarding.is_on(self.namespace, version))

    @property
    def nft(self) -> Nfnetlink:
        if self._socket is None:
            self._socket = Nfnetlink(self.namespace)
        return self._socket

    def has_addresses(self, index: int, wanted: Iterable[str]) -> bool:
        if self._addresses is None:
            with Netlink(self.namespace, after(_SECONDS)) as netlink:
                self._addresses = {(item.index, str(item.address)) for item in addresses.every(netlink)}
        return all((index, address) in self._addresses for address in wanted)

    def has_route(self, raw: bytes, index: int) -> bool:
        """A route to one address alone."""
        if self._routes is None:
            with Netlink(self.namespace, after(_SECONDS)) as netlink:
                ways = map(routes.way, routes.packets(netlink))
                self._routes = {(way[0], way[1], way[3]) for way in ways if way is not None}
        return (raw, 8 * len(raw), index) in self._routes

    def comment(self, name: str, key: bytes) -> str | None:
        """Of the element of a set of ours that has this key."""
        if name not in self._elements:
            listed = elements.listed(self.nft, NFPROTO_INET, name)
            self._elements[name] = {item.key: item.comment for item in listed}
        return self._elements[name].get(key)

    def has_chains(self, make: Callable[[IpInterface], Any], address: str) -> bool:
        """The rules of a section that masquerade and ports need, and the chain of an address' subnet."""
        return self.once(
            (make, packed_network(address)), lambda: self._has(make(parse_cidr(address)))
        ) and self.once(nat.SECTION.version, lambda: self._has(*nat.SECTION.chains))

    def _has(self, *chains: Any) -> bool:
        return not self._counts.harmed(
            self.nft, NFPROTO_INET, {chain.name: len(chain.rules) for chain in chains}
        )


class Looked:
    """One record with what its namespace has."""

    def __init__(self, contents: Contents, sandbox: Sandbox, host: Host) -> None:
        self.identity: Identity = contents.identity
        self.result: JsonObject = contents.result or {}
        self.sandbox = sandbox
        self.host = host
        self.comment = ""

    def interface(self, name: str, *, inside: bool) -> Mapping[str, Any] | None:
        """The result's entry."""
        for entry in self.result.get("interfaces", ()):
            if entry["name"] == name and bool(entry.get("sandbox")) == inside:
                found: Mapping[str, Any] = entry
                return found
        return None

    def owns(self, name: str, key: bytes) -> bool:
        if not self.comment:
            self.comment = owner.comment(self.identity)
        return self.host.comment(name, key) == self.comment


def standing(node: Node, listed: Iterable[Attachment], host: Namespace) -> set[Attachment]:
    """Those of `listed` whose steps all stand. What cannot be told is left out."""
    ready = [item for item in listed if node.state(item) is State.UP and _is_ours(item)]
    places = [(item.netns, item.ifname, item.netns_id) for item in ready]
    seen = sandboxes.look(places, host, after(_SECONDS))
    found = set()
    with closing(Host(node, host)) as there:
        for item, sandbox in zip(ready, seen, strict=True):
            if sandbox is not None and sandbox.link is not None and _stands(item, sandbox, there):
                found.add(item)
    return found


def _is_ours(item: Attachment) -> bool:
    return bool(item.netns) and len(item.netns_id) > 1 and item.complete


def _stands(item: Attachment, sandbox: Sandbox, host: Host) -> bool:
    try:
        return all(_record_stands(contents, sandbox, host) for contents in item.contents)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, CniError):
        return False  # what nobody of ours wrote, or the kernel refused: the check finds the words


def _record_stands(contents: Contents, sandbox: Sandbox, host: Host) -> bool:
    result = contents.result
    if result is None or not result.keys() <= _OF_RESULT:
        return False
    if tuple(contents.head["netnsID"]) != sandbox.identity:
        return False
    there = Looked(contents, sandbox, host)
    for line in contents.steps:
        kind = line["step"]
        if kind not in PASSIVE and not _KINDS[kind](line["args"], there):
            return False
    return True


def _reservation(args: JsonObject, there: Looked) -> bool:
    content = files.read(f"{args['directory']}/{args['address']}").decode("utf-8", "replace")
    return Owner(args["container_id"], args["ifname"]).holds(content)


def _bridge(args: JsonObject, there: Looked) -> bool:
    name = args["name"]
    link, entry = there.host.links[name], there.interface(name, inside=False)
    if link.kind != "bridge" or not link.up or (args["promisc"] and not link.flags & links.IFF_PROMISC):
        return False
    return entry is None or link.alias != bridges.ALIAS or str(entry.get("mac", "")).lower() in {"", link.mac}


def _veth(args: JsonObject, there: Looked) -> bool:
    inside, outside = there.sandbox.link, there.host.links[args["name"]]
    entry = there.interface(args["ifname"], inside=True)
    return (
        inside is not None
        and entry is not None
        and inside.name == args["ifname"]
        and inside.kind == outside.kind == "veth"
        and entry.get("mac", "").lower() in {"", inside.mac}
        and outside.mac == args["mac"]
        and outside.peer == inside.index
        and outside.up
        and args["mtu"] in {0, inside.mtu}
    )


def _bridge_port(args: JsonObject, there: Looked) -> bool:
    port, bridge = there.host.links[args["name"]], there.host.links[args["bridge"]]
    return (
        bridge.kind == "bridge"
        and port.mac == args["mac"]
        and port.master == bridge.index
        and not args["filtered"]
        and (not args["hairpin"] or port.hairpin)
        and (not args["isolated"] or port.isolated)
    )


def _gateway(args: JsonObject, there: Looked) -> bool:
    link = there.host.links[args["interface"]]
    wanted = tuple(args["addresses"])
    return link.up and there.host.once(
        (link.name, wanted), lambda: there.host.has_addresses(link.index, wanted)
    )


def _forwarding(args: JsonObject, there: Looked) -> bool:
    return all(there.host.forwards(version) for version in args["versions"])


def _localnet(args: JsonObject, there: Looked) -> bool:
    name = f"ipv4/conf/{args['interface']}/route_localnet"
    return there.host.once(name, lambda: sysctl.read(there.host.namespace, name) == "1")


def _host_routes(args: JsonObject, there: Looked) -> bool:
    index = there.host.links[args["name"]].index
    return all(there.host.has_route(packed_cidr(entry["address"])[0], index) for entry in args["ips"])


def _addresses(args: JsonObject, there: Looked) -> bool:
    link, result = there.sandbox.link, there.result
    if link is None or link.name != args["ifname"] or (args["up"] and not link.up):
        return False
    given = {(raw, length): flags for raw, length, flags in map(addresses.given, there.sandbox.addresses)}
    interfaces = result.get("interfaces", ())
    for entry in result.get("ips", ()):
        number = entry.get("interface")
        if not entry.keys() <= _OF_ADDRESS:
            return False
        if number is not None and number < len(interfaces):
            owned = interfaces[number]
            if owned["name"] != link.name or not owned.get("sandbox"):
                continue
        flags = given.get(packed_cidr(entry["address"]))
        if flags is None or flags & addresses.DADFAILED:
            return False
    return _has_routes(args, there)


def _has_routes(args: JsonObject, there: Looked) -> bool:
    wanted = [way for entry in args["ips"] for way in _inner(entry)] if args["by_gateway"] else []
    for route in there.result.get("routes", ()):
        if not route.keys() <= _OF_ROUTE:
            return False
        wanted.append((packed_network(route["dst"]), _gateway_of(route.get("gw"))))
    lengths = {length for (_, length), _ in wanted}
    listed = [way for way in map(routes.way, there.sandbox.routes_with(lengths)) if way is not None]
    return all(
        any(
            (raw, length) == network and (gateway is None or by is None or gateway == by)
            for raw, length, by, _ in listed
        )
        for network, gateway in wanted
    )


def _inner(entry: JsonObject) -> Iterator[tuple[Network, bytes | None]]:
    """As steps.addresses has them: the gateway by the link, and the subnet by the gateway."""
    gateway = _gateway_of(entry["gateway"])
    if gateway is not None:
        yield (gateway, 8 * len(gateway)), None
        subnet = packed_network(entry["address"])
        if subnet[1] < 8 * len(gateway):
            yield subnet, gateway


def _gateway_of(address: str | None) -> bytes | None:
    return packed_cidr(f"{address}/0")[0] if address else None


def _masquerade(args: JsonObject, there: Looked) -> bool:
    return args["backend"] == "nftables" and all(
        there.owns(_of_family("masquerade", address), packed_cidr(address)[0])
        and there.host.has_chains(nat.leave, address)
        for address in args["addresses"]
    )


def _ports(args: JsonObject, there: Looked) -> bool:
    wanted = args["wanted"]
    usual = args["keys"] is None and wanted["hide"] == "local"
    if not usual or any(wanted["conditions"]) or wanted["excluded"]:
        return False
    return all(_published(item, there) for item in wanted["forwards"])


def _published(item: JsonObject, there: Looked) -> bool:
    target = item["target"]
    key = elements.key(bytes((PROTOCOLS[item["protocol"]],)), elements.port(item["host_port"]))
    return (
        item["host_ip"] is None
        and there.owns(_of_family("port", target), key)
        and there.owns(_of_family("answer", target), packed_cidr(target)[0])
        and there.host.has_chains(nat.answer, target)
    )


def _of_family(name: str, address: str) -> str:
    return f"{name}{6 if ':' in address else 4}"


_KINDS: Mapping[str, Callable[[JsonObject, Looked], bool]] = {
    "addresses": _addresses,
    "bridge": _bridge,
    "bridge-port": _bridge_port,
    "forwarding": _forwarding,
    "gateway": _gateway,
    "host-routes": _host_routes,
    "localnet": _localnet,
    "masquerade": _masquerade,
    "ports": _ports,
    "reservation": _reservation,
    "veth": _veth,
}
