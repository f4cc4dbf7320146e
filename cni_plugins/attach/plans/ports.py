"""Plans for published ports."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cni_plugins.attach.changes import Changes, PortMap
from cni_plugins.attach.host_ports import HostPorts
from cni_plugins.attach.plans.plan import Operation, Plan, lacking, of_type, put
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import IpInterface, JsonObject, fold
from cni_plugins.steps.context import Context
from cni_plugins.steps.localnet import localnet_of
from cni_plugins.steps.ports import PortClaims, Ports, PortsChange, claims_of, without

_ANY = frozenset(("", "0.0.0.0", "::"))  # hostIP, for every address


def change_ports(made: Plan, changes: Changes, context: Context) -> None:
    document = of_type(made.config, "portmap", "mesos-cni-port-mapper")
    if document is None:
        made.problems.append(lacking("ports", "publishes any", "portmap"))
        return
    old = made.first(Ports)
    if old is not None and old.keys is not None:
        made.problems.append("ports: the rules are of the iptables backend, which makes them once for all")
        return
    before = old.wanted if old is not None else Publication((), Hide.LOCAL)
    targets: dict[int, IpInterface] = {}
    for entry in made.result.ips_of(context.call.ifname):
        targets.setdefault(entry.address.version, entry.address)
    forwards = {_forward_key(item): item for item in before.forwards}
    for port in changes.no_ports:
        doomed = [key for key in forwards if key[:3] == port.key and port.family in {0, key[3]}]
        if not doomed:
            made.problems.append(f"ports-={port.host_port}/{port.protocol}: it is not published")
        for key in doomed:
            del forwards[key]
    for port in changes.ports:
        versions = [version for version in targets if port.family in {0, version}]
        if not versions:
            made.problems.append(
                f"ports+={port.host_port}: the container has no IPv{port.family} address to publish it for"
                if port.family
                else f"ports+={port.host_port}: the container has no address"
            )
        for version in versions:
            item = Forward(port.protocol, port.host_ip, port.host_port, targets[version], port.container_port)
            forwards[_forward_key(item)] = item
    after = replace(before, forwards=tuple(forwards.values()))
    _require_unused(made, document, without(after, before).forwards, before.forwards, context)
    _port_operations(made, old, before, after, context)
    _port_config(made, changes)


def _require_unused(
    made: Plan,
    document: JsonObject,
    fresh: Sequence[Forward],
    there: Sequence[Forward],
    context: Context,
) -> None:
    """A program of the host that listens on a port keeps it, as with an ADD."""
    listens = {(item.protocol, item.host_port) for item in there}
    wanted = [item for item in fresh if (item.protocol, item.host_port) not in listens]
    try:
        HostPorts((), (), override=fold(document, "overrideListeners") is True).require_unused(
            context.call.host, wanted
        )
    except CniError as error:
        made.problems.append(str(error))


def _forward_key(item: Forward) -> tuple[str, int, object, int]:
    return item.protocol, item.host_port, item.host_ip, item.target.version


def _port_operations(
    made: Plan, old: Ports | None, before: Publication, after: Publication, context: Context
) -> None:
    fresh = without(after, before)
    if set(after.forwards) - set(before.forwards):
        if old is None and after.hide is not Hide.NOBODY:
            _open_loopback(made, after, context)
        listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in after.forwards}))
        effect = "connections that are there go on as they are, new ones follow the new map"
        made.switches.append(Operation(PortsChange(before, after), f"published: {listed}", effect))
    gone = without(before, after)
    if gone.forwards:
        listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in gone.forwards}))
        effect = "connections that are there go on, new ones are refused"
        made.removals.append(Operation(Ports(gone), f"not published any more: {listed}", effect))
    if fresh.forwards or gone.forwards:
        _claims(made, after, context)
    if old is None:
        made.add(Ports(after))
    else:
        made.swap(old, Ports(after) if after.forwards else None)


def _open_loopback(made: Plan, after: Publication, context: Context) -> None:
    for target in after.targets:
        way = localnet_of(context, target) if target.version == 4 else None
        if way is not None:
            made.additions.append(Operation(way, "127.0.0.1 leads to published ports"))
            made.add(way)


def _claims(made: Plan, after: Publication, context: Context) -> None:
    """CniError 103 naming the container that has one of the ports."""
    held = made.first(PortClaims)
    wanted = claims_of(context, after.forwards).claims
    there = held.claims if held is not None else ()
    fresh = tuple(item for item in wanted if item not in there)
    gone = tuple(item for item in there if item not in wanted)
    if fresh:
        made.additions.append(Operation(PortClaims(fresh), "claims of the ports"))
    if gone:
        made.removals.append(Operation(PortClaims(gone), "no claims of the ports"))
    new = PortClaims(wanted) if wanted else None
    if held is not None:
        made.swap(held, new)
    elif new is not None:
        made.add(new)


def _port_config(made: Plan, changes: Changes) -> None:
    runtime = fold(made.config, "runtimeConfig")
    if not isinstance(runtime, dict):
        runtime = {}
        put(made.config, "runtimeConfig", runtime)
    listed = fold(runtime, "portMappings")
    mappings = listed if isinstance(listed, list) else []
    doomed = {
        (item.protocol, item.host_port, str(item.host_ip or ""))
        for item in (*changes.no_ports, *changes.ports)
    }
    kept = [item for item in mappings if _mapping_key(item) not in doomed]
    put(runtime, "portMappings", kept + [_mapping(item) for item in changes.ports])


def _mapping_key(item: Any) -> tuple[str, object, str]:
    text = str(fold(item, "hostIP") or "")
    return str(fold(item, "protocol") or "tcp").lower(), fold(item, "hostPort"), "" if text in _ANY else text


def _mapping(item: PortMap) -> JsonObject:
    document: JsonObject = {
        "hostPort": item.host_port,
        "containerPort": item.container_port,
        "protocol": item.protocol,
    }
    any_of_family = {4: "0.0.0.0", 6: "::"}.get(item.family, "")
    where = str(item.host_ip) if item.host_ip is not None else any_of_family
    return document | ({"hostIP": where} if where else {})
