"""chain: what a network configuration list does, in one plugin, for runtimes that know no lists (Mesos).

    {"cniVersion": "1.0.0", "name": "data-net", "type": "chain", "plugins": [
      {"type": "bridge", "bridge": "data0", "isDefaultGateway": true, "ipMasq": true,
       "ipam": {"type": "host-local", "subnet": "10.50.11.0/24"}},
      {"type": "portmap", "capabilities": {"portMappings": true}}]}

ADD runs the members in order, each with the result of the one before; DEL takes them down in the opposite
order; CHECK shows each the final result. Ours run in this process and in one transaction: if the last one
fails, or the machine stops between two of them, the record takes all of them back. Every member is validated
before the first one changes anything. Each gets `name`, `cniVersion` and `args` of the chain, and of
`runtimeConfig` what it declares under `capabilities`, as a runtime would do it; an agent that adds
network_info declares nothing, so there the port mappings and addresses reach whoever understands them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import delegation
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call, Verb, for_child
from cni_plugins.spec.config import BOOL, OBJECT, list_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.mesos import is_mesos
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.values import JsonObject, fold
from cni_plugins.steps.context import Context

_NOT_FOR_MEMBERS = frozenset({"capabilities", "runtimeconfig"})


@dataclass(frozen=True, slots=True)
class ChainConfig:
    plugins: tuple[JsonObject, ...] = option(
        "plugins", list_of(OBJECT), (), "the members, each a complete plugin configuration with its `type`"
    )
    disable_check: bool = option("disableCheck", BOOL, False, "CHECK answers success without asking members")


def granted(config: JsonObject, member: JsonObject) -> JsonObject:
    """What of a chain's runtimeConfig a member declares; all where the runtime is one that cannot ask."""
    runtime = fold(config, "runtimeConfig")
    if not isinstance(runtime, dict):
        return {}
    capabilities = fold(member, "capabilities")
    if not isinstance(capabilities, dict):
        return runtime if is_mesos(config) else {}
    return {key: value for key, value in runtime.items() if capabilities.get(key) is True}


def _member(call: Call, member: JsonObject) -> JsonObject:
    own = fold(member, "runtimeConfig")
    runtime = granted(call.config, member) | (own if isinstance(own, dict) else {})
    config = {key: value for key, value in member.items() if key.casefold() not in _NOT_FOR_MEMBERS}
    # An empty one stands for "nothing granted", so that the chain's own is not handed down behind it.
    config["runtimeConfig"] = runtime
    return delegation.inherit(call, config)


def _members(call: Call, config: ChainConfig) -> tuple[JsonObject, ...]:
    if not config.plugins:
        raise CniError(
            Code.INVALID_CONFIG,
            "a chain needs members: key 'plugins' is missing or empty",
            'write "plugins": [{"type": "bridge", …}, …]',
        )
    return tuple(_member(call, member) for member in config.plugins)


def _named(members: Iterable[JsonObject]) -> list[tuple[str, JsonObject]]:
    named = []
    for number, member in enumerate(members):
        try:
            named.append((delegation.type_of(member), member))
        except CniError as error:
            raise CniError(error.code, f"plugins[{number}]: {error.msg}", error.details) from error
    for name, _ in named:
        if name == "chain":
            raise CniError(
                Code.INVALID_CONFIG, "a chain cannot be a member of a chain: list its members here"
            )
    return named


def _at(number: int, name: str, error: CniError) -> CniError:
    return CniError(error.code, f"plugins[{number}] ({name}): {error.msg}", error.details)


def validate(call: Call, config: ChainConfig) -> None:
    """CniError 7 for a list that is none; its members are validated when all are known."""
    _named(_members(call, config))


def add(call: Call, config: ChainConfig, tx: Transaction) -> Result:
    members = _named(_members(call, config))
    for number, (name, member) in enumerate(members):
        try:
            delegation.validate(call, member, tx.context)
        except CniError as error:
            raise _at(number, name, error) from error
    result = call.previous
    for number, (name, member) in enumerate(members):
        try:
            result = delegation.add(call, tx, member, result)
        except CniError as error:
            raise _at(number, name, error) from error
    assert result is not None
    return result


def _forward(verb: Verb, call: Call, config: ChainConfig, context: Context) -> None:
    """CHECK and STATUS stop at the first error; DEL and GC go on, backwards, and raise the first."""
    try:
        members = list(enumerate(_named(_members(call, config))))
    except CniError:
        if verb in {Verb.DEL, Verb.GC}:
            return  # a configuration that no ADD can have accepted left nothing behind
        raise
    errors: list[CniError] = []
    goes_on = verb in {Verb.DEL, Verb.GC}
    for number, (name, member) in reversed(members) if goes_on else members:
        previous = {"prevResult": encode(call.previous, call.version)} if call.previous else {}
        try:
            delegation.forward(verb, for_child(call, name, member | previous, call.previous), context, name)
        except CniError as error:
            errors.append(_at(number, name, error))
            if not goes_on:
                break
    if errors:
        raise errors[0]


def check(call: Call, config: ChainConfig, context: Context) -> None:
    if not config.disable_check:
        _forward(Verb.CHECK, call, config, context)


def remove_legacy(call: Call, config: ChainConfig, context: Context) -> None:
    _forward(Verb.DEL, call, config, context)


def gc(call: Call, config: ChainConfig, context: Context) -> None:
    _forward(Verb.GC, call, config, context)


def status(call: Call, config: ChainConfig, context: Context) -> None:
    _forward(Verb.STATUS, call, config, context)


PLUGIN: Plugin[Any] = Plugin(
    name="chain",
    kind=Kind.MAIN,
    about="run a list of plugins as one: list semantics for runtimes that know no lists",
    config=ChainConfig,
    add=add,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    validate=validate,
    takes_ipam=False,
)
