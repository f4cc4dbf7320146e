"""static: the addresses that the configuration names, nothing reserved, nothing remembered.

Who asks wins: CNI_ARGS `IP` adds to the configured addresses, `args.cni.ips` replaces them, and
`runtimeConfig.ips` (capability `ips`, or a Mesos task's `ip_addresses`) replaces that. A request without a
prefix length takes prefix and gateway from the configured address whose network it lies in. CNI_ARGS
`GATEWAY` gives its gateways to the addresses whose network they lie in. Nothing is reserved here, so what a
Mesos task asks for might be anybody's: its wish counts where `allowedAddresses` says so.

    {"cniVersion": "1.0.0", "name": "lab", "type": "bridge", "bridge": "lab0", "isGateway": true,
     "ipam": {"type": "static", "addresses": [{"address": "10.20.0.5/24", "gateway": "10.20.0.1"}]}}
"""

from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.plugins.ipam.ranges import check_gateway, unusable
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import CIDR, IP, list_of, nested, option, parsed_by, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Dns, Result, Route, configured_route, decode_dns
from cni_plugins.spec.values import Ip, IpInterface, fold, parse_cidr, parse_ip
from cni_plugins.spec.versions import at_least
from cni_plugins.steps.context import Context


@dataclass(frozen=True, slots=True)
class StaticAddress:
    address: IpInterface | None = option("address", CIDR, None, "the address with its prefix length")
    gateway: Ip | None = option("gateway", IP, None, "the router of its network")


def _entry(value: Any, where: str) -> StaticAddress:
    """A Go program that writes the reference plugin's structure out adds its parsed form, `Address`, to what
    was configured, `address`; Go's decoder tells the two apart by case.
    """
    if isinstance(value, dict) and "address" in value and isinstance(value.get("Address"), dict):
        value = {key: item for key, item in value.items() if key != "Address"}
    text = fold(value, "address") if isinstance(value, dict) else None
    if isinstance(text, str) and text:
        try:
            parse_cidr(text)
        except ValueError as error:
            raise CniError(
                Code.INVALID_CONFIG,
                f"the 'address' field is expected to be in CIDR notation, got: '{text[:80]}'",
                f"{where}.address is {shown(text)}: {error}",
            ) from error
    entry: StaticAddress = _ENTRY.at(value, where)
    return entry


_ENTRY = nested(StaticAddress)


@dataclass(frozen=True, slots=True)
class StaticConfig:
    addresses: tuple[StaticAddress, ...] = option(
        "addresses", list_of(replace(_ENTRY, within=_entry)), (), "the addresses that the interface gets"
    )
    allowed: tuple[IpInterface, ...] = option(
        "allowedAddresses",
        list_of(CIDR),
        (),
        "networks (`10.20.0.128/25`) in which a task may choose addresses",
    )
    routes: tuple[Route, ...] = option(
        "routes", list_of(parsed_by("route", configured_route)), (), "routes, copied to the result"
    )
    dns: Dns = option("dns", parsed_by("dns", decode_dns), Dns(), "name servers, copied to the result")


def _configured(call: Call, config: StaticConfig) -> tuple[Address, ...]:
    warn = call.warn if call.verb is Verb.ADD else lambda text: None
    for number, entry in enumerate(config.addresses):
        where = f"ipam.addresses[{number}]"
        if entry.address is None:
            raise CniError(Code.INVALID_CONFIG, f"{where} has no 'address'")
        if entry.gateway is not None:
            check_gateway(entry.gateway, entry.address.network, f"{where}.gateway", warn)
            if entry.gateway == entry.address.ip:
                warn(f"{where}.gateway is {entry.gateway}, which is the container's own address")
    return tuple(Address(entry.address, entry.gateway) for entry in config.addresses if entry.address)


def _no_cidr(where: str, text: str) -> str:
    """The reference's words."""
    if where == "CNI_ARGS IP":
        return f"the 'ip' field is expected to be in CIDR notation, got: '{text[:80]}'"
    return f"an entry in the 'ips' field is NOT in CIDR notation, got: '{text[:80]}'"


def _requested(text: object, where: str, configured: tuple[Address, ...]) -> Address:
    """One requested address; a bare one borrows from the configured network that it lies in."""
    if not isinstance(text, str):
        raise CniError(Code.INVALID_CONFIG, f"{where} has {text!r}, which is not an address")
    try:
        if "/" in text:
            return Address(parse_cidr(text))
        wanted = parse_ip(text)
    except ValueError as error:
        raise CniError(
            Code.INVALID_CONFIG, _no_cidr(where, text), f"{where} has {text!r}: {error}"
        ) from error
    for entry in configured:
        if wanted in entry.address.network:
            own = parse_cidr(f"{wanted}/{entry.address.network.prefixlen}")
            return Address(own, entry.gateway)
    raise CniError(
        Code.INVALID_CONFIG,
        _no_cidr(where, text),
        f"{where} asks for {wanted}, which has no prefix length and lies in no network of ipam.addresses: "
        f"write it with one, like {wanted}/{24 if wanted.version == 4 else 64}",
    )


