"""Plugins that call plugins: `ipam`, a meta plugin's `delegate`, the members of a chain.

One of ours runs in the process and in the caller's transaction; any other is executed, its DEL recorded as an
undo before its ADD starts. The configuration of a delegate is completed with what it needs of its caller's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cni_plugins.attach import foreign, suspicions
from cni_plugins.attach.context import Context
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call, Verb, for_child
from cni_plugins.spec.config import decode, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.values import JsonObject, fold

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
            f"key 'ipam' {what}",
            f'it holds the keys of {plugin.name}: "ipam": {{"type": "{plugin.name}", …}}',
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
        foreign.find(name, call.path)
        return
    child = _child(call, config, None, name)
    typed_config = typed(plugin, child)
    suspicions.refuse(child, plugin.kind, name)
    plugin.validate(child, typed_config)
    inner = delegate_of(child) if plugin.kind is Kind.META else None
    if inner is not None:
        validate(child, inner, context)


def ipam_add(call: Call, tx: Transaction) -> Result:
    """Addresses of the attachment. CniError of the IPAM plugin, or 7 when it answers none."""
    result = _add(call, tx, ipam_type(call))
    if not result.ips:
        raise CniError(Code.INVALID_CONFIG, f"ipam plugin {ipam_type(call)} returned no addresses")
    return result


def add(call: Call, tx: Transaction, config: JsonObject, previous: Result | None = None) -> Result:
    """ADD of a delegate or chain member with a complete configuration (see `inherit`)."""
    name = type_of(config)
    return _add(_child(call, config, previous, name), tx, name)


def _add(call: Call, tx: Transaction, name: str) -> Result:
    plugin = tx.context.plugins.get(name)
    if plugin is not None:
        return run_add(plugin, replace(call, plugin=name), tx)
    foreign.find(name, call.path)
    tx.intend(
        "delegate.delete",
        plugin=name,
        config=call.config,
        containerID=call.container_id,
        ifname=call.ifname,
        netns=call.netns_path,
        args=call.env.get("CNI_ARGS", ""),
        path=":".join(call.path),
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
    if plugin.kind is Kind.META:
        delegate = delegate_of(call)
        if delegate is not None:
            validate(call, delegate, tx.context)
            call = replace(call, previous=add(call, tx, delegate))
        elif call.previous is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"{plugin.name} changes what another plugin made, and there is no prevResult",
                "run it after another plugin, or give it that plugin's configuration under 'delegate'",
            )
    return plugin.add(call, config, tx)


def forward(verb: Verb, call: Call, context: Context, name: str) -> None:
    """CHECK, DEL without a record, GC or STATUS of a delegate. CniError of the delegate."""
    plugin = context.plugins.get(name)
    if plugin is None:
        foreign.run(verb, call, name, call.config)
        return
    run_verb(verb, plugin, replace(call, plugin=name), context)


def ipam_forward(verb: Verb, call: Call, context: Context) -> None:
    """Forward a verb to the IPAM plugin, if the attachment has one."""
    name = ipam_type(call)
    if name:
        forward(verb, call, context, name)


def run_verb(verb: Verb, plugin: Plugin[Any], call: Call, context: Context) -> None:
    """Any verb but ADD of one of our plugins and its delegate; DEL is that without a record."""
    functions = {
        Verb.CHECK: plugin.check,
        Verb.DEL: plugin.remove_legacy,
        Verb.GC: plugin.gc,
        Verb.STATUS: plugin.status,
    }
    config = typed(plugin, call, lenient=verb in {Verb.DEL, Verb.GC})
    errors: list[CniError] = []
    steps: list[Callable[[], None]] = [lambda: functions[verb](call, config, context)]
    if plugin.kind is Kind.META:
        delegate = delegate_of(call)
        if delegate is not None:
            child = _child(call, delegate, call.previous, type_of(delegate))
            steps.append(lambda: forward(verb, child, context, child.plugin))
    for step in steps:
        try:
            step()
        except CniError as error:
            if verb in {Verb.CHECK, Verb.STATUS}:
                raise
            errors.append(error)
    if errors:
        raise errors[0]
