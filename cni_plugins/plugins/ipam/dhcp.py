"""dhcp: addresses leased from DHCP servers of the network that the interface is on.

The interface is made and brought up first; then the plugin asks on it, inside the container's namespace, and
probes the address (ARP) before it is used. A lease has to be renewed, so one process of the node looks after
all of them: the node service does, and without it `mesokit dhcp` (or `dhcp daemon`, as the reference plugin
is started). Leases are files below /var/lib/mesokit/leases: a restart or an upgrade of that process forgets
none. DEL gives the lease back, whether that process runs or not. When a lease ends because no server renews
it, the address is taken from the interface and the daemon's log says so; it goes on asking.
On an ipvlan all containers have one MAC address: the server has to tell them by their identifier (option 61).

With `families` the attachment has an IPv6 address too, or alone (DHCPv6, IA_NA with rapid commit where the
server has it): probed like the other, declined when somebody has it, with the name servers and search domains
of the answer. DHCPv6 gives a single address (/128) and no routes. With `ra` the interface does what any host
does: the kernel takes a default route and addresses from router advertisements, for as long as the container
lives, and where routers say so (M, O) DHCPv6 is asked for an address or for name servers. The result has all
of them, with the routers' own name servers and search domains; ADD waits until an address and a route are
there (20 s at most). To a server a container is a DUID made of
its id (or `duid`), and its interface an IAID made of its names, so one that is attached again gets the
address it had. `provide`, `request`, `broadcast` and `priority` are of IPv4. A prefix for
a network (IA_PD) is host-local's to ask for: its `prefixDelegation`; a key here that seems to ask for one
(`iaPd`, …) is refused.

    {"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth0",
     "ipam": {"type": "dhcp", "provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}],
              "request": [{"option": "routers"}, {"option": "42"}], "priority": 200,
              "families": ["ipv4", "ipv6"]}}
"""

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.dhcp import client, link, options, protocol
from cni_plugins.dhcp.lease import Lease, Place, Wish
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet import Option
from cni_plugins.dhcp.store import Store
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.plugins.ipam import dhcp_ipv6, router
from cni_plugins.plugins.ipam.dhcp_ipv6 import Asking
from cni_plugins.plugins.ipam.prefix_keys import DUID
from cni_plugins.plugins.ipam.router import Listener
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import (
    ABSOLUTE_PATH,
    BOOL,
    TEXT,
    integer,
    list_of,
    nested,
    one_of,
    option,
    shown,
)
from cni_plugins.spec.config import (
    Kind as KeyKind,
)
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.result import Dns, Result
from cni_plugins.spec.values import fold
from cni_plugins.steps import dhcp_lease
from cni_plugins.steps.context import Context

_SECONDS = 20.0
_FOR_THE_REST = 4.0  # of a call's time: what comes after the address, and taking back
_LONGEST_CLIENT_ID = 254
_LONGEST_VALUE = 255
_FAMILIES = {"ipv4": 4, "ipv6": 6}
#: What somebody might call a wish for a prefix, in small letters and without punctuation.
_PREFIX_KEYS = frozenset(
    (
        *("prefix", "prefixes", "prefixdelegation", "delegatedprefix", "requestprefix", "prefixhint"),
        *("prefixlength", "prefixlen", "iapd", "pd", "dhcppd", "dhcpv6pd"),
    )
)
_SHARES_MAC = frozenset(("ipvlan",))
#: Asked for beside the two that the reference asks for: what we make use of.
_DEFAULTS = (
    Option.SUBNET_MASK,
    Option.CLASSLESS_ROUTES,  # before 3 and 33, RFC 3442
    Option.ROUTERS,
    Option.STATIC_ROUTES,
    Option.NAME_SERVERS,
    Option.DOMAIN,
    Option.SEARCH,
    Option.MTU,
    Option.T1,
    Option.T2,
)


