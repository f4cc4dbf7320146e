"""Plans for the link itself: MTU, rates, flags of its bridge port, spoof check."""

from dataclasses import replace

from cni_plugins.attach import wishes
from cni_plugins.attach.changes import Changes
from cni_plugins.attach.plans.plan import Operation, Plan, documents, lacking, of_type, put
from cni_plugins.kernel import links
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import fold
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.bridge import Bridge, BridgePort
from cni_plugins.steps.change import (
    BucketChange,
    PortFlags,
)
from cni_plugins.steps.child_link import ChildLink
from cni_plugins.steps.context import Context
from cni_plugins.steps.link_settings import LinkSettings, Settings
from cni_plugins.steps.shaping import LimitReceiving, LimitSending
from cni_plugins.steps.spoof import SpoofCheck
from cni_plugins.steps.veth import Veth


def change_mtu(made: Plan, changes: Changes, context: Context) -> None:
    wanted, call = changes.mtu or 0, context.call
    found = links.find(context.sandbox, call.ifname)
    if found is None:
        made.problems.append(f"the container has no interface {call.ifname}")
        return
    try:
        wishes.require_ipv6_mtu(wanted, made.result.ips)
    except CniError as error:
        made.problems.append(f"{error.msg}: {error.details}")
        return
    pair, child = made.first(Veth), made.first(ChildLink)
    loopback = fold(made.config, "type") == "loopback"
    if loopback or (pair is None and child is None and not made.first(LinkSettings)):
        made.problems.append("mtu: this network makes no interface whose MTU is its own")
        return
    ends = [LinkSettings(found.name, Settings(mtu=wanted), Settings(mtu=found.mtu))]
    outside = pair.host_end(context) if pair is not None else None
    outside = outside or (links.other_end(context.host, context.sandbox, found) if pair is None else None)
    if outside is not None:
        before = Settings(mtu=outside.mtu)
        ends.append(LinkSettings(outside.name, Settings(mtu=wanted), before, host_mac=outside.mac))
    if wanted > found.mtu:  # who receives is first to take the larger packets, last to refuse them
        ends.reverse()
    for end in ends:
        if end.before.mtu != wanted:
            side = "host's end" if end.host_mac else "container's end"
            effect = "no packet is lost; flows that are there keep their segment size until they restart"
            made.switches.append(
                Operation(end, f"mtu of {end.name} ({side}) {end.before.mtu} → {wanted}", effect)
            )
    _mtu_steps(made, wanted)
    _buckets_for(made, wanted, context)
    made.result = replace(
        made.result,
        interfaces=tuple(
            replace(item, mtu=wanted) if item.name == call.ifname and item.sandbox and item.mtu else item
            for item in made.result.interfaces
        ),
    )
    for document in documents(made.config):
        if fold(document, "mtu") is not None or (
            fold(document, "type") not in {"chain", "tuning", "portmap", "bandwidth", "mesos-cni-port-mapper"}
            and fold(document, "type") is not None
        ):
            put(document, "mtu", wanted)


def _mtu_steps(made: Plan, wanted: int) -> None:
    for item in list(made.steps):
        if isinstance(item, Veth | ChildLink | Bridge):
            made.swap(item, replace(item, mtu=wanted))
        elif isinstance(item, LinkSettings) and item.wanted.mtu is not None:
            made.swap(item, replace(item, wanted=replace(item.wanted, mtu=wanted)))


def _bucket(step: LimitReceiving | LimitSending) -> tuple[str, str]:
    """The link with the token bucket, and its MAC address."""
    return (step.name, step.mac) if isinstance(step, LimitReceiving) else (step.ifb, step.ifb_mac)


def _buckets_for(made: Plan, mtu: int, context: Context) -> None:
    """Token buckets have to hold one frame of the new size."""
    for item in made.steps:
        if isinstance(item, (LimitReceiving, LimitSending)) and item.rate and item.burst // 8 < mtu + 14:
            values = (item.rate, item.burst, item.latency)
            name, mac = (
                (item.name, item.mac) if isinstance(item, LimitReceiving) else (item.ifb, item.ifb_mac)
            )
            step = BucketChange(name, mac, mtu, values, values)
            made.switches.insert(0, Operation(step, f"bucket of {name} holds a frame of {mtu} bytes"))


