"""host-local: addresses from ranges, reserved on this host.

Each range set gives one address, reserved in a file that carries its owner (the reference plugin's own files:
a node can change in either direction). A network has up to 1,000 sets, and a set any number of ranges that do
not overlap. The walk goes on where the last one stopped, so that an address that was released rests before it
is given again. With `sticky`, a workload that comes back gets the address it had, if that is free.
Reservations that it made before the last boot are void; they are taken when nothing else is left.

    {"cniVersion": "1.0.0", "name": "app-net", "type": "bridge", "bridge": "app0", "isGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/16", "rangeStart": "10.50.1.0"}],
                                               [{"subnet": "fd00:50::/64"}]],
              "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}

With `prefixDelegation` the network's IPv6 subnet is a /64 of a prefix that the router on the host's `uplink`
delegates (DHCPv6, IA_PD): one more range set, after the others. The network's first container asks for the
prefix; the node service, or `mesokit dhcp`, renews it for as long as anybody has an address of the network,
and the last DEL, or GC, gives it back. On the bridge stands the gateway (`isGateway`); `ipMasq` hides IPv4
alone; what no link has of the prefix is unreachable for this host, so that nothing goes back and forth
between it and the router. That it is another prefix than before, or none since no server renewed it until it
ended, is told in the log, by `mesokit dhcp leases` and by `mesokit doctor`: containers keep their addresses,
deprecated, CHECK fails for them, and new ones get an address of the new prefix. A prefix of /32 to /120 is
taken, unless another network or link of the host has a part of it.

    {"cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "web0", "isDefaultGateway": true,
     "ipam": {"type": "host-local", "subnet": "10.60.0.0/24",
              "prefixDelegation": {"uplink": "eth0", "length": 60}}}
"""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

from cni_plugins.attach import suspicions
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.plugins.ipam import prefix_keys, sticky
from cni_plugins.plugins.ipam.prefix_keys import DelegationConfig
from cni_plugins.plugins.ipam.ranges import (
    RangeConfig,
    RangeSet,
    Remarks,
    Spans,
    check_sets,
    make_range,
    make_set,
    range_of,
    requested,
    walk,
)
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import (
    ABSOLUTE_PATH,
    ANY,
    BOOL,
    CIDR,
    IP,
    list_of,
    nested,
    option,
    parsed_by,
    shown,
)
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Dns, Result, Route, configured_route
from cni_plugins.spec.values import Ip, IpInterface, parse_cidr
from cni_plugins.spec.versions import at_least
from cni_plugins.steps.context import Context
from cni_plugins.steps.reservation import Reservation
from cni_plugins.store import boot, records
from cni_plugins.store.reservations import Owner, Reservations, directory_of, opened, read_reservation

_CROWDED, _A_WHILE = 16, 10_000


@dataclass(frozen=True, slots=True)
class HostLocalConfig:
    subnet: IpInterface | None = option("subnet", CIDR, None, "one range in short form, put first")
    range_start: Ip | None = option("rangeStart", IP, None, "of the short form: first address to give")
    range_end: Ip | None = option("rangeEnd", IP, None, "of the short form: last address to give")
    gateway: Ip | None = option(
        "gateway", IP, None, "of the short form: never given; default the first host address"
    )
    ranges: tuple[Any, ...] = option(
        "ranges",
        list_of(ANY),
        (),
        "range sets: lists of {subnet, rangeStart, rangeEnd, gateway}; one address from each",
    )
    routes: tuple[Route, ...] = option(
        "routes",
        list_of(parsed_by("route", configured_route)),
        (),
        "copied to the result: {dst, gw, mtu, advmss, …}",
    )
    data_dir: str = option(
        "dataDir", ABSOLUTE_PATH, "", "where reservations are; default `/var/lib/cni/networks`"
    )
    resolv_conf: str = option("resolvConf", ABSOLUTE_PATH, "", "a resolv.conf to copy into the result's dns")
    delegation: DelegationConfig | None = option(
        "prefixDelegation",
        nested(DelegationConfig),
        None,
        "one more range set: a /64 that a router delegates to the network (DHCPv6, IA_PD)",
    )
    sticky: bool = option(
        "sticky",
        BOOL,
        False,
        "a workload (args.cni.workload, runtimeConfig.workload, else the container) keeps its address",
    )