def _option_number(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("not the name or number of an option")
    return options.number_of(value)


OPTION = KeyKind("name or number of an option", _option_number)


@dataclass(frozen=True, slots=True)
class Provided:
    number: int = option("option", OPTION, 0, "`host-name`, `user-class`, …, or a number from 1 to 254")
    value: str = option("value", TEXT, "", "what to say")
    from_arg: str = option("fromArg", TEXT, "", "say what CNI_ARGS has under this name, if it has it")


@dataclass(frozen=True, slots=True)
class Requested:
    number: int = option("option", OPTION, 0, "name or number of an option to ask for")
    skip_default: bool = option(
        "skipDefault", BOOL, False, "ask for the options that are listed and for no others"
    )


@dataclass(frozen=True, slots=True)
class DhcpConfig:
    daemon_socket: str = option(
        "daemonSocketPath",
        ABSOLUTE_PATH,
        "",
        "where the lease daemon listens; default that of the node service, `/run/mesokit/dhcp.sock`",
    )
    provide: tuple[Provided, ...] = option(
        "provide", list_of(nested(Provided)), (), "options that the client gives: `{option, value|fromArg}`"
    )
    request: tuple[Requested, ...] = option(
        "request", list_of(nested(Requested)), (), "options to ask for beside the default ones"
    )
    priority: int | None = option("priority", integer(0, 2**32 - 1), None, "metric of the routes")
    broadcast: bool = option(
        "broadcast", BOOL, False, "servers must answer by broadcast; an ipvlan always asks that"
    )
    families: tuple[str, ...] = option(
        "families", list_of(one_of(*_FAMILIES)), ("ipv4",), "what to lease addresses of"
    )
    duid: bytes = option(
        "duid", DUID, b"", "who the container is to DHCPv6 servers; default made of the container's id"
    )

    ra: bool = option(
        "ra", BOOL, False, "take routes, and addresses where routers say so, from router advertisements"
    )

    @property
    def versions(self) -> tuple[int, ...]:
        """4 and 6 as `families` has them."""
        return tuple(version for name, version in _FAMILIES.items() if name in self.families)


def _given(call: Call, config: DhcpConfig) -> Mapping[int, bytes]:
    """The options that the client gives, by number. CniError 7."""
    given: dict[int, bytes] = {}
    for place, entry in enumerate(config.provide):
        where = f"ipam.provide[{place}]"
        if not entry.number:
            raise CniError(Code.INVALID_CONFIG, f"{where} has no 'option'")
        if entry.value and entry.from_arg:
            raise CniError(
                Code.INVALID_CONFIG,
                f"{where} has both value ({entry.value!r}) and fromArg ({entry.from_arg!r}): give one",
            )
        text = call.args.get(entry.from_arg) if entry.from_arg else entry.value
        if not text:
            continue
        value = text.encode("utf-8", "surrogateescape")
        if len(value) > _LONGEST_VALUE:
            raise CniError(
                Code.INVALID_CONFIG, f"{where}.value has {len(value)} bytes; an option has at most 255"
            )
        given[entry.number] = value
    return given


def _asked(config: DhcpConfig) -> tuple[int, ...]:
    for place, entry in enumerate(config.request):
        if not entry.number and not entry.skip_default:
            raise CniError(Code.INVALID_CONFIG, f"ipam.request[{place}] has no 'option'")
    listed = [entry.number for entry in config.request if entry.number]
    defaults = () if any(entry.skip_default for entry in config.request) else _DEFAULTS
    return tuple(dict.fromkeys(int(item) for item in (*defaults, *listed)))


def _client_id(call: Call) -> bytes:
    """As the reference has it (option 61), so that a server gives a container the address it had there."""
    name = f"{call.container_id}/{call.network}/{call.ifname}".encode()
    return b"\0" + name[:_LONGEST_CLIENT_ID]


def _wish(call: Call, config: DhcpConfig, kind: str) -> Wish:
    given = dict(_given(call, config))
    client_id = given.pop(int(Option.CLIENT_ID), None) or _client_id(call)
    return Wish(client_id, _asked(config), given, config.broadcast or kind in _SHARES_MAC, config.priority)


def _refuse_wishes(call: Call) -> None:
    """A server chooses the address. CniError 7 for a task that asks for one."""
    wanted = call.network_info.addresses if call.network_info is not None else ()
    if wanted:
        raise CniError(
            Code.INVALID_CONFIG,
            f"the task asked for address {', '.join(map(str, wanted))}, and on network {call.network} a DHCP "
            "server chooses",
            "ask for none, or let the operator reserve it on the server",
        )


def _identity(call: Call) -> Identity:
    return Identity(call.network, call.container_id, call.ifname)


def _require_families(config: DhcpConfig) -> None:
    if not config.families:
        raise CniError(
            Code.INVALID_CONFIG, "ipam.families is empty", 'name one: "families": ["ipv4"], or leave it out'
        )
    if config.ra and "ipv6" not in config.families:
        raise CniError(
            Code.INVALID_CONFIG,
            f"ipam.ra is true, and ipam.families ({', '.join(config.families)}) has no ipv6",
            'add it: "families": ["ipv6"], or leave ra out',
        )
    if config.duid and "ipv6" not in config.families:
        raise CniError(
            Code.INVALID_CONFIG,
            "ipam.duid is given, and ipam.families has no ipv6",
            "DHCPv4 servers know a container by dhcp-client-identifier (ipam.provide)",
        )


def _refuse_prefixes(call: Call) -> None:
    """CniError 2 for a key that asks for a prefix: passed over, it would leave a network without one."""
    ipam = fold(call.config, "ipam")
    for key, value in ipam.items() if isinstance(ipam, dict) else ():
        if "".join(char for char in key.casefold() if char.isalnum()) in _PREFIX_KEYS:
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"ipam.{key} is {shown(value)}, and dhcp asks no server for a prefix (IA_PD)",
                "host-local does, for all containers of a network: "
                '"ipam": {"type": "host-local", "prefixDelegation": {"uplink": "eth0"}}',
            )


