"""mesos-cni-port-mapper: accepts the configurations of the plugin of that name that comes with Mesos.

It attaches the container through `delegate` and publishes the task's `port_mappings`, as `portmap` does and
by the same means: for both families, reachable from the host, the container and its neighbours too.

    {"cniVersion": "1.0.0", "name": "mesos-net", "type": "mesos-cni-port-mapper", "chain": "MESOS-PORTS",
     "excludeDevices": ["mesos-br0"],
     "delegate": {"type": "bridge", "bridge": "mesos-br0", "isGateway": true, "ipMasq": true,
                  "ipam": {"type": "host-local", "subnet": "10.70.0.0/24"}}}

In the kernel: what `portmap` makes, and an element per port and excluded device. `chain` names the iptables
chain in which the plugin of Mesos keeps its rules: a container that it attached is detached by removing that
container's rules there. Nothing is added to it any more.
"""

from dataclasses import dataclass

from cni_plugins.attach import host_ports, publishing
from cni_plugins.attach.host_ports import HostPorts, Span
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel.nft.ports import Hide, Publication
from cni_plugins.plugins.meta.portmap import forwards, parse_mappings, targets
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, TEXT, list_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.spec.values import fold
from cni_plugins.steps import ports, registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.ports import Ports


@dataclass(frozen=True, slots=True)
class PortMapperConfig:
    chain: str = option(
        "chain", TEXT, "", "the iptables chain of the plugin that this one stands in for (required)"
    )
    exclude_devices: tuple[str, ...] = option(
        "excludeDevices", list_of(INTERFACE_NAME), (), "packets that come in by these devices are not mapped"
    )
    allowed_host_ports: tuple[Span, ...] = host_ports.allowed()
    reserved_host_ports: tuple[Span, ...] = host_ports.reserved()
    override_listeners: bool = host_ports.override()

    @property
    def ports(self) -> HostPorts:
        return HostPorts(self.allowed_host_ports, self.reserved_host_ports, self.override_listeners)


def _wanted(call: Call, config: PortMapperConfig) -> Publication | None:
    mappings = parse_mappings(call.runtime("portMappings"))
    if not mappings or call.previous is None:
        return None
    found = forwards(mappings, targets(call, call.previous))
    return Publication(found, Hide.LOCAL, tuple(dict.fromkeys(config.exclude_devices)))


def add(call: Call, config: PortMapperConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    call.served.add("portMappings")
    wanted = _wanted(call, config)
    if wanted is not None:
        config.ports.require_unused(call.host, wanted.forwards)
        publishing.publish(tx, Ports(wanted))
    return call.previous


def validate(call: Call, config: PortMapperConfig) -> None:
    """CniError 7 for what the plugin of Mesos requires and is not there."""
    if not config.chain:
        raise CniError(
            Code.INVALID_CONFIG,
            "key 'chain' is missing",
            "mesos-cni-port-mapper needs the name of its iptables chain; portmap does the same without one",
        )
    if fold(call.config, "delegate") is None:
        raise CniError(
            Code.INVALID_CONFIG, "key 'delegate' is missing: the plugin that attaches the container"
        )
    config.ports.require(item.host_port for item in parse_mappings(call.runtime("portMappings")))


def steps(call: Call, config: PortMapperConfig, context: Context, result: Result) -> list[Ports]:
    wanted = _wanted(call, config)
    return [] if wanted is None else [Ports(wanted)]


def remove_legacy(call: Call, config: PortMapperConfig, context: Context) -> None:
    if config.chain:
        ports.remove_commented(context, config.chain, f"container_id: {call.container_id}")


def status(call: Call, config: PortMapperConfig, context: Context) -> None:
    ports.require_nftables(call)


PLUGIN = Plugin(
    name="mesos-cni-port-mapper",
    kind=Kind.META,
    about="publishes ports of the container on the host, with the configuration of Mesos' own plugin",
    config=PortMapperConfig,
    add=add,
    kinds=(registry.Kind.PORTS, registry.Kind.PORT_CLAIMS),
    steps=steps,
    remove_legacy=remove_legacy,
    status=status,
    validate=validate,
)