def change_limits(made: Plan, changes: Changes, context: Context) -> None:
    document = of_type(made.config, "bandwidth")
    if document is None:
        made.problems.append(lacking("bandwidth", "limits rates", "bandwidth"))
        return
    found = links.find(context.sandbox, context.call.ifname)
    mtu = found.mtu if found is not None else 1500
    receiving, sending = made.first(LimitReceiving), made.first(LimitSending)
    ways: tuple[tuple[str, LimitReceiving | LimitSending | None], ...] = (
        ("ingress", receiving),
        ("egress", sending),
    )
    for way, old in ways:
        asked = [key for key in changes.limits if key.startswith(way) or key == "latency"]
        if not asked:
            continue
        rate = changes.limits.get(f"{way}Rate", old.rate if old is not None else 0)
        burst = changes.limits.get(f"{way}Burst", old.burst if old is not None else 0)
        latency = changes.limits.get("latency", old.latency if old is not None else 25)
        if bool(rate) != bool(burst) and rate:
            made.problems.append(f"{way}Rate is {rate} and {way}Burst 0: a rate needs its burst")
            continue
        if old is None:
            if rate:
                made.problems.append(f"{way}Rate: there is no limit yet that could be changed: attach anew")
            continue
        if not rate:
            name = old.name
            made.removals.append(
                Operation(old, f"no {way} limit of {name}", "what waits in the bucket is lost")
            )
            made.swap(old, None)
            continue
        before, after = (old.rate, old.burst, old.latency), (rate, burst, latency)
        if before == after:
            continue
        name, mac = _bucket(old)
        change = BucketChange(name, mac, mtu, before, after)
        units = ((f"{way}Rate", "bit/s"), (f"{way}Burst", "bit"), ("latency", "ms"))
        listed = ", ".join(
            f"{key} {was} → {is_} {unit}"
            for (key, unit), was, is_ in zip(units, before, after, strict=True)
            if was != is_
        )
        made.switches.append(Operation(change, listed))
        made.swap(old, replace(old, rate=rate, burst=burst, latency=latency))
    for key, value in changes.limits.items():
        put(document, key, value)


def change_flags(made: Plan, changes: Changes, context: Context) -> None:
    document = of_type(made.config, "bridge")
    port = made.first(BridgePort)
    if document is None or port is None:
        made.problems.append(f"{', '.join(changes.flags)}: this network is no bridge")
        return
    for key, value in changes.flags.items():
        put(document, key, value)
        if key == "macspoofchk":
            _spoof(made, port, value, context)
            continue
        flag = "ISOLATED" if key == "portIsolation" else "HAIRPIN"
        before = port.isolated if flag == "ISOLATED" else port.hairpin
        if before == value:
            continue
        step = PortFlags(port.name, port.mac, ((flag, value),), ((flag, before),))
        made.switches.append(Operation(step, f"{key} of {port.name} {before} → {value}".lower()))
        after = replace(port, isolated=value) if flag == "ISOLATED" else replace(port, hairpin=value)
        made.swap(port, after)
        port = after


def _spoof(made: Plan, port: BridgePort, value: bool, context: Context) -> None:
    old = made.first(SpoofCheck)
    if value and old is None:
        found = links.find(context.sandbox, context.call.ifname)
        mac = made.result.container_interface(context.call.ifname).mac.lower()
        if found is not None and found.mac != mac:
            made.problems.append(
                f"macspoofchk: {context.call.ifname} has MAC address {found.mac} and was given {mac}: "
                "all that it sends would be dropped"
            )
            return
        step = SpoofCheck(port.name, mac)
        made.additions.append(Operation(step, f"{port.name} may send from {mac} only"))
        made.add(step, before=Addresses)
    elif not value and old is not None:
        made.removals.append(Operation(old, f"{old.port} may send from any MAC address"))
        made.swap(old, None)