def validate(call: Call, config: DhcpConfig) -> None:
    """CniError 2 or 7 for what no server is asked with."""
    _refuse_prefixes(call)
    _require_families(config)
    _refuse_wishes(call)
    _given(call, config)
    _asked(config)


def add(call: Call, config: DhcpConfig, tx: Transaction) -> Result:
    sandbox = tx.context.inside
    validate(call, config)
    store = Store(call.roots, config.daemon_socket)
    path = protocol.socket_of(call.roots, config.daemon_socket)
    protocol.require_same(path, store, protocol.ask(path, {"hello": True}))
    if config.ra:
        _require_ours(tx)
    with closing(Listener(sandbox)) if config.ra else nullcontext() as listener:
        found = Found(sandbox, link.raise_up(sandbox, call.ifname, _settings(config)))
        place = Place(call.netns_path, tuple(fingerprint(sandbox)), call.ifname, found.link.mac)
        if 6 in config.versions:
            dhcp_ipv6.require_mtu(call.ifname, found.link.mtu)
        store.prepare()
        for version in config.versions:
            _refuse_second(call, store, version)
        deadline = after(min(_SECONDS, max(1.0, call.deadline.remaining() - _FOR_THE_REST)))
        asking = Asking(call, tx, found, place, store, deadline)
        results: list[Result] = []
        if 4 in config.versions:
            results.append(_lease4(asking, config))
        if listener is not None:
            results.append(_advertised(asking, config, listener))
        elif 6 in config.versions:
            results.append(dhcp_ipv6.lease(asking, config.duid))
    return _together(results)


def _settings(config: DhcpConfig) -> Mapping[str, str] | None:
    if config.ra:
        return router.settings(config.priority)
    return dhcp_ipv6.SETTINGS if 6 in config.versions else None


def _require_ours(tx: Transaction) -> None:
    """CniError 7 for a MAIN plugin of somebody else, which would add the kernel's address a second time."""
    if tx.alone:
        raise CniError(
            Code.INVALID_CONFIG,
            "ipam.ra is true, and the plugin that makes the interface is none of this toolkit",
            "use this toolkit's (the same type, its directory first in CNI_PATH), or leave ra out",
        )


def _advertised(asking: Asking, config: DhcpConfig, listener: Listener) -> Result:
    """As a host does: addresses by the prefixes that routers advertise, and DHCPv6 where they say so."""
    ifname = asking.call.ifname
    found, dns = listener.wait(ifname, asking.found.link.index, asking.deadline)
    leased = Result()
    if found.managed:
        leased = dhcp_ipv6.lease(asking, config.duid)
    elif found.other:
        leased = Result(dns=dhcp_ipv6.information(asking, config.duid))
    return router.result_of(ifname, found, leased, _names((dns, leased.dns)))


