"""bandwidth: how fast a container may receive and send.

`ingress` is what the container receives: a token bucket on the host's end of its veth. `egress` is what it
sends: that comes in on the host's end, is redirected to an ifb link made for it (named as the reference
plugin names it) and leaves that through a bucket. Rates are bits per second, bursts bits; each rate needs its
burst, and a burst always lets one frame pass. Limits of the configuration count before those of
`runtimeConfig.bandwidth`. With `unshapedSubnets` traffic with those is not limited, with `shapedSubnets` only
traffic with those is. It stands after the plugin that made the veth (bridge, ptp), or around it as
`delegate`; an interface without an end on the host (macvlan, ipvlan, vlan, host-device, tap, dummy) has no
place where its task could not take the limit away, and is refused. A second ADD, with the first one's result
as prevResult, changes limits in place.

    {"cniVersion": "1.0.0", "name": "data-net", "type": "bandwidth",
     "ingressRate": 50000000, "ingressBurst": 800000,
     "egressRate": 20000000, "egressBurst": 400000,
     "delegate": {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.60.0.0/24"}}}
"""

from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import links
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import CIDR, decode, integer, list_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.spec.values import IpInterface, fold
from cni_plugins.steps import registry
from cni_plugins.steps.change import BucketChange
from cni_plugins.steps.context import Context
from cni_plugins.steps.shaping import LimitReceiving, LimitSending, ifb_name
from cni_plugins.steps.step import Step

#: Plugins whose interface has no end on the host.
WITHOUT_HOST_END = frozenset(("dummy", "host-device", "ipvlan", "loopback", "macvlan", "tap", "vlan"))
WAY_OUT = "bandwidth limits on the host's end of a veth: use bridge or ptp, or leave the limits out"
_BURST = integer(0, (2**32 - 1) * 8)
_RATE = integer(0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class BandwidthConfig:
    ingress_rate: int = option("ingressRate", _RATE, 0, "bits per second that the container receives; 0: any")
    ingress_burst: int = option("ingressBurst", _BURST, 0, "bits at once that it receives")
    egress_rate: int = option("egressRate", _RATE, 0, "bits per second that the container sends; 0: any")
    egress_burst: int = option("egressBurst", _BURST, 0, "bits at once that it sends")
    latency: int = option("latency", integer(1, 10000), 25, "milliseconds that a packet may wait at most")

    shaped: tuple[IpInterface, ...] = option(
        "shapedSubnets", list_of(CIDR), (), "only traffic with these subnets is limited"
    )
    unshaped: tuple[IpInterface, ...] = option(
        "unshapedSubnets", list_of(CIDR), (), "traffic with these subnets is not limited"
    )

    @property
    def limits(self) -> bool:
        """Whether it says anything at all."""
        return any((self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst))


def _limits(call: Call, config: BandwidthConfig) -> BandwidthConfig:
    """The configuration's limits, or the runtime's where it has none. CniError 7."""
    limits, where = config, ""
    if not config.limits:
        asked = call.runtime("bandwidth")
        if asked is not None and not isinstance(asked, dict):
            raise CniError(
                Code.INVALID_CONFIG, f"runtimeConfig.bandwidth is {asked!r}, which is not an object"
            )
        limits = decode(BandwidthConfig, asked or {})
        limits = replace(limits, latency=config.latency, shaped=config.shaped, unshaped=config.unshaped)
        where = "runtimeConfig.bandwidth."
    for way, rate, burst in (
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ):
        if bool(rate) != bool(burst):
            raise CniError(
                Code.INVALID_CONFIG,
                "if burst is set, rate must also be set"
                if burst
                else "if rate is set, burst must also be set",
                f"{where}{way}Rate is {rate} and {where}{way}Burst is {burst}; leave both out for no limit",
            )
    return limits


def validate(call: Call, config: BandwidthConfig) -> None:
    limits = _limits(call, config)
    if config.shaped and config.unshaped:
        raise CniError(
            Code.INVALID_CONFIG,
            "shapedSubnets and unshapedSubnets are both given",
            "either only some subnets are limited, or all but some: leave one of them out",
        )
    delegate = fold(call.config, "delegate")
    kind = fold(delegate, "type") if isinstance(delegate, dict) else None
    if limits.limits and isinstance(kind, str) and kind in WITHOUT_HOST_END:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{_named(limits)} is given, and delegate.type is {kind!r}, which has no end on the host",
            WAY_OUT,
        )


def _named(limits: BandwidthConfig) -> str:
    """The first limit's key."""
    return "ingressRate" if limits.ingress_rate else "egressRate"


