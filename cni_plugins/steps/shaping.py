"""Traffic shaping: how fast a container may receive and send.

What it receives leaves the host's end of its veth through a token bucket. What it sends comes in there, is
redirected to an ifb link and leaves that through a bucket. Both links are told by name and MAC address.
"""

import hashlib

from cni_plugins.kernel import links, shaping
from cni_plugins.kernel.links import Link
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


def ifb_name(identity: Identity, *, again: bool = False) -> str:
    """The ifb link of an attachment: the reference plugin's name, which two interfaces of one container on
    one network would share; `again` is the second one's.
    """
    key = identity.network + identity.container_id + (f"\0{identity.ifname}" if again else "")
    return "bwp" + hashlib.sha512(key.encode()).hexdigest()[:12]


def _found(context: Context, name: str, mac: str) -> Link | None:
    """A link of the host, unless the name is another one's by now. A record of version 1 may have no MAC
    address.
    """
    link = links.find(context.host, name)
    return link if link is not None and mac in {"", link.mac} else None


def _check_bucket(context: Context, link: Link, rate: int, key: str, *, selected: bool = False) -> None:
    found = shaping.egress(context.host, link.index, selected=selected)
    if found is None or found.rate != max(1, rate // 8):
        there = f"{found.rate * 8} bit/s" if found is not None else "no token bucket"
        raise CniError(Code.INTERNAL, f"{key} is {rate}, but {link.name} has {there}")


def _require(context: Context, name: str, mac: str) -> Link:
    link = _found(context, name, mac)
    if link is None:
        raise CniError(Code.INTERNAL, f"the link {name}, whose rate was limited, is gone")
    return link


@step
class LimitReceiving(Step):
    """A token bucket on the way out of the host's end `name`: `rate` bits a second, `burst` bits at once,
    `latency` milliseconds that a packet may wait. With `subnets` it is for what comes from them (`only`), or
    from anywhere else.
    """

    name: str
    mac: str
    rate: int
    burst: int
    latency: int
    subnets: tuple[IpInterface, ...] = ()
    only: bool = False

    def apply(self, context: Context) -> None:
        link = _require(context, self.name, self.mac)
        shape = shaping.bucket(self.rate, self.burst, self.latency, link.mtu)
        if self.subnets:
            selection = shaping.Selection(self.subnets, self.only)
            context.host.request(*shaping.limit_selected(link.index, shape, selection))
        else:
            context.host.request(shaping.limit_egress(link.index, shape))

    def undo(self, context: Context) -> None:
        link = _found(context, self.name, self.mac)
        if link is not None:
            context.host.request(shaping.remove_egress(link.index))

    def check(self, context: Context) -> None:
        link = _require(context, self.name, self.mac)
        _check_bucket(context, link, self.rate, "ingressRate", selected=bool(self.subnets))

    def restore(self, context: Context) -> None:
        link = _found(context, self.name, self.mac)
        if not self.rate or link is None:
            return
        if shaping.egress(context.host, link.index, selected=bool(self.subnets)) is None:
            if self.subnets:  # half of it may be there
                self.undo(context)
            self.apply(context)


@step
class LimitSending(Step):
    """The ifb link `ifb` with a token bucket, and what comes in on the host's end `name` redirected to it;
    with `subnets` what goes to them (`only`), or anywhere else.
    """

    name: str
    mac: str
    ifb: str
    ifb_mac: str
    rate: int
    burst: int
    latency: int
    subnets: tuple[IpInterface, ...] = ()
    only: bool = False

    def apply(self, context: Context) -> None:
        netlink = context.host
        link = _require(context, self.name, self.mac)
        netlink.request(
            links.create(self.ifb, "ifb", [], address=self.ifb_mac, mtu=link.mtu, flags=links.IFF_UP)
        )
        ifb = _require(context, self.ifb, self.ifb_mac)
        shape = shaping.bucket(self.rate, self.burst, self.latency, link.mtu)
        selection = shaping.Selection(self.subnets, self.only)
        redirect = (
            shaping.redirect_selected(link.index, ifb.index, selection)
            if self.subnets
            else shaping.redirect_ingress(link.index, ifb.index)
        )
        netlink.request(shaping.limit_egress(ifb.index, shape), *redirect)

    def undo(self, context: Context) -> None:
        link = _found(context, self.name, self.mac)
        if link is not None:
            context.host.request(shaping.remove_ingress(link.index))
        ifb = _found(context, self.ifb, self.ifb_mac) if self.ifb else None
        if ifb is not None and ifb.kind == "ifb":
            links.remove(context.host, ifb.name, ifb.index)

    def check(self, context: Context) -> None:
        link = _require(context, self.name, self.mac)
        ifb = _found(context, self.ifb, self.ifb_mac)
        if ifb is None or ifb.kind != "ifb":
            raise CniError(
                Code.INTERNAL, f"the ifb link {self.ifb}, which limits what the container sends, is gone"
            )
        if not ifb.up:
            raise CniError(Code.INTERNAL, f"the ifb link {self.ifb} is down: the container sends nothing")
        _check_bucket(context, ifb, self.rate, "egressRate")
        if not shaping.redirected(context.host, link.index):
            raise CniError(Code.INTERNAL, f"what comes in on {link.name} is not redirected to {self.ifb}")

    def restore(self, context: Context) -> None:
        if not self.rate or _found(context, self.name, self.mac) is None:
            return
        try:
            self.check(context)
        except CniError:  # half of it lets everything through, or nothing
            self.undo(context)
            self.apply(context)

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """Remove the ifb link of the reference plugin; its qdiscs go with the veth. Its name is the
        container's alone: while a record knows the container it may be another interface's.
        """
        link = links.find(context.host, ifb_name(context.call.identity))
        if link is not None and link.kind == "ifb" and not context.container_is_recorded():
            links.remove(context.host, link.name, link.index)
