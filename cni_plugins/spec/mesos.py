"""What a Mesos agent adds to a configuration, turned into what CNI plugins understand, in this one place.

An agent cannot pass capabilities. It puts the task's NetworkInfo under
`args["org.apache.mesos"].network_info`; here its port mappings become `runtimeConfig.portMappings`, its
addresses `runtimeConfig.ips`, and labels under a prefix that the operator named become `runtimeConfig` keys
that the operator listed. Values that the configuration already holds stay in front.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cni_plugins.spec.config import shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, JsonObject, fold, parse_ip, parse_json

_KEY = "org.apache.mesos"


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """`addresses` were asked for by value, `families` (4, 6) only by protocol; `ports` are the host's ports
    that it asked for; `labels` are all of them.
    """

    name: str
    addresses: tuple[Ip, ...]
    families: frozenset[int]
    groups: tuple[str, ...]
    labels: Mapping[str, str]
    ports: tuple[int, ...] = ()


def is_mesos(config: JsonObject) -> bool:
    """Whether the call comes from a Mesos agent, which reads results of the oldest shape only."""
    args = fold(config, "args")
    return isinstance(args, dict) and isinstance(args.get(_KEY), dict)


def _refuse(key: str, value: object, expected: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"network_info.{key} is {shown(value)}, which is not {expected}")


def _list(info: JsonObject, key: str) -> list[Any]:
    value = fold(info, key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _refuse(key, value, "a list of objects")
    return value


def _addresses(info: JsonObject) -> tuple[tuple[Ip, ...], frozenset[int]]:
    wanted: list[Ip] = []
    families: set[int] = set()
    for number, item in enumerate(_list(info, "ip_addresses")):
        where = f"ip_addresses[{number}]"
        text, protocol = fold(item, "ip_address"), fold(item, "protocol") or None
        if protocol not in (None, "IPv4", "IPv6"):  # a tuple: what a task wrote may not be hashable
            raise _refuse(f"{where}.protocol", protocol, "IPv4 or IPv6")
        if not text:
            if protocol is not None:
                families.add(int(protocol[-1]))
            continue
        try:
            address = parse_ip(str(text))
        except ValueError as error:
            raise _refuse(f"{where}.ip_address", text, "an IP address") from error
        if protocol is not None and address.version != int(protocol[-1]):
            raise _refuse(f"{where}.ip_address", text, f"an {protocol} address")
        wanted.append(address)
    return tuple(wanted), frozenset(families)


def _port_mappings(info: JsonObject) -> list[JsonObject]:
    mappings = []
    for number, item in enumerate(_list(info, "port_mappings")):
        where = f"port_mappings[{number}]"
        protocol = str(fold(item, "protocol") or "tcp").lower()
        if protocol not in {"tcp", "udp", "sctp"}:
            raise _refuse(f"{where}.protocol", protocol, "tcp, udp or sctp")
        mapping: JsonObject = {"protocol": protocol}
        for key, name in (("host_port", "hostPort"), ("container_port", "containerPort")):
            port = fold(item, key)
            if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
                raise _refuse(f"{where}.{key}", port, "a port from 1 to 65535")
            mapping[name] = port
        mappings.append(mapping)
    return mappings


def _labels(info: JsonObject) -> dict[str, str]:
    labels = fold(info, "labels")
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise _refuse("labels", labels, "an object")
    return {str(fold(item, "key") or ""): str(fold(item, "value") or "") for item in _list(labels, "labels")}


def _allowed_labels(config: JsonObject, labels: Mapping[str, str]) -> JsonObject:
    """`networkInfoLabels: {prefix, allow}` of the configuration: which labels may set which runtimeConfig
    keys.
    """
    rule = fold(config, "networkInfoLabels")
    if rule is None:
        return {}
    prefix = fold(rule, "prefix") if isinstance(rule, dict) else None
    allow = fold(rule, "allow") if isinstance(rule, dict) else None
    if not isinstance(prefix, str) or not prefix or not isinstance(allow, list):
        raise CniError(
            Code.INVALID_CONFIG,
            f"networkInfoLabels is {rule!r}: it needs a 'prefix' and a list 'allow' of keys",
        )
    values: JsonObject = {}
    for label, text in labels.items():
        key = label.removeprefix(prefix)
        if key == label:
            continue
        if key not in allow:
            raise CniError(
                Code.INVALID_CONFIG, f"label {label!r} is not allowed: networkInfoLabels.allow is {allow!r}"
            )
        values[key] = _label_value(text)
    return values


def _label_value(text: str) -> Any:
    """A label is text; one that is a JSON object or list stands for that, anything else for itself."""
    if text[:1] not in {"{", "["}:
        return text
    try:
        return parse_json(text.encode("utf-8", "replace"))
    except ValueError:
        return text


def merge(config: JsonObject) -> tuple[JsonObject, NetworkInfo | None]:
    """The configuration with its network_info expressed as runtimeConfig. CniError 7 naming the bad field."""
    args = fold(config, "args")
    own = args.get(_KEY) if isinstance(args, dict) else None
    info = fold(own, "network_info") if isinstance(own, dict) else None
    if info is None:
        return config, None
    if not isinstance(info, dict):
        raise CniError(Code.INVALID_CONFIG, f"args[{_KEY!r}].network_info is not an object")
    addresses, families = _addresses(info)
    labels = _labels(info)
    groups = fold(info, "groups")
    given = fold(config, "runtimeConfig")
    runtime: JsonObject = _allowed_labels(config, labels) | (given if isinstance(given, dict) else {})
    mappings = _port_mappings(info)
    for key, values in (
        ("portMappings", mappings),
        ("ips", [str(address) for address in addresses]),
    ):
        if values:
            before = fold(runtime, key)
            runtime[key] = (before if isinstance(before, list) else []) + values
    merged = {key: value for key, value in config.items() if key.casefold() != "runtimeconfig"}
    if runtime:
        merged["runtimeConfig"] = runtime
    name = str(fold(info, "name") or "")
    members = tuple(str(group) for group in groups) if isinstance(groups, list) else ()
    ports = tuple(item["hostPort"] for item in mappings)
    return merged, NetworkInfo(name, addresses, families, members, labels, ports)