def _host_end(call: Call, config: BandwidthConfig, context: Context) -> Link:
    link = links.find(context.sandbox, call.ifname)
    if link is None:
        raise CniError(Code.INTERNAL, f"the container has no interface {call.ifname} to limit")
    peer = links.other_end(context.host, context.sandbox, link)
    if peer is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{_named(_limits(call, config))} is given, and {call.ifname} is "
            f"{link.kind or 'a physical device'}, which has no end on the host",
            WAY_OUT,
        )
    return peer


def _require_named(call: Call, port: Link) -> None:
    """CniError 7 when prevResult names links of the host, and the container's is none of them: it speaks of
    another container, or of another time.
    """
    assert call.previous is not None
    named = [item.name for item in call.previous.interfaces if not item.sandbox]
    if named and port.name not in named:
        raise CniError(
            Code.INVALID_CONFIG,
            f"the host's end of {call.ifname} is {port.name}, and prevResult has {', '.join(named)}",
            "prevResult must be the result of the plugin that made the interface",
        )


def add(call: Call, config: BandwidthConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    limits = _limits(call, config)
    if not limits.limits:
        return call.previous
    port = _host_end(call, config, tx.context)
    _require_named(call, port)
    made: list[Interface] = []
    if limits.ingress_rate:
        wanted = _receiving(limits, port)
        if not _changed_in_place(tx, wanted, port):
            tx.apply(wanted)
    if limits.egress_rate and not _sending_changed(tx, limits, port):
        again = links.find(tx.context.host, ifb_name(call.identity)) is not None
        ifb = Interface(ifb_name(call.identity, again=again), links.random_mac())
        tx.apply(_sending(limits, port, ifb))
        made.append(ifb)
    return replace(call.previous, interfaces=(*call.previous.interfaces, *made))


def _sending_changed(tx: Transaction, limits: BandwidthConfig, port: Link) -> bool:
    return any(
        _changed_in_place(tx, _sending(limits, port, Interface(old.ifb, old.ifb_mac)), port)
        for _, old in tx.standing(LimitSending)
        if (old.name, old.mac) == (port.name, port.mac)
    )


def _changed_in_place(tx: Transaction, wanted: LimitReceiving | LimitSending, port: Link) -> bool:
    """Whether an earlier ADD of the attachment made the bucket, which is changed now and not made anew: what
    waits in it goes on, and no packet is lost.
    """
    bucket = _bucket(wanted)
    for number, old in tx.standing(type(wanted)):
        if (old.name, old.mac) != (port.name, port.mac) or _bucket(old) != bucket:
            continue
        if old.subnets or wanted.subnets:  # classes and filters are made anew; the bucket is not at the root
            old.undo(tx.context)
            tx.apply(wanted)
            tx.supersede(number)
            return True
        before, after = ((item.rate, item.burst, item.latency) for item in (old, wanted))
        tx.apply(BucketChange(*bucket, port.mtu, before, after))
        tx.settle(number, wanted)
        return True
    return False


def _bucket(step: LimitReceiving | LimitSending) -> tuple[str, str]:
    """The link that has the bucket, and its MAC address."""
    return (step.name, step.mac) if isinstance(step, LimitReceiving) else (step.ifb, step.ifb_mac)


def _receiving(limits: BandwidthConfig, port: Link) -> LimitReceiving:
    return LimitReceiving(
        port.name,
        port.mac,
        limits.ingress_rate,
        limits.ingress_burst,
        limits.latency,
        limits.shaped or limits.unshaped,
        bool(limits.shaped),
    )


def _sending(limits: BandwidthConfig, port: Link, ifb: Interface) -> LimitSending:
    return LimitSending(
        port.name,
        port.mac,
        ifb.name,
        ifb.mac,
        limits.egress_rate,
        limits.egress_burst,
        limits.latency,
        limits.shaped or limits.unshaped,
        bool(limits.shaped),
    )


def steps(call: Call, config: BandwidthConfig, context: Context, result: Result) -> list[Step]:
    limits = _limits(call, config)
    listed: list[Step] = []
    if not limits.limits:
        return listed
    port = _host_end(call, config, context)
    if limits.ingress_rate:
        listed.append(_receiving(limits, port))
    if limits.egress_rate:
        names = {ifb_name(call.identity), ifb_name(call.identity, again=True)}
        first = Interface(ifb_name(call.identity))
        found = next((item for item in result.interfaces if item.name in names), first)
        listed.append(_sending(limits, port, replace(found, mac=found.mac.lower())))
    return listed


PLUGIN: Plugin[Any] = Plugin(
    name="bandwidth",
    kind=Kind.META,
    about="limit how fast a container receives and sends",
    config=BandwidthConfig,
    add=add,
    validate=validate,
    kinds=(registry.Kind.LIMIT_SENDING,),
    steps=steps,
)
