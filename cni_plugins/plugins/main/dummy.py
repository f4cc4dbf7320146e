"""dummy: an interface of the container's own that leads nowhere, with addresses.

Addresses that stay whatever happens to other interfaces: a service's address that a router announces, a name
that programs bind to. What is sent out by it is dropped. `ipam` is needed.

    {"cniVersion": "1.0.0", "name": "anycast", "type": "dummy",
     "ipam": {"type": "static", "addresses": [{"address": "192.0.2.53/32"}, {"address": "2001:db8::53/128"}]}}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import child_link, delegation, wishes
from cni_plugins.attach.child_link import Child
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.plugins.main import legacy
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import MAC_ADDRESS, mtu, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step


@dataclass(frozen=True, slots=True)
class DummyConfig:
    mtu: int = option("mtu", mtu(65535), 0, "MTU; 0 takes the kernel's, 1500")
    mac: str | None = option("mac", MAC_ADDRESS, None, "MAC address; default a random one")


def _require_ipam(call: Call) -> None:
    if not delegation.ipam_type(call):
        raise CniError(
            Code.INVALID_CONFIG,
            "dummy interface requires an IPAM configuration",
            "key 'ipam' is missing, and it is nothing but its addresses; "
            'name a plugin that gives them: "ipam": {"type": "static", "addresses": […]}',
        )


def validate(call: Call, config: DummyConfig) -> None:
    _require_ipam(call)
    wishes.validate(call, mac_address=config.mac)


def _child(config: DummyConfig) -> Child:
    return Child(kind="dummy", master="", mtu=config.mtu, mac=config.mac)


def add(call: Call, config: DummyConfig, tx: Transaction) -> Result:
    return child_link.add(call, _child(config), tx)


def check(call: Call, config: DummyConfig, context: Context) -> None:
    _require_ipam(call)


def steps(call: Call, config: DummyConfig, context: Context, result: Result) -> Sequence[Step]:
    return child_link.steps(call, _child(config), context, result)


PLUGIN: Plugin[Any] = Plugin(
    name="dummy",
    kind=Kind.MAIN,
    about="an interface that leads nowhere and has addresses",
    config=DummyConfig,
    add=add,
    validate=validate,
    check=check,
    steps=steps,
    remove_legacy=legacy.link_of("dummy"),
    args=True,
)
