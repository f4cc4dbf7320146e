"""Plugins that call plugins: `ipam`, a meta plugin's `delegate`, the members of a chain.

One of ours runs in the process and in the caller's transaction; any other is executed, its DEL recorded as an
undo before its ADD starts. The configuration of a delegate is completed with what it needs of its caller's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cni_plugins.attach import added, policing, suspicions, wishes
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call, Verb, for_child
from cni_plugins.spec.config import decode, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Result, encode
from cni_plugins.spec.values import JsonObject, first_host, fold
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context, collection_lock
from cni_plugins.steps.step import Step

_INHERITED = (
    "name",
    "cniVersion",
    "args",
    "runtimeConfig",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
)


def ipam_type(call: Call) -> str:
    """`ipam.type`, "" when the attachment has no addresses (no ipam, or one without a type). CniError 7."""
    ipam = fold(call.config, "ipam")
    if ipam is None:
        return ""
    if not isinstance(ipam, dict):
        raise CniError(Code.INVALID_CONFIG, f"ipam is {ipam!r}, which is not an object")
    kind = fold(ipam, "type")
    if kind is None:
        return ""
    if not isinstance(kind, str):
        raise CniError(Code.INVALID_CONFIG, f"ipam.type is {kind!r}, which is not a string")
    return kind


def type_of(config: JsonObject) -> str:
    """`type` of a delegate's configuration. CniError 7 when it has none."""
    kind = fold(config, "type")
    if not isinstance(kind, str) or not kind:
        raise CniError(Code.INVALID_CONFIG, "a delegate needs a 'type', the name of a plugin")
    return kind


def typed(plugin: Plugin[Any], call: Call, *, lenient: bool = False) -> Any:
    """A plugin's typed configuration out of a call. CniError 2, 4 or 7 unless `lenient`."""
    ipam = plugin.kind is Kind.IPAM
    document = fold(call.config, "ipam") if ipam else call.config
    if lenient:
        return decode(plugin.config, document if isinstance(document, dict) else {}, lenient=True)
    if plugin.args:
        call.require_args()
    if ipam and not isinstance(document, dict):
        what = "is missing" if document is None else f"is {shown(document)}, which is not an object"
        raise CniError(
            Code.INVALID_CONFIG,
            "IPAM config missing 'ipam' key",
            f"key 'ipam' {what}; it holds the keys of {plugin.name}: "
            f'"ipam": {{"type": "{plugin.name}", …}}',
        )
    place = suspicions.IPAM if ipam else suspicions.TOP
    return decode(
        plugin.config,
        document,
        where="ipam." if ipam else "",
        unknown=lambda key: suspicions.unknown(call, plugin.config, key, place),
    )


def delegate_of(call: Call) -> JsonObject | None:
    """The complete configuration of a meta plugin's `delegate`, None when there is none. CniError 7."""
    delegate = fold(call.config, "delegate")
    if delegate is None:
        return None
    if not isinstance(delegate, dict):
        raise CniError(Code.INVALID_CONFIG, f"delegate is {delegate!r}, which is not an object")
    type_of(delegate)
    return inherit(call, delegate)


def inherit(call: Call, config: JsonObject) -> JsonObject:
    """`config` with the name, version, args, runtimeConfig and GC's list of the call where it does not bring
    its own.
    """
    present = {key.casefold() for key in config}
    document = {key: fold(call.config, key) for key in _INHERITED if key.casefold() not in present}
    return {key: value for key, value in document.items() if value is not None} | config


def _child(call: Call, config: JsonObject, previous: Result | None, name: str) -> Call:
    if previous is not None:
        config = {key: value for key, value in config.items() if key.casefold() != "prevresult"}
        config["prevResult"] = encode(previous, call.version)
    return for_child(call, name, config, previous)


def validate(call: Call, config: JsonObject, context: Context) -> None:
    """Refuse a delegate's configuration before anything is changed. CniError 2 or 7; a foreign plugin must
    exist.
    """
    name = type_of(config)
    plugin = context.plugins.get(name)
    if plugin is None:
        from cni_plugins.steps import delegate as foreign

        foreign.find(name, call.path)
        return
    if plugin.kind is Kind.IPAM:
        raise CniError(
            Code.INVALID_CONFIG,
            f"type is {name!r}, which gives addresses and attaches nothing",
            f'put it under "ipam" of the plugin that makes the interface: "ipam": {{"type": "{name}", …}}',
        )
    child = _child(call, config, None, name)
    typed_config = typed(plugin, child)
    suspicions.refuse(child, plugin.kind, name)
    plugin.validate(child, typed_config)
    inner = delegate_of(child) if plugin.kind is Kind.META else None
    if inner is not None:
        validate(child, inner, context)


