"""flannel: the delegate's network out of what flanneld leased to this host.

flanneld writes the host's subnet into a file; this plugin makes a complete configuration of it and of
`delegate` (a bridge when nothing else is said), and runs that.

    {"cniVersion": "1.0.0", "name": "cbr0", "plugins": [
      {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
      {"type": "portmap", "capabilities": {"portMappings": true}}]}

| in the delegate, unless it says it itself | comes from |
|---|---|
| `mtu` | FLANNEL_MTU |
| `ipMasq` | true where FLANNEL_IPMASQ is false: one of both hides the containers |
| `isGateway` | true for a bridge |
| `severalSubnets` | true for a bridge: a new lease is another subnet, beside that of running containers |
| `ipam.ranges` | FLANNEL_SUBNET and FLANNEL_IPV6_SUBNET, by host-local |
| `ipam.routes` | those of `ipam`, and a route to each of FLANNEL_NETWORK and FLANNEL_IPV6_NETWORK |

The rendered configuration is kept in `dataDir`, in a file named after the container as the flannel project's
plugin names it; a second attachment of the container gets a file of its own. So DEL and CHECK speak of what
was made, whatever flanneld has written since, and need no file of flanneld's. Several networks of flannel on
a host have a `subnetFile` each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugins.attach import delegation
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec import files
from cni_plugins.spec.call import Call, Verb, for_child
from cni_plugins.spec.config import ABSOLUTE_PATH, OBJECT, option, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.values import IpInterface, JsonObject, fold, parse_cidr
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.delegate_file import DelegateFile, read

_SUBNET_FILE, _DATA = "/run/flannel/subnet.env", "/var/lib/cni/flannel"
_LARGEST_MTU = 65536


@dataclass(frozen=True, slots=True)
class FlannelConfig:
    subnet_file: str = option(
        "subnetFile", ABSOLUTE_PATH, "", f"what flanneld writes; default `{_SUBNET_FILE}`"
    )
    data_dir: str = option(
        "dataDir", ABSOLUTE_PATH, "", f"where rendered configurations are kept; default `{_DATA}`"
    )
    delegate: JsonObject | None = option(
        "delegate", OBJECT, None, "the plugin that attaches the container, without `name` and `ipam`"
    )
    ipam: JsonObject | None = option(
        "ipam", OBJECT, None, "keys of the IPAM plugin beside the ranges; its `type` is host-local"
    )


@dataclass(frozen=True, slots=True)
class Lease:
    """What flanneld says: the host's subnets, the networks around them, the MTU, who masquerades."""

    subnets: tuple[IpInterface, ...]
    networks: tuple[IpInterface, ...]
    mtu: int
    masquerades: bool


#: A lease as another, to see what a configuration makes of it.
SOME_LEASE = Lease((parse_cidr("198.18.1.1/24"),), (parse_cidr("198.18.0.0/16"),), 1450, False)


def _subnet_file(call: Call, config: FlannelConfig) -> Path:
    return call.roots.relocate(config.subnet_file or _SUBNET_FILE)


def _lease(path: Path) -> Lease:
    """CniError 11 without the file, 7 naming what is missing or wrong in it."""
    try:
        text = files.read(path).decode("utf-8", "replace")
    except OSError as error:
        raise CniError(
            Code.TRY_AGAIN,
            f"there is no {path}: {error.strerror}",
            "flanneld writes it when it has a lease; is it running? subnetFile says where else it is",
        ) from error
    pairs = (line.strip().partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs if key}
    missing = [key for key in ("FLANNEL_MTU", "FLANNEL_IPMASQ") if not found.get(key)]
    for one, other in (("NETWORK", "SUBNET"), ("IPV6_NETWORK", "IPV6_SUBNET")):
        have = [bool(found.get(f"FLANNEL_{key}")) for key in (one, other)]
        if any(have) and not all(have):
            missing.append(f"FLANNEL_{other if have[0] else one}")
    if not found.get("FLANNEL_SUBNET") and not found.get("FLANNEL_IPV6_SUBNET"):
        missing += ["FLANNEL_NETWORK and FLANNEL_SUBNET (or FLANNEL_IPV6_NETWORK and FLANNEL_IPV6_SUBNET)"]
    if missing:
        raise CniError(Code.INVALID_CONFIG, f"{path} has no {', '.join(dict.fromkeys(missing))}")
    return Lease(
        tuple(_networks(path, found, "SUBNET")),
        tuple(_networks(path, found, "NETWORK")),
        _mtu(path, found["FLANNEL_MTU"]),
        _truth(path, found["FLANNEL_IPMASQ"]),
    )