def _lease4(asking: Asking, config: DhcpConfig) -> Result:
    found = asking.found
    wanted = Lease(asking.identity, asking.place, _wish(asking.call, config, found.link.kind))
    asking.intend(4)
    lease = client.acquire(found.namespace, wanted, asking.deadline, asking.keep)
    _require_own(asking, wanted, lease)
    asking.keep(lease)
    link.limit_mtu(found.namespace, found.link, lease)
    asking.watched(4)
    return lease.result()


def _require_own(asking: Asking, wanted: Lease, lease: Lease) -> None:
    """CniError 7 when the address is that of another container with the same MAC address, which nobody who
    asks for it on the link can know. It is that one's: it is not given back.
    """
    for other in asking.store.every():
        if (
            isinstance(other, Lease)
            and other.identity != lease.identity
            and (other.holds and other.address == lease.address and other.place.mac == lease.place.mac)
        ):
            asking.keep(wanted)
            raise CniError(
                Code.INVALID_CONFIG,
                f"DHCP server {lease.server} gives the address of container {other.identity.container_id}, "
                f"{lease.address}, to {lease.identity.container_id}: both have MAC address {other.place.mac}",
                "it has to tell clients by their identifier (option 61), as dnsmasq and Kea do",
            )


def _together(results: Sequence[Result]) -> Result:
    """What both families gave, as one result."""
    return Result(
        ips=tuple(entry for item in results for entry in item.ips),
        routes=tuple(route for item in results for route in item.routes),
        dns=_names([item.dns for item in results]),
    )


def _names(listed: Sequence[Dns]) -> Dns:
    return Dns(
        tuple(dict.fromkeys(server for item in listed for server in item.nameservers)),
        next((item.domain for item in listed if item.domain), ""),
        tuple(dict.fromkeys(domain for item in listed for domain in item.search)),
    )


def _refuse_second(call: Call, store: Store, version: int) -> None:
    """CniError 7 for an interface that has a lease which holds; what a crash left is taken over."""
    before = store.read(_identity(call), version)
    if before is not None and before.holds and before.place.netns_id == tuple(fingerprint_of(call)):
        raise CniError(
            Code.INVALID_CONFIG,
            f"{call.container_id} already has address {before.address} for {call.ifname}; DEL comes first",
        )


def fingerprint_of(call: Call) -> list[int]:
    return fingerprint(call.sandbox) if call.sandbox is not None else []


def check(call: Call, config: DhcpConfig, context: Context) -> None:
    """The lease holds, and somebody renews it. CniError 999 or 11."""
    store = Store(call.roots, config.daemon_socket)
    for version in config.versions:
        by_router = version == 6 and config.ra and store.read(_identity(call), version) is None
        if not by_router:
            dhcp_lease.check(context, store, _identity(call), version)
    protocol.ask(protocol.socket_of(call.roots, config.daemon_socket), {"hello": True})


def remove_legacy(call: Call, config: DhcpConfig, context: Context) -> None:
    """Of both families: what is configured now may not be what was."""
    store = Store(call.roots, config.daemon_socket)
    for version in _FAMILIES.values():
        dhcp_lease.give_back(context, store, config.daemon_socket, _identity(call), version)


def gc(call: Call, config: DhcpConfig, context: Context) -> None:
    """Forget the leases of this network that no attachment of the list holds. Their servers get them back
    when they end: the namespaces are gone.
    """
    store = Store(call.roots, config.daemon_socket)
    found = [
        lease
        for lease in store.every()
        if lease.identity.network == call.network and not link.is_prefix(lease)
    ]
    kept = context.keep() if found else set()
    for lease in found:
        if lease.identity not in kept and (not lease.this_boot or lease.began < call.began):
            dhcp_lease.give_back(context, store, config.daemon_socket, lease.identity, lease.version)


def status(call: Call, config: DhcpConfig, context: Context) -> None:
    """CniError 11 when nobody would renew a lease."""
    validate(call, config)
    path = protocol.socket_of(call.roots, config.daemon_socket)
    protocol.require_same(path, Store(call.roots, config.daemon_socket), protocol.ask(path, {"hello": True}))


PLUGIN: Plugin[Any] = Plugin(
    name="dhcp",
    kind=Kind.IPAM,
    about="lease an address from a DHCP server, and renew it for as long as the container lives",
    config=DhcpConfig,
    add=add,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    validate=validate,
    args=True,
    needs_link=True,
)