def addresses(call: Call, tx: Transaction) -> Result:
    """What a MAIN plugin's `ipam` gives, nothing without one. CniError of the IPAM plugin, or 7 when it
    answers no address.
    """
    name = ipam_type(call)
    if not name:
        return Result()
    _require_ipam(tx.context.plugins.get(name), name)
    result = _add(call, tx, name)
    if not result.ips:
        raise CniError(
            Code.INVALID_CONFIG,
            "IPAM plugin returned missing IP config",
            f"ipam plugin {name} returned no addresses",
        )
    wishes.require_ipv6_mtu(fold(call.config, "mtu"), result.ips)
    added.require_apart(call, tx.context, result.ips)
    return replace(result, routes=added.behind(call, tx.context, result.routes))


def _require_ipam(plugin: Plugin[Any] | None, name: str) -> None:
    """A plugin that has an `ipam` itself would ask itself for addresses, and so on. CniError 7."""
    if plugin is not None and plugin.kind is not Kind.IPAM:
        raise CniError(
            Code.INVALID_CONFIG,
            f"ipam.type is {name!r}, which is no IPAM plugin",
            "host-local, static and dhcp give addresses",
        )


def refuse(call: Call, plugin: Plugin[Any], config: Any, plugins: Mapping[str, Plugin[Any]]) -> None:
    """What ADD refuses of a plugin's configuration beside `plugin.validate`, for whoever asks without an ADD.
    CniError 7.
    """
    if plugin.kind is Kind.MAIN:
        policing.require_enforced(call, plugin.name, plugin.config)
        if plugin.takes_ipam:
            needs_link(call, plugins, mac_from_ip=getattr(config, "mac_from_ip", False))
    if plugin.kind is Kind.META:
        delegate_of(call)


def needs_link(call: Call, plugins: Mapping[str, Plugin[Any]], *, mac_from_ip: bool = False) -> bool:
    """Whether a MAIN plugin's `ipam` is to be asked when the interface is there: it asks on it (dhcp).
    CniError 7; also with `mac_from_ip`, which needs the address first.
    """
    name = ipam_type(call)
    if not name:
        return False
    plugin = plugins.get(name)
    _require_ipam(plugin, name)
    if plugin is None or not plugin.needs_link:
        return False
    if mac_from_ip:
        raise CniError(
            Code.INVALID_CONFIG,
            f"macFromIP is true, and ipam.type {name!r} asks on the interface, with its MAC address",
            "leave macFromIP out",
        )
    return True


def with_gateways(ips: Sequence[Address]) -> tuple[Address, ...]:
    """Each address with the gateway that it has anyhow: the IPAM plugin's, else its subnet's first host."""
    return tuple(
        entry if entry.gateway is not None else replace(entry, gateway=first_host(entry.address))
        for entry in ips
    )


def add(call: Call, tx: Transaction, config: JsonObject, previous: Result | None = None) -> Result:
    """ADD of a delegate or chain member with a complete configuration (see `inherit`)."""
    name = type_of(config)
    return _add(_child(call, config, previous, name), tx, name)


def _add(call: Call, tx: Transaction, name: str) -> Result:
    plugin = tx.context.plugins.get(name)
    if plugin is not None:
        return run_add(plugin, replace(call, plugin=name), tx)
    from cni_plugins.steps import delegate as foreign

    foreign.find(name, call.path)
    tx.intend(
        foreign.Delegate(
            plugin=name,
            config=call.config,
            container_id=call.container_id,
            ifname=call.ifname,
            netns=call.netns_path,
            args=call.env.get("CNI_ARGS", ""),
            path=":".join(call.path),
        )
    )
    return foreign.run(Verb.ADD, call, name, call.config) or Result()