def _networks(path: Path, found: dict[str, str], what: str) -> list[IpInterface]:
    """flanneld writes several networks with commas between them."""
    listed = []
    for version, key in ((4, f"FLANNEL_{what}"), (6, f"FLANNEL_IPV6_{what}")):
        for text in found.get(key, "").split(","):
            if not text.strip():
                continue
            try:
                network = parse_cidr(text.strip())
            except ValueError as error:
                raise _wrong(path, key, text, str(error)) from error
            if network.version != version:
                raise _wrong(path, key, text, f"not of IPv{version}")
            listed.append(network)
    return listed


def _wrong(path: Path, key: str, value: str, why: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"{path} has {key}={value!r}: {why}")


def _mtu(path: Path, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= _LARGEST_MTU:
        raise _wrong(path, "FLANNEL_MTU", text, f"not a number from 1 to {_LARGEST_MTU}")
    return int(text)


def _truth(path: Path, text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "t", "f"}:
        raise _wrong(path, "FLANNEL_IPMASQ", text, "neither true nor false")
    return text.lower() in {"true", "1", "t"}


def validate(call: Call, config: FlannelConfig) -> None:
    """CniError 7 for what the delegate must leave to this plugin."""
    for key in ("name", "ipam"):
        value = fold(config.delegate or {}, key)
        if value is not None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"delegate.{key} is {shown(value)}, which flannel makes itself",
                "leave it out; keys for the IPAM plugin go into 'ipam' beside 'delegate'",
            )
    kind = fold(config.delegate or {}, "type")
    if kind is not None and (not isinstance(kind, str) or kind in {"", "flannel"}):
        raise CniError(
            Code.INVALID_CONFIG, f"delegate.type is {shown(kind)}, which is not the name of a plugin to run"
        )
    for part in ("routes", "ranges"):
        value = fold(config.ipam or {}, part)
        if value is not None and not isinstance(value, list):
            raise CniError(Code.INVALID_CONFIG, f"ipam.{part} is {shown(value)}: not a list")
    ipam_type = fold(config.ipam or {}, "type")
    if ipam_type is not None and (not isinstance(ipam_type, str) or not ipam_type):
        raise CniError(
            Code.INVALID_CONFIG,
            f"ipam.type is {shown(ipam_type)}, which is not the name of a plugin",
            "leave it out for host-local",
        )


def rendered(call: Call, config: FlannelConfig) -> JsonObject:
    """The delegate's configuration with what flanneld leased. CniError 7 or 11."""
    return delegation.inherit(call, with_lease(config, _lease(_subnet_file(call, config))))


def with_lease(config: FlannelConfig, lease: Lease) -> JsonObject:
    """The delegate's configuration, but for what it gets of the call."""
    delegate = dict(config.delegate or {})
    if fold(delegate, "type") is None:
        delegate["type"] = "bridge"
    defaults: JsonObject = {"mtu": lease.mtu, "ipMasq": not lease.masquerades}
    if fold(delegate, "type") == "bridge":
        defaults |= {"isGateway": True, "severalSubnets": True}
    for key, value in defaults.items():
        if fold(delegate, key) is None:
            delegate[key] = value
    delegate["ipam"] = _ipam(config, lease)
    return delegate


