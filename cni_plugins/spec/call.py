"""One invocation of a plugin: what a process is given, and what it turns out to ask for.

`Request` is the raw material (name, environment, standard input, and descriptors when a launcher sent them),
`Call` the parsed and validated form that plugins see. Parsing for DEL takes only what identifies the
attachment, because a DEL that refuses leaves a container that can never be cleaned up.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from cni_plugins.spec import files, mesos
from cni_plugins.spec.config import is_interface_name, quoted
from cni_plugins.spec.deadline import Deadline, after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Result, decode
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.spec.values import JsonObject, fold, parse_json
from cni_plugins.spec.versions import VERSIONS, at_least

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_ARGS = ("IP", "GATEWAY", "MAC", "IgnoreUnknown")


class Verb(StrEnum):
    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_REQUIRED: Mapping[Verb, tuple[str, ...]] = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Verb.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Verb.GC: (),
    Verb.STATUS: (),
    Verb.VERSION: (),
}
_FORGIVING = frozenset((Verb.DEL, Verb.GC))  # they take things away, and need no more than identity
_SINCE: Mapping[Verb, str] = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}
#: In the environment of a GC: when its list was made, in nanoseconds of CLOCK_BOOTTIME.
LISTED = "MESOKIT_LISTED"
_LONGEST_START = 10.0  # seconds that a process may wait for a processor; older ones are somebody else
_TICK = 0.01  # seconds; what proc(5) tells of a start is rounded down to it
_SECONDS: Mapping[Verb, float] = {
    Verb.ADD: 30.0,
    Verb.DEL: 10.0,
    Verb.CHECK: 30.0,
    Verb.GC: 60.0,
    Verb.STATUS: 10.0,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What one process invocation is made of.

    The descriptors come from the node service, whose own namespace is not the caller's; a process of its own
    leaves them None. They stay the caller's to close.
    """

    plugin: str
    env: Mapping[str, str]
    stdin: bytes
    host_netns: int | None = None
    netns: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The output and exit status. `later` is to be run when the caller has them: work that need not hold it
    up. `idle` may wait for a moment in which nothing else is to be done; of two with the same `key` (an
    attribute) one is enough.
    """

    stdout: bytes
    stderr: bytes
    status: int
    later: tuple[Callable[[], None], ...] = ()
    idle: tuple[Callable[[], None], ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """`config` is the whole configuration as a runtime or a caller composed it (network_info already merged);
    `sandbox` is None when DEL finds no namespace, and for GC and STATUS.

    `args` is CNI_ARGS, empty when it is malformed: `args_error` is then what to tell the caller of a plugin
    that reads it. `began` is on the clock that counts from the boot, suspension included (CLOCK_BOOTTIME):
    what is younger, no list that came with the call can know. `later`, `idle`, `warnings` and `served`
    are shared with the calls of delegates and chain members: work for after the answer and for when there is
    time (see Reply), what to tell the operator, and the runtimeConfig keys that some plugin took care of.
    """

    verb: Verb
    plugin: str
    network: str
    container_id: str
    ifname: str
    netns_path: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    config: JsonObject
    version: str
    previous: Result | None
    env: Mapping[str, str]
    roots: Roots
    host: Namespace
    sandbox: Namespace | None
    deadline: Deadline
    network_info: mesos.NetworkInfo | None = None
    valid: frozenset[tuple[str, str]] | None = None
    later: list[Callable[[], None]] = field(default_factory=list)
    idle: list[Callable[[], None]] = field(default_factory=list)
    args_error: CniError | None = None
    began: float = field(default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    warnings: list[str] = field(default_factory=list)
    served: set[str] = field(default_factory=set)

    @property
    def identity(self) -> Identity:
        return Identity(self.network, self.container_id, self.ifname)

    def require_args(self) -> None:
        """CniError 4 when CNI_ARGS cannot be read."""
        if self.args_error is not None:
            raise self.args_error

    def warn(self, text: str) -> None:
        """Tell the operator, once a call, of what may be on purpose and most likely is not; "" is nothing."""
        if text and text not in self.warnings:
            self.warnings.append(text)

    def runtime(self, key: str) -> Any:
        """`runtimeConfig.<key>`, or None."""
        runtime = fold(self.config, "runtimeConfig")
        return fold(runtime, key) if isinstance(runtime, dict) else None

    def cni_args(self, key: str) -> Any:
        """`args.cni.<key>`, or None."""
        args = fold(self.config, "args")
        cni = fold(args, "cni") if isinstance(args, dict) else None
        return fold(cni, key) if isinstance(cni, dict) else None


def parse_verb(env: Mapping[str, str]) -> Verb:
    """CniError 4 for a command that is none."""
    text = env.get("CNI_COMMAND", "")
    try:
        return Verb(text)
    except ValueError:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"unknown CNI_COMMAND: {text}",
            f"CNI_COMMAND is {text!r}, known are {', '.join(Verb)}",
        ) from None


def _fault_of_interface_name(name: str) -> str:
    """What is wrong with a name that is none, in the reference's words."""
    if name in {".", ".."}:
        return "interface name is . or .."
    if len(os.fsencode(name)) > 15:
        return "interface name is too long"
    return "interface name contains / or : or whitespace characters"