def run_add(plugin: Plugin[Any], call: Call, tx: Transaction) -> Result:
    """ADD of one of our plugins in a transaction: its configuration is checked first, then its delegate
    runs.
    """
    config = typed(plugin, call)
    suspicions.refuse(call, plugin.kind, plugin.name)
    if plugin.kind is not Kind.IPAM:
        plugin.validate(call, config)
    if plugin.kind is Kind.MAIN:
        policing.require_enforced(call, plugin.name, plugin.config)
    if plugin.kind is Kind.META:
        delegate = delegate_of(call)
        if delegate is not None:
            validate(call, delegate, tx.context)
            call = replace(call, previous=add(call, tx, delegate))
        elif call.previous is None:
            raise CniError(
                Code.INVALID_CONFIG,
                "This plugin must be called as chained plugin",
                f"missing prevResult from earlier plugin: {plugin.name} changes what another plugin made, "
                "and there is no prevResult; run it after another plugin, or give it that plugin's "
                "configuration under 'delegate'",
            )
    return plugin.add(call, config, tx)


def forward(verb: Verb, call: Call, context: Context, name: str) -> None:
    """CHECK, DEL without a record, GC or STATUS of a delegate. CniError of the delegate."""
    plugin = context.plugins.get(name)
    if plugin is None:
        # Nothing is recorded of it here, so a plugin that is gone is no reason to fail for ever.
        from cni_plugins.steps import delegate as foreign

        if verb not in {Verb.DEL, Verb.GC} or not foreign.is_missing(name, call):
            foreign.run(verb, call, name, call.config)
        return
    run_verb(verb, plugin, replace(call, plugin=name), context)


def run_verb(verb: Verb, plugin: Plugin[Any], call: Call, context: Context) -> None:
    """Any verb but ADD of one of our plugins and of what stands below it; DEL is that without a record.
    CniError: CHECK and STATUS stop at the first, DEL and GC do all they can and raise it then.
    """
    config = typed(plugin, call, lenient=verb in {Verb.DEL, Verb.GC})
    parts = [*_parts(verb, plugin, call, config, context), *_children(verb, plugin, call, context)]
    errors: list[CniError] = []
    for part in parts:
        try:
            part()
        except CniError as error:
            if verb in {Verb.CHECK, Verb.STATUS}:
                raise
            errors.append(error)
    if errors:
        raise errors[0]


def _parts(
    verb: Verb, plugin: Plugin[Any], call: Call, config: Any, context: Context
) -> list[Callable[[], None]]:
    """What a verb means for a plugin itself."""
    if verb is Verb.CHECK:
        return [
            lambda: _check_steps(plugin, call, config, context),
            lambda: plugin.check(call, config, context),
        ]
    if verb is Verb.STATUS:
        return [lambda: plugin.status(call, config, context)]
    kinds = [registry.load(kind) for kind in plugin.kinds]
    if verb is Verb.GC:
        collects = [partial(_locked, call, partial(kind.collect, context)) for kind in kinds]
        return [*collects, lambda: plugin.gc(call, config, context)]
    legacy = [partial(kind.remove_legacy, context) for kind in kinds]
    return [lambda: plugin.remove_legacy(call, config, context), *legacy]


def _locked(call: Call, collect: Callable[[], None]) -> None:
    """Nobody's ADD on this network begins while it is decided what nobody holds."""
    with collection_lock(call):
        collect()


def _check_steps(plugin: Plugin[Any], call: Call, config: Any, context: Context) -> None:
    if plugin.steps is None:
        return
    steps: Iterable[Step] | None = context.take_recorded()
    if steps is None:
        steps = plugin.steps(call, config, context, call.previous or Result())
    for step in steps:
        step.check(context)


def _children(verb: Verb, plugin: Plugin[Any], call: Call, context: Context) -> list[Callable[[], None]]:
    """The same verb for what is below: a MAIN plugin's `ipam`, a META plugin's `delegate`."""
    try:
        if plugin.kind is Kind.MAIN and plugin.takes_ipam:
            name = ipam_type(call)
            _require_ipam(context.plugins.get(name), name)
            return [lambda: forward(verb, call, context, name)] if name else []
        delegate = delegate_of(call) if plugin.kind is Kind.META else None
        if delegate is None:
            return []
        child = _child(call, delegate, call.previous, type_of(delegate))
        return [lambda: forward(verb, child, context, child.plugin)]
    except CniError:
        if verb in {Verb.DEL, Verb.GC}:
            return []  # a configuration that no ADD can have accepted left nothing behind
        raise