def _sets(call: Call, config: HostLocalConfig, delegated: IPv6Network | None) -> tuple[list[RangeSet], Spans]:
    """The range sets, and which of them an address is in; `delegated` is what prefixDelegation's is made of,
    None while there is none. CniError 2 or 7.
    """
    sets: list[RangeSet] = []
    remarks = Remarks(
        call.warn if call.verb is Verb.ADD else lambda text: None,
        lambda key: suspicions.unknown(call, RangeConfig, key, suspicions.IPAM),
    )
    runtime = call.runtime("ipRanges")
    if runtime is not None and not isinstance(runtime, list):
        raise CniError(
            Code.INVALID_CONFIG, f"runtimeConfig.ipRanges is {shown(runtime)}, which is not a list"
        )
    for number, item in enumerate(runtime or ()):
        sets.append(make_set(item, f"runtimeConfig.ipRanges[{number}]", remarks))
    if config.subnet is not None:
        short = RangeConfig(config.subnet, config.range_start, config.range_end, config.gateway)
        sets.append((make_range(short, "ipam", remarks),))
    for number, item in enumerate(config.ranges):
        sets.append(make_set(item, f"ipam.ranges[{number}]", remarks))
    if delegated is not None:
        subnet = RangeConfig(IPv6Interface(str(delegated)))
        sets.append((make_range(subnet, prefix_keys.WHERE, remarks),))
    if not sets and config.delegation is None:
        raise CniError(
            Code.INVALID_CONFIG,
            "no IP ranges specified",
            "host-local has no addresses to give: ipam needs 'subnet' or 'ranges'",
        )
    spans = check_sets(sets)
    if not at_least(call.version, "0.3.0"):
        families = [ranges[0].start.version for ranges in sets]
        if len(set(families)) != len(families):
            raise CniError(
                Code.INVALID_CONFIG,
                f"CNI version {call.version} does not support more than 1 address per family",
                "ipam.ranges has several sets of one family",
            )
    return sets, spans


def _memory(call: Call, config: HostLocalConfig, number: int) -> sticky.Memory | None:
    if not config.sticky:
        return None
    workload = call.runtime("workload") or call.cni_args("workload")
    return sticky.memory(call.roots, call.identity, workload, number)


def _recorded(call: Call) -> set[str]:
    """The containers of this network that have a record."""
    return {contents.identity.container_id for _, contents in records.every(call.roots, call.network)}


def _before_boot(call: Call, reservations: Reservations) -> list[str]:
    """Reservations that a reboot made void: of ours, from another boot, and no record of this boot has their
    owner.
    """
    now = boot.current()
    old = [item for item in reservations.every() if item.boot and item.boot != now]
    if not old:
        return []
    known = _recorded(call)
    return [str(item.address) for item in old if item.container_id not in known]


def _of_this_boot(reservations: Reservations, owner: Owner) -> list[Ip]:
    """What its owner has, without what it had before a reboot, which ended the container but not its name:
    podman starts the same one again. That is given back.
    """
    owned = reservations.owned(owner)
    if not owned:
        return owned
    found = [read_reservation(f"{reservations.directory}/{address}", str(address)) for address in owned]
    now = boot.current()
    old = {item.address for item in found if item is not None and item.boot not in {"", now}}
    reservations.release_all([str(address) for address in old], owner)
    return [address for address in owned if address not in old]


def _take(reservations: Reservations, address: Ip, owner: Owner, tx: Transaction) -> None:
    tx.intend(Reservation(reservations.directory, str(address), owner.container_id, owner.ifname))
    reservations.reserve(address, owner)


def _search(call: Call, reservations: Reservations, ranges: RangeSet, number: int) -> Ip | None:
    taken: Collection[str] | None = None
    for tries, (address, _) in enumerate(walk(ranges, reservations.last(number))):
        if tries == _CROWDED:
            taken = reservations.taken()
        if tries % _A_WHILE == _CROWDED:
            call.deadline.require(f"a free address, {tries} being taken")
        if str(address) not in taken if taken is not None else reservations.free(address):
            return address
    return None


def _spans(ranges: RangeSet) -> str:
    return ",".join(f"{one.start}-{one.end}" for one in ranges)