def _check_environment(verb: Verb, env: Mapping[str, str]) -> None:
    missing = [name for name in _REQUIRED[verb] if not env.get(name)]
    if missing:
        raise CniError(Code.BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if "CNI_CONTAINERID" in _REQUIRED[verb] and not _IDENTIFIER.fullmatch(env["CNI_CONTAINERID"]):
        raise CniError(
            Code.BAD_ENVIRONMENT,
            "invalid characters in containerID",
            f"CNI_CONTAINERID is {env['CNI_CONTAINERID']!r}: it must start with a letter or digit and go on "
            "with letters, digits, '_', '.' or '-'",
        )
    if "CNI_IFNAME" in _REQUIRED[verb] and not is_interface_name(env["CNI_IFNAME"]):
        raise CniError(
            Code.BAD_ENVIRONMENT,
            _fault_of_interface_name(env["CNI_IFNAME"]),
            f"CNI_IFNAME is {env['CNI_IFNAME']!r}, which has an invalid character or length: an interface "
            "name has 1 to 15 bytes, no '/', ':' or space, and is not '.' or '..'",
        )


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS (`K=V;K=V`).

    CniError 4 for a pair without exactly one `=`, or a key that no plugin of ours knows unless IgnoreUnknown
    is set. Each plugin takes the keys of all, since one of them may be its delegate.
    """
    pairs: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CniError(
                Code.BAD_ENVIRONMENT,
                f"ARGS: invalid pair {quoted(pair)}",
                f"CNI_ARGS has {pair!r}, which is not KEY=VALUE",
            )
        pairs[key] = value
    unknown = [key for key in pairs if key not in _ARGS]
    if unknown and pairs.get("IgnoreUnknown", "").lower() not in {"1", "true"}:
        raise CniError(
            Code.BAD_ENVIRONMENT,
            f"ARGS: unknown args [{' '.join(quoted(f'{key}={pairs[key]}') for key in unknown)}]",
            f"CNI_ARGS has the unknown key {', '.join(unknown)}; known are {', '.join(_ARGS)}; "
            "IgnoreUnknown=1 lets others pass",
        )
    return pairs


def _parse_config(stdin: bytes) -> JsonObject:
    try:
        config = parse_json(stdin)
    except ValueError as error:
        raise CniError(
            Code.DECODING, "the configuration on standard input is not JSON", str(error)
        ) from error
    if not isinstance(config, dict):
        raise CniError(Code.DECODING, "the configuration on standard input is not a JSON object")
    return config


def _version_of(config: JsonObject, verb: Verb) -> str:
    value = fold(config, "cniVersion")
    if value is not None and not isinstance(value, str):
        if verb is Verb.DEL:
            return "0.1.0"
        raise CniError(Code.DECODING, f"cniVersion is {value!r}, which is not a string")
    version = value or "0.1.0"
    if version in VERSIONS:
        return version
    if verb is Verb.DEL:
        return VERSIONS[-1]
    raise CniError(
        Code.INCOMPATIBLE_VERSION,
        "incompatible CNI versions",
        f"cniVersion {version!r} is not supported, this plugin supports {', '.join(VERSIONS)}",
    )


def _network_of(config: JsonObject) -> str:
    name = fold(config, "name")
    if not isinstance(name, str) or not name:
        raise CniError(
            Code.INVALID_CONFIG,
            "missing network name",
            "the configuration has no network name: key 'name' is missing",
        )
    if not _IDENTIFIER.fullmatch(name):
        raise CniError(
            Code.INVALID_CONFIG,
            "invalid characters found in network name",
            f"name is {name!r}: a network name starts with a letter or digit and goes on with letters, "
            "digits, '_', '.' or '-'",
        )
    return name


def _valid_attachments(config: JsonObject) -> frozenset[tuple[str, str]] | None:
    """The pairs (container, interface) that GC must keep; None when the key is absent, which is not an empty
    list. `null` is one: Go writes a list of nothing so.
    """
    names = ("cni.dev/valid-attachments", "cni.dev/attachments")
    key = next((name for name in names if name in config), None)
    if key is None:
        return None
    listed = config[key] or []
    if not isinstance(listed, list):
        raise CniError(Code.DECODING, "cni.dev/valid-attachments is not a list")
    pairs = set()
    for item in listed:
        container = fold(item, "containerID") if isinstance(item, dict) else None
        ifname = fold(item, "ifname") if isinstance(item, dict) else None
        if not isinstance(container, str) or not isinstance(ifname, str):
            raise CniError(
                Code.DECODING, f"cni.dev/valid-attachments has {item!r}: containerID and ifname are needed"
            )
        pairs.add((container, ifname))
    return frozenset(pairs)


def _previous(config: JsonObject, version: str, verb: Verb) -> Result | None:
    document = fold(config, "prevResult")
    if document is None:
        return None
    try:
        return decode(document, version)
    except CniError:
        if verb in _FORGIVING:
            return None
        raise


def parse(verb: Verb, request: Request, host: Namespace, sandbox: Namespace | None) -> Call:
    """Validate a request for any verb but VERSION. CniError 1, 4, 6 or 7."""
    env = request.env
    config = _parse_config(request.stdin)
    version = _version_of(config, verb)
    network = _network_of(config)
    if verb in _SINCE and not at_least(version, _SINCE[verb]):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}",
            f"cniVersion is {version}, {verb} came with {_SINCE[verb]}",
        )
    args: dict[str, str] = {}
    args_error = None
    info = None
    try:
        args = parse_args(env.get("CNI_ARGS", ""))
    except CniError as error:
        args_error = error
    try:
        config, info = mesos.merge(config)
    except CniError:
        if verb not in _FORGIVING:
            raise
    return Call(
        verb=verb,
        plugin=request.plugin,
        network=network,
        container_id=env.get("CNI_CONTAINERID", ""),
        ifname=env.get("CNI_IFNAME", ""),
        netns_path=env.get("CNI_NETNS", ""),
        args=args,
        path=tuple(item for item in env.get("CNI_PATH", "").split(":") if item),
        config=config,
        version=version,
        previous=_previous(config, version, verb),
        env=env,
        roots=roots_from(env),
        host=host,
        sandbox=sandbox,
        deadline=after(_SECONDS[verb]),
        network_info=info,
        valid=_valid_attachments(config) if verb is Verb.GC else None,
        args_error=args_error,
        began=_began(verb, env),
    )


def _began(verb: Verb, env: Mapping[str, str]) -> float:
    """When the caller started the plugin, in seconds of CLOCK_BOOTTIME. The launcher writes it into the
    call's number (`PID-NANOSECONDS`), so that neither a program that is slow to start nor a busy service
    makes a list of GC look younger than it is. Without a launcher it is now.

    A list of GC is older than the launcher's process, which may have waited for a processor before it looked
    at the clock while an ADD that was started later did not. Who knows when it was made says so (LISTED).
    An ADD that was over before the process started is never taken for a later one, however short it was.
    """
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    listed = env.get(LISTED, "")
    if verb is Verb.GC and listed.isascii() and listed.isdigit():
        now = min(now, int(listed[:24]) / 1e9)
    process, _, number = env.get("MESOKIT_CALL", "").partition("-")
    if not (process.isdecimal() and number.isascii() and number.isdigit()):
        return now
    began = min(now, int(number[:24]) / 1e9)
    if verb is Verb.GC:
        started = _started(process)
        if began - _LONGEST_START <= started < began:
            return min(began, started + _TICK)
    return began


def _started(process: str) -> float:
    """When a process was made, in seconds of CLOCK_BOOTTIME: proc(5), `starttime`; 0 if that is unknown (it
    is in another PID namespace).
    """
    try:
        line = files.read(f"/proc/{process}/stat")
        return int(line.rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def check_environment(verb: Verb, env: Mapping[str, str]) -> None:
    """CniError 4 naming every missing or malformed variable that `verb` needs."""
    _check_environment(verb, env)


def for_child(call: Call, plugin: str, config: JsonObject, previous: Result | None) -> Call:
    """The same call as another plugin of the same attachment sees it (delegate, member of a chain)."""
    return replace(call, plugin=plugin, config=config, previous=previous)
