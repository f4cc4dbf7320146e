"""tuning: sysctls of the container, and MAC address, MTU, queue length and flags of its interface.

It changes the interface CNI_IFNAME that another plugin made: after it in a list, or around it as `delegate`.
An MTU is set on both ends of a veth, and stands in the result with the MAC address. DEL puts everything back,
a sysctl only if nobody changed it since. Sysctl names take dots or slashes; `IFNAME` in one stands for the
interface. Where /etc/cni/tuning/allowlist.conf exists, each sysctl name must match one of its lines (regular
expressions).
Of several sources the last wins: the configuration, CNI_ARGS `MAC`, `runtimeConfig.mac`, `args.cni`.

    {"cniVersion": "1.0.0", "name": "data-net", "type": "tuning",
     "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400,
     "delegate": {"type": "bridge", "bridge": "data0", "isGateway": true,
                  "ipam": {"type": "host-local", "subnet": "10.50.11.0/24"}}}
"""

import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni_plugins.attach import wishes
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import links, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import (
    ABSOLUTE_PATH,
    BOOL,
    MAC_ADDRESS,
    TEXT,
    integer,
    keys_of,
    map_of,
    mtu,
    option,
    parsed_by,
)
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.spec.values import DuplicateKeys, parse_json
from cni_plugins.steps.context import Context
from cni_plugins.steps.delegate_file import DelegateFile
from cni_plugins.steps.link_settings import LinkSettings, Settings
from cni_plugins.steps.step import Step
from cni_plugins.steps.sysctl import Sysctl

DATA_DIR = "/run/cni/tuning"
ALLOWLIST = "/etc/cni/tuning/allowlist.conf"
_BASE = "/proc/sys/net/"


def _sysctls(value: Any, where: str) -> dict[str, str]:
    if isinstance(value, DuplicateKeys):
        twice = ", ".join(value.duplicates)
        raise CniError(
            Code.INVALID_CONFIG,
            "duplicated sysctl keys are not allowed",
            f"{where} has duplicated keys: {twice} stands more than once",
        )
    named: dict[str, str] = map_of(TEXT).at(value, where)
    return named


@dataclass(frozen=True, slots=True)
class TuningConfig:
    sysctl: dict[str, str] | None = option(
        "sysctl", parsed_by("object of strings", _sysctls), None, "`net.*` sysctls to set in the container"
    )
    mac: str | None = option("mac", MAC_ADDRESS, None, "MAC address of the interface")
    mtu: int | None = option("mtu", mtu(65536), None, "MTU of the interface; 0 leaves it alone")
    queue: int | None = option("txQLen", integer(0, 2**31 - 1), None, "length of its transmit queue")
    promisc: bool | None = option("promisc", BOOL, None, "whether it is promiscuous")
    allmulti: bool | None = option("allmulti", BOOL, None, "whether it takes all multicast packets")
    data_dir: str = option(
        "dataDir",
        ABSOLUTE_PATH,
        DATA_DIR,
        "where the reference plugin kept what DEL restores of its own ADDs; in another one than its own "
        "folder ADD writes that too",
    )


def _path_of(name: str, ifname: str) -> str:
    """`net/<path>` below /proc/sys of a sysctl's name. CniError 7 when it is no network sysctl."""
    first = next((char for char in name if char in "./"), "/")
    path = name.translate(str.maketrans("./", "/.")) if first == "." else name
    path = path.lstrip("/")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise CniError(
            Code.INVALID_CONFIG,
            f"sysctl {name!r} is not written plainly",
            "each of its parts is a name: the operator's allowlist is compared with what is written",
        )
    clean = posixpath.normpath("/proc/sys/" + path.replace("IFNAME", ifname, 1))
    if not clean.startswith(_BASE) or "\0" in clean:
        raise CniError(
            Code.INVALID_CONFIG,
            f"sysctl {name!r} is not one of the network's",
            "tuning sets what lies under net., in the container's namespace",
        )
    return clean.removeprefix(_BASE)