def _choose(
    call: Call, memory: sticky.Memory | None, reservations: Reservations, ranges: RangeSet, number: int
) -> Ip:
    remembered = memory.address() if memory is not None else None
    if remembered is not None:
        one = range_of(ranges, remembered)
        if one is not None and one.gateway != remembered and reservations.free(remembered):
            return remembered
    address = _search(call, reservations, ranges, number)
    if address is None:
        stale = _before_boot(call, reservations)
        for name in stale:
            reservations.discard(name)
        address = _search(call, reservations, ranges, number) if stale else None
    if address is None:
        raise CniError(
            Code.TRY_AGAIN,
            f"failed to allocate for range {number}: no IP addresses available in range set: "
            f"{_spans(ranges)}",
            f"there is no free address in range set {number} of network {call.network}: enlarge it; mesokit "
            "ip shows who has them",
        )
    return address


def _plan(
    call: Call, config: HostLocalConfig, delegated: IPv6Network | None
) -> tuple[list[tuple[RangeSet, Ip | None]], Spans]:
    """The range sets, each with the address that is asked of it, if one is, and as `_sets`. CniError 7."""
    sets, spans = _sets(call, config, delegated)
    places = {address: spans.find(address) for address in requested(call)}
    asked: dict[int | None, Ip] = {}
    for address, place in places.items():
        asked.setdefault(place, address)
    left = [str(address) for address, place in places.items() if place is None or asked[place] != address]
    if left and (config.delegation is None or delegated is not None):
        raise CniError(
            Code.INVALID_CONFIG,
            f"failed to allocate all requested IPs: {','.join(left)}",
            f"requested address {', '.join(left)} is in no range of network {call.network}, and each range "
            "set gives one address",
        )
    plan = [(ranges, asked.get(number)) for number, ranges in enumerate(sets)]
    for number, (ranges, request) in enumerate(plan):
        one = range_of(ranges, request) if request is not None else None
        if one is not None and request == one.gateway:
            raise CniError(
                Code.INVALID_CONFIG,
                f"failed to allocate for range {number}: requested ip {request} is subnet's gateway",
                f"requested address {request} is the gateway of {one.subnet}: ask for another one",
            )
    return plan, spans


def add(call: Call, config: HostLocalConfig, tx: Transaction) -> Result:
    if config.delegation is None:
        return _reserved(call, config, tx, None)
    from cni_plugins.plugins.ipam import prefix

    validate(call, config)
    directory = directory_of(call.roots, config.data_dir, call.network)
    with prefix.held(call, config.delegation, directory, tx) as delegated:
        return _reserved(call, config, tx, delegated)


def _reserved(call: Call, config: HostLocalConfig, tx: Transaction, delegated: IPv6Network | None) -> Result:
    plan, spans = _plan(call, config, delegated)
    dns = Dns()
    if config.resolv_conf:
        from cni_plugins.plugins.ipam import resolv_conf

        dns = resolv_conf.read(config.resolv_conf)
    owner = Owner(call.container_id, call.ifname)
    ips: list[Address] = []
    with opened(
        directory_of(call.roots, config.data_dir, call.network), call.roots, call.deadline
    ) as reservations:
        owned = _of_this_boot(reservations, owner)
        held = {spans.find(address): address for address in reversed(owned)}
        for number, (ranges, request) in enumerate(plan):
            call.deadline.require(f"addresses of {len(plan)} range sets")
            memory = _memory(call, config, number)
            if request is None:
                _refuse_second(owner, held.get(number), number)
                address = _choose(call, memory, reservations, ranges, number)
            else:
                address = _checked(reservations, request, ranges, number)
            _take(reservations, address, owner, tx)
            reservations.set_last(number, address)
            if memory is not None:
                memory.remember(address)
            one = range_of(ranges, address)
            assert one is not None
            ips.append(Address(parse_cidr(f"{address}/{one.subnet.prefixlen}"), one.gateway))
    return Result(ips=tuple(ips), routes=config.routes, dns=dns)


def _refuse_second(owner: Owner, held: Ip | None, number: int) -> None:
    if held is not None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"failed to allocate for range {number}: {held} has been allocated to {owner.container_id}, "
            "duplicate allocation is not allowed",
            f"{owner.container_id} already has address {held} for {owner.ifname}; DEL comes first",
        )


