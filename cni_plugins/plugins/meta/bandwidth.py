"""bandwidth: how fast a container may receive and send.

`ingress` is what the container receives: a token bucket on the host's end of its veth. `egress` is what it
sends: that comes in on the host's end, is redirected to an ifb link made for it (named as the reference
plugin names it) and leaves that through a bucket. Rates are bits per second, bursts bits; each rate needs its
burst, and a burst always lets one frame pass. Limits of the configuration count before those of
`runtimeConfig.bandwidth`. It stands after the plugin that made the veth (bridge, ptp), or around it as
`delegate`.

    {"name": "data-net", "type": "bandwidth", "ingressRate": 50000000, "ingressBurst": 800000,
     "egressRate": 20000000, "egressBurst": 400000,
     "delegate": {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.60.0.0/24"}}}
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import links, shaping
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import decode, integer, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result

_BURST = integer(0, (2**32 - 1) * 8)
_RATE = integer(0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class BandwidthConfig:
    ingress_rate: int = option("ingressRate", _RATE, 0, "bits per second that the container receives; 0: any")
    ingress_burst: int = option("ingressBurst", _BURST, 0, "bits at once that it receives")
    egress_rate: int = option("egressRate", _RATE, 0, "bits per second that the container sends; 0: any")
    egress_burst: int = option("egressBurst", _BURST, 0, "bits at once that it sends")
    latency: int = option("latency", integer(1, 10000), 25, "milliseconds that a packet may wait at most")

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
        limits = replace(decode(BandwidthConfig, asked or {}), latency=config.latency)
        where = "runtimeConfig.bandwidth."
    for way, rate, burst in (
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ):
        if bool(rate) != bool(burst):
            raise CniError(
                Code.INVALID_CONFIG,
                f"{where}{way}Rate is {rate} and {where}{way}Burst is {burst}",
                "a limit needs both a rate and a burst; leave both out for no limit",
            )
    return limits


def validate(call: Call, config: BandwidthConfig) -> None:
    _limits(call, config)


def _host_end(call: Call, context: Context) -> Link:
    link = links.find(context.sandbox, call.ifname)
    if link is None:
        raise CniError(Code.INTERNAL, f"the container has no interface {call.ifname} to limit")
    peer = links.find_index(context.host, link.peer) if link.kind == "veth" else None
    if peer is None or peer.kind != "veth":
        raise CniError(
            Code.INVALID_CONFIG,
            f"bandwidth limits a veth pair with one end on the host, and {call.ifname} is "
            f"{link.kind or 'a physical device'}",
            "use it after bridge or ptp",
        )
    return peer


def ifb_name(call: Call, *, again: bool = False) -> str:
    """The ifb link of an attachment: the reference plugin's name, which two interfaces of one container on
    one network would share; `again` is the second one's.
    """
    key = call.network + call.container_id + (f"\0{call.ifname}" if again else "")
    return "bwp" + hashlib.sha512(key.encode()).hexdigest()[:12]


def add(call: Call, config: BandwidthConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    limits = _limits(call, config)
    if not limits.limits:
        return call.previous
    port = _host_end(call, tx.context)
    netlink = tx.context.host
    if limits.ingress_rate:
        shape = shaping.bucket(limits.ingress_rate, limits.ingress_burst, limits.latency, port.mtu)
        tx.intend("shaping.remove", link=port.name, direction="egress")
        netlink.request(shaping.limit_egress(port.index, shape))
    if not limits.egress_rate:
        return call.previous
    ifb = _make_ifb(call, tx, port)
    shape = shaping.bucket(limits.egress_rate, limits.egress_burst, limits.latency, port.mtu)
    tx.intend("shaping.remove", link=port.name, direction="ingress")
    netlink.request(shaping.limit_egress(ifb.index, shape), *shaping.redirect_ingress(port.index, ifb.index))
    made = Interface(ifb.name, ifb.mac)
    return replace(call.previous, interfaces=(*call.previous.interfaces, made))


def _make_ifb(call: Call, tx: Transaction, port: Link) -> Link:
    netlink = tx.context.host
    name = ifb_name(call)
    if links.find(netlink, name) is not None:
        name = ifb_name(call, again=True)
    mac = links.random_mac()
    tx.intend("link.delete", where="host", name=name)
    netlink.request(links.create(name, "ifb", [], address=mac, mtu=port.mtu, flags=links.IFF_UP))
    ifb = links.find(netlink, name)
    if ifb is None:
        raise CniError(Code.INTERNAL, f"ifb {name} vanished as soon as it was made")
    return ifb


def check(call: Call, config: BandwidthConfig, context: Context) -> None:
    limits = _limits(call, config)
    if not limits.limits:
        return
    port = _host_end(call, context)
    if limits.ingress_rate:
        _check_bucket(context, port, limits.ingress_rate, "ingress")
    if not limits.egress_rate:
        return
    names = {ifb_name(call), ifb_name(call, again=True)}
    result = call.previous or Result()
    name = next((item.name for item in result.interfaces if item.name in names), ifb_name(call))
    ifb = links.find(context.host, name)
    if ifb is None or ifb.kind != "ifb":
        raise CniError(Code.INTERNAL, f"the ifb link {name}, which limits what the container sends, is gone")
    _check_bucket(context, ifb, limits.egress_rate, "egress")
    if not shaping.redirected(context.host, port.index):
        raise CniError(Code.INTERNAL, f"what comes in on {port.name} is not redirected to {name}")


def _check_bucket(context: Context, link: Link, rate: int, way: str) -> None:
    found = shaping.egress(context.host, link.index)
    if found is None or found.rate != max(1, rate // 8):
        there = f"{found.rate * 8} bit/s" if found is not None else "no token bucket"
        raise CniError(Code.INTERNAL, f"{way}Rate is {rate}, but {link.name} has {there}")


def remove_legacy(call: Call, config: BandwidthConfig, context: Context) -> None:
    """Remove the ifb link of the reference plugin; its qdiscs go with the veth."""
    link = links.find(context.host, ifb_name(call))
    if link is not None and link.kind == "ifb":
        links.remove(context.host, link.name)


PLUGIN: Plugin[Any] = Plugin(
    name="bandwidth",
    kind=Kind.META,
    about="limit how fast a container receives and sends",
    config=BandwidthConfig,
    add=add,
    validate=validate,
    check=check,
    remove_legacy=remove_legacy,
)