def _effective(call: Call, config: TuningConfig) -> TuningConfig:
    """The configuration with what CNI_ARGS, runtimeConfig and args.cni ask for laid over it. CniError 7."""
    order = (wishes.Source.CNI_ARGS, wishes.Source.RUNTIME)  # args.cni comes last here, with all its keys
    config = replace(config, mac=wishes.mac(call, config.mac, order=order))
    for key in keys_of(TuningConfig):
        value = call.cni_args(key.key) if key.key != "dataDir" else None
        if value is None or (key.kind.blank and value == ""):
            continue
        parsed = key.kind.at(value, f"args.cni.{key.key}")
        if key.attribute == "sysctl":
            parsed = (config.sysctl or {}) | parsed
        config = replace(config, **{key.attribute: parsed})
    return config


def _allowed(call: Call, names: Iterator[str]) -> None:
    """CniError 7 for a sysctl that the allowlist does not have; without the file all are allowed."""
    try:
        lines = call.roots.relocate(ALLOWLIST).read_text().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise CniError(Code.IO, f"cannot read {ALLOWLIST}", str(error)) from error
    try:
        patterns = [re.compile(line.strip()) for line in lines if line.strip()]
    except re.error as error:
        raise CniError(
            Code.INVALID_CONFIG, f"{ALLOWLIST} has a bad regular expression", str(error)
        ) from error
    for name in names:
        if not any(pattern.search(name) for pattern in patterns):
            raise CniError(
                Code.INVALID_CONFIG,
                f"Sysctl {name} is not allowed. Only the following sysctls are allowed: "
                f"[{' '.join(pattern.pattern for pattern in patterns)}]",
                f"sysctl {name!r} is not in {ALLOWLIST}, which the operator keeps",
            )


def _plan(call: Call, config: TuningConfig) -> tuple[TuningConfig, dict[str, str]]:
    """The effective settings, and its sysctls by their path below net/. CniError 5 or 7."""
    config = _effective(call, config)
    named = config.sysctl or {}
    paths = {_path_of(name, call.ifname): value for name, value in named.items()}
    _allowed(call, iter(named))
    return config, paths


def validate(call: Call, config: TuningConfig) -> None:
    _plan(call, config)


def _interface(call: Call, context: Context) -> Link:
    link = links.find(context.sandbox, call.ifname)
    if link is None:
        raise CniError(Code.INTERNAL, f"there is no interface {call.ifname} in {call.netns_path} to tune")
    return link


def _sysctl_steps(settings: dict[str, str], context: Context) -> list[Sysctl]:
    listed = []
    for path, value in settings.items():
        before = sysctl.read(context.inside, path)
        if before is None:
            raise CniError(Code.INVALID_CONFIG, f"this kernel has no sysctl net/{path} in the container")
        if before.split() != value.split():
            listed.append(Sysctl(path, before, value))
    return listed


def _flags(config: TuningConfig) -> tuple[int, int]:
    """The flags that are asked to be set, and to be cleared."""
    wishes_of = ((config.promisc, links.IFF_PROMISC), (config.allmulti, links.IFF_ALLMULTI))
    return (
        sum(bit for wanted, bit in wishes_of if wanted),
        sum(bit for wanted, bit in wishes_of if wanted is False),
    )


def _link_step(config: TuningConfig, link: Link) -> LinkSettings | None:
    """What of the wishes the interface does not have yet; None when it has all."""
    raised, dropped = _flags(config)
    raised, dropped = raised & ~link.flags, dropped & link.flags
    mtu, queue, mac = config.mtu or None, config.queue, config.mac
    wanted = Settings(
        mac=None if mac == link.mac else mac,
        mtu=None if mtu == link.mtu else mtu,
        queue=None if queue == link.queue else queue,
        flags=raised,
        clear=dropped,
    )
    if wanted == Settings():
        return None
    before = Settings(
        mac=None if wanted.mac is None else link.mac,
        mtu=None if wanted.mtu is None else link.mtu,
        queue=None if wanted.queue is None else link.queue,
        flags=dropped,
        clear=raised,
    )
    return LinkSettings(link.name, wanted, before)


def _peer_step(mtu: int, link: Link, context: Context) -> LinkSettings | None:
    """The MTU of a veth's other end: one that carries packets one way only at the new size is a fault that
    nobody finds.
    """
    peer = links.other_end(context.host, context.sandbox, link)
    if peer is None or peer.mtu == mtu:
        return None
    return LinkSettings(peer.name, Settings(mtu=mtu), Settings(mtu=peer.mtu), host_mac=peer.mac)