def _checked(reservations: Reservations, address: Ip, ranges: RangeSet, number: int) -> Ip:
    if not reservations.free(address):
        holder = (reservations.content(str(address)) or "").partition("\r\n")[0]
        raise CniError(
            Code.INVALID_CONFIG,
            f"failed to allocate for range {number}: requested IP address {address} is not available in "
            f"range set {_spans(ranges)}",
            f"requested address {address} is in use by container {holder}",
        )
    return address


def check(call: Call, config: HostLocalConfig, context: Context) -> None:
    directory = directory_of(call.roots, config.data_dir, call.network)
    with opened(directory, call.roots, call.deadline) as reservations:
        if not reservations.owned(Owner(call.container_id, call.ifname)):
            raise CniError(
                Code.INTERNAL,
                f"no address is reserved for {call.ifname} of {call.container_id} in {directory}",
            )
    if config.delegation is not None:
        from cni_plugins.plugins.ipam import prefix

        prefix.step_of(call.network, config.delegation, directory).check(context)


def remove_legacy(call: Call, config: HostLocalConfig, context: Context) -> None:
    directory = directory_of(call.roots, config.data_dir, call.network)
    if Path(directory).is_dir():
        owner = Owner(call.container_id, call.ifname)
        with opened(directory, call.roots, call.deadline, undoing=True) as reservations:
            reservations.release_all([str(address) for address in reservations.owned(owner)], owner)
    if config.delegation is not None:
        from cni_plugins.plugins.ipam import prefix

        prefix.step_of(call.network, config.delegation, directory).undo(context)


def gc(call: Call, config: HostLocalConfig, context: Context) -> None:
    """Release what no attachment of the list holds, and torn files.

    What a record still speaks for stays: those that GC could take down have gone before, so its ADD is at
    work now. So does what was reserved since the call began (by an IPAM call without a record). Both are
    looked at under the lock: an ADD writes its record before it asks for an address.
    """
    directory = directory_of(call.roots, config.data_dir, call.network)
    if call.valid is None:
        return
    containers = {container for container, _ in call.valid}
    if Path(directory).is_dir():
        with opened(directory, call.roots, call.deadline) as reservations:
            recorded = _recorded(call)
            for item in reservations.every():
                known = (
                    (item.container_id, item.ifname) in call.valid
                    if item.ifname
                    else item.container_id in containers
                )
                young = item.boot == boot.current() and item.at > call.began
                if not known and not young and item.container_id not in recorded:
                    reservations.discard(str(item.address))
            for name in reservations.torn():
                reservations.discard(name)
            reservations.reindex()
    if config.delegation is not None:
        from cni_plugins.plugins.ipam import prefix

        prefix.step_of(call.network, config.delegation, directory).undo(context)
    recorded = _recorded(call)
    sticky.collect(call.roots, call.network, lambda item: item in containers or item in recorded)


def status(call: Call, config: HostLocalConfig, context: Context) -> None:
    """CniError 50 when a range set has no free address left."""
    delegated = None
    if config.delegation is not None:
        from cni_plugins.plugins.ipam import prefix

        prefix.status(call, config.delegation, context)
        delegated = prefix.known(call.roots, call.network, config.delegation)
    sets, _ = _sets(call, config, delegated)
    directory = directory_of(call.roots, config.data_dir, call.network)
    if not Path(directory).is_dir():
        return
    with opened(directory, call.roots, call.deadline) as reservations:
        for number, ranges in enumerate(sets):
            if _search(call, reservations, ranges, number) is None:
                spans = ", ".join(f"{one.start}-{one.end}" for one in ranges)
                raise CniError(
                    Code.NOT_AVAILABLE, f"network {call.network} has no free address left in {spans}"
                )


def validate(call: Call, config: HostLocalConfig) -> None:
    """CniError 2 or 7. What a router would delegate is not known before ADD."""
    if config.delegation is not None:
        from cni_plugins.plugins.ipam import prefix

        prefix_keys.validate(config.delegation)
        _plan(call, config, prefix.known(call.roots, call.network, config.delegation))
    else:
        _plan(call, config, None)


PLUGIN = Plugin(
    name="host-local",
    kind=Kind.IPAM,
    about="addresses from ranges, reserved in files on this host",
    config=HostLocalConfig,
    add=add,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    validate=validate,
    args=True,
)