def _ipam(config: FlannelConfig, lease: Lease) -> JsonObject:
    ipam = {
        key: value for key, value in (config.ipam or {}).items() if key.casefold() not in {"ranges", "routes"}
    }
    if fold(ipam, "type") is None:
        ipam["type"] = "host-local"
    ranges = fold(config.ipam or {}, "ranges")
    routes = fold(config.ipam or {}, "routes")
    own = [[{"subnet": str(item.network)}] for item in lease.subnets]
    reached = [{"dst": str(item.network)} for item in lease.networks]
    ipam["ranges"] = [*(ranges if isinstance(ranges, list) else []), *own]
    ipam["routes"] = [*(routes if isinstance(routes, list) else []), *reached]
    return ipam


def _places(call: Call, config: FlannelConfig) -> tuple[Path, Path]:
    """The file that the flannel project's plugin would use, and one that is this attachment's alone."""
    folder = call.roots.relocate(config.data_dir or _DATA)
    return folder / call.container_id, folder / f"{call.container_id}:{call.network}:{call.ifname}"[:250]


def _kept(call: Call, config: FlannelConfig, context: Context) -> tuple[Path, JsonObject] | None:
    """The configuration that was rendered for this attachment, and its file."""
    plain, own = _places(call, config)
    found = read(own)
    if found is not None:
        return own, found
    found = read(plain)
    if found is None or fold(found, "name") not in {None, call.network}:
        return None
    return plain, found


def add(call: Call, config: FlannelConfig, tx: Transaction) -> Result:
    document = rendered(call, config)
    delegation.validate(call, document, tx.context)
    plain, own = _places(call, config)
    tx.apply(DelegateFile(str(own if plain.exists() else plain), document))
    return delegation.add(call, tx, document)


def _child(call: Call, document: JsonObject) -> Call:
    config = delegation.inherit(call, document)
    if call.previous is not None:
        config["prevResult"] = encode(call.previous, call.version)
    return for_child(call, delegation.type_of(config), config, call.previous)


def check(call: Call, config: FlannelConfig, context: Context) -> None:
    kept = _kept(call, config, context)
    child = _child(call, kept[1] if kept else rendered(call, config))
    delegation.forward(Verb.CHECK, child, context, child.plugin)


def _least(call: Call, config: FlannelConfig) -> JsonObject:
    """What DEL and GC need of the delegate's configuration when flanneld's file is gone."""
    delegate = {key: value for key, value in (config.delegate or {}).items() if key.casefold() != "ipam"}
    kind = fold(delegate, "type")
    ipam = {key: value for key, value in (config.ipam or {}).items() if key.casefold() != "ranges"}
    if not isinstance(fold(ipam, "type"), str):
        ipam["type"] = "host-local"
    named = {
        "type": kind if isinstance(kind, str) and kind not in {"", "flannel"} else "bridge",
        "ipam": ipam,
    }
    return {key: value for key, value in delegate.items() if key.casefold() != "type"} | named


def remove_legacy(call: Call, config: FlannelConfig, context: Context) -> None:
    """Replays what the flannel project's plugin kept, or we did before the machine started anew."""
    kept = _kept(call, config, context)
    if kept is None:
        child = _child(call, _least(call, config))
        delegation.forward(Verb.DEL, child, context, child.plugin)
        return
    child = _child(call, kept[1])
    delegation.forward(Verb.DEL, child, context, child.plugin)
    kept[0].unlink(missing_ok=True)


def gc(call: Call, config: FlannelConfig, context: Context) -> None:
    child = _child(call, _least(call, config))
    delegation.forward(Verb.GC, child, context, child.plugin)


def status(call: Call, config: FlannelConfig, context: Context) -> None:
    """CniError 50 while flanneld has no lease."""
    try:
        document = rendered(call, config)
    except CniError as error:
        raise CniError(Code.NOT_AVAILABLE, error.msg, error.details) from error
    child = _child(call, document)
    delegation.forward(Verb.STATUS, child, context, child.plugin)


PLUGIN: Plugin[Any] = Plugin(
    name="flannel",
    kind=Kind.MAIN,
    about="attach containers to the subnet that flanneld leased to this host",
    config=FlannelConfig,
    add=add,
    kinds=(registry.Kind.DELEGATE_FILE,),
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    validate=validate,
    takes_ipam=False,
)