def _tuned(call: Call, config: TuningConfig, result: Result) -> Result:
    def renew(interface: Interface) -> Interface:
        if interface.name != call.ifname or not interface.sandbox:
            return interface
        return replace(interface, mac=config.mac or interface.mac, mtu=config.mtu or interface.mtu)

    return replace(result, interfaces=tuple(renew(interface) for interface in result.interfaces))


def add(call: Call, config: TuningConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    config, settings = _plan(call, config)
    wishes.require_ipv6_mtu(config.mtu, call.previous.ips)
    for step in _sysctl_steps(settings, tx.context):
        tx.apply(step)
    if any(
        value is not None for value in (config.mac, config.mtu, config.queue, config.promisc, config.allmulti)
    ):
        link = _interface(call, tx.context)
        if config.data_dir != DATA_DIR:
            tx.apply(DelegateFile(str(_backup(call, config)), _saved(config, link)))
        own = _link_step(config, link)
        other = _peer_step(own.wanted.mtu, link, tx.context) if own is not None and own.wanted.mtu else None
        for change in (own, other):
            if change is not None:
                tx.apply(change)
    return _tuned(call, config, call.previous)


def steps(call: Call, config: TuningConfig, context: Context, result: Result) -> list[Step]:
    """Everything that was asked for, as it should be; what was not asked for may be as it is."""
    config, settings = _plan(call, config)
    raised, dropped = _flags(config)
    wanted = Settings(config.mac, config.mtu or None, config.queue, raised, dropped)
    listed: list[Step] = [Sysctl(path, "", value) for path, value in settings.items()]
    return [*listed, LinkSettings(call.ifname, wanted, Settings())]


def _backup(call: Call, config: TuningConfig) -> Path:
    """The reference plugin's file of an attachment."""
    return call.roots.relocate(config.data_dir) / f"{call.container_id}_{call.ifname}.json"


def _saved(config: TuningConfig, link: Link) -> dict[str, Any]:
    """What the interface has of what is asked for, as the reference plugin writes it down."""
    state = (
        ("mac", config.mac, link.mac),
        ("mtu", config.mtu, link.mtu),
        ("txQLen", config.queue is not None, link.queue),
        ("promisc", config.promisc, bool(link.flags & links.IFF_PROMISC)),
        ("allmulti", config.allmulti is not None, bool(link.flags & links.IFF_ALLMULTI)),
    )
    return {key: before for key, asked, before in state if asked}


def remove_legacy(call: Call, config: TuningConfig, context: Context) -> None:
    """Put back what the reference plugin's ADD wrote down in its `dataDir`, and remove its file."""
    backup = _backup(call, config)
    try:
        saved = parse_json(backup.read_bytes())
    except OSError:
        return  # there is none, or an id too long for the reference plugin ever to have written one
    except ValueError:
        saved = {}
    if context.interface_is_recorded():
        return  # of an attachment that stands, on another network
    link = links.find(context.sandbox, call.ifname) if context.sandbox_namespace is not None else None
    if link is not None and isinstance(saved, dict):
        with suppress(CniError):  # the interface goes with its main plugin's DEL, and its settings with it
            context.sandbox.request(_restoring(link, saved))
    backup.unlink(missing_ok=True)


def _restoring(link: Link, saved: dict[str, Any]) -> Any:
    attributes = {
        attribute: saved[key]
        for key, attribute, kind in (("mac", "address", str), ("mtu", "mtu", int), ("txQLen", "txqlen", int))
        if isinstance(saved.get(key), kind) and saved[key]
    }
    raised = dropped = 0
    for key, bit in (("promisc", links.IFF_PROMISC), ("allmulti", links.IFF_ALLMULTI)):
        if isinstance(saved.get(key), bool):
            raised |= bit if saved[key] else 0
            dropped |= 0 if saved[key] else bit
    return links.change(link.name, link.index, set_flags=raised, clear_flags=dropped, **attributes)


PLUGIN: Plugin[Any] = Plugin(
    name="tuning",
    kind=Kind.META,
    about="set sysctls of a container, and MAC address, MTU, queue length and flags of its interface",
    config=TuningConfig,
    add=add,
    steps=steps,
    validate=validate,
    remove_legacy=remove_legacy,
    args=True,
)