def _replaced(
    call: Call, configured: tuple[Address, ...], current: tuple[Address, ...]
) -> tuple[Address, ...]:
    for where, values in (("args.cni.ips", call.cni_args("ips")), ("runtimeConfig.ips", call.runtime("ips"))):
        if values is None:
            continue
        if not isinstance(values, list):
            raise CniError(Code.INVALID_CONFIG, f"{where} is {values!r}, which is not a list of addresses")
        if values:
            current = tuple(_requested(value, where, configured) for value in values)
    return current


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _with_gateways(addresses: tuple[Address, ...], text: str) -> tuple[Address, ...]:
    """CNI_ARGS `GATEWAY`: each gateway goes to the addresses whose network it lies in."""
    for word in _words(text):
        try:
            gateway = parse_ip(word)
        except ValueError as error:
            raise CniError(Code.BAD_ENVIRONMENT, f"CNI_ARGS GATEWAY has {word!r}", str(error)) from error
        addresses = tuple(
            replace(entry, gateway=gateway) if gateway in entry.address.network else entry
            for entry in addresses
        )
    return addresses


def chosen(call: Call, config: StaticConfig) -> tuple[Address, ...]:
    """The addresses of an attachment. CniError 4 or 7 naming the source of a bad one."""
    configured = _configured(call, config)
    words = _words(call.args.get("IP", ""))
    addresses = configured + tuple(_requested(word, "CNI_ARGS IP", configured) for word in words)
    addresses = _replaced(call, configured, _with_gateways(addresses, call.args.get("GATEWAY", "")))
    _check_wishes(call, config, configured, addresses)
    if not at_least(call.version, "0.3.0"):
        for family in (4, 6):
            if sum(entry.address.version == family for entry in addresses) > 1:
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"CNI version {call.version} does not support more than 1 address per family",
                    f"cniVersion {call.version} has room for one IPv{family} address, and ipam names more: "
                    "name fewer, or set cniVersion to 0.3.0 or later",
                )
    return addresses


def _check_wishes(
    call: Call, config: StaticConfig, configured: tuple[Address, ...], chosen: tuple[Address, ...]
) -> None:
    """CniError 7 for an address that a task asked for and may not have: but for what the operator set apart,
    it may be the router's or another container's.
    """
    asked = call.network_info.addresses if call.network_info is not None else ()
    own = {entry.address.ip for entry in configured}
    gateways = {entry.gateway for entry in (*configured, *chosen) if entry.gateway is not None}
    for entry in chosen:
        wanted = entry.address.ip
        if wanted not in asked or wanted in own:
            continue
        problem = "the gateway" if wanted in gateways else unusable(wanted, entry.address.network)
        if problem:
            raise CniError(
                Code.INVALID_CONFIG,
                f"the task asked for address {wanted}, which is {problem} of {entry.address.network}",
                "ask for another one, or for none",
            )
        if not any(wanted in network.network for network in config.allowed):
            listed = ", ".join(str(network.network) for network in config.allowed) or "empty"
            raise CniError(
                Code.INVALID_CONFIG,
                f"the task asked for address {wanted}, and on network {call.network} tasks do not choose",
                f"ipam.allowedAddresses is {listed}; the operator may list networks there in which tasks may "
                "choose, or use host-local, which gives no address twice",
            )


def _given(call: Call, config: StaticConfig) -> tuple[Address, ...]:
    addresses = chosen(call, config)
    if not addresses:
        raise CniError(
            Code.INVALID_CONFIG,
            "ipam plugin static has no address to give",
            "name some under ipam.addresses, or ask for one (CNI_ARGS IP, args.cni.ips, runtimeConfig.ips)",
        )
    return addresses


def validate(call: Call, config: StaticConfig) -> None:
    """CniError 4 or 7. That nothing is configured is no fault where the runtime may bring an address."""
    capabilities = fold(call.config, "capabilities")
    brought = isinstance(capabilities, dict) and capabilities.get("ips") is True
    if not (brought or config.allowed) or chosen(call, config):
        _given(call, config)


def add(call: Call, config: StaticConfig, tx: Transaction) -> Result:
    return Result(ips=_given(call, config), routes=config.routes, dns=config.dns)


def check(call: Call, config: StaticConfig, context: Context) -> None:
    """Every address still stands in the result of ADD, with its gateway."""
    if call.previous is None:
        return
    for wanted in chosen(call, config):
        found = [entry for entry in call.previous.ips if entry.address.ip == wanted.address.ip]
        if not found:
            raise CniError(Code.INTERNAL, f"address {wanted.address} is not in prevResult")
        if wanted.gateway is not None and found[0].gateway != wanted.gateway:
            raise CniError(
                Code.INTERNAL,
                f"the gateway of {wanted.address} is {wanted.gateway}, prevResult says {found[0].gateway}",
            )


def status(call: Call, config: StaticConfig, context: Context) -> None:
    _configured(call, config)


PLUGIN: Plugin[Any] = Plugin(
    name="static",
    kind=Kind.IPAM,
    about="give an interface the addresses that its configuration names",
    config=StaticConfig,
    add=add,
    check=check,
    status=status,
    validate=validate,
    args=True,
)
