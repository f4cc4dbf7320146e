"""The only entry: a request in, a reply out, whatever happens. The one place that turns errors into output.

Standard output is one JSON document (a result, a version object or an error) or nothing. The namespace is
opened and compared with our own here, before anything else is done.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from cni_plugins.spec.call import Call, Reply, Request, Verb, check_environment, parse, parse_verb
from cni_plugins.spec.config import quoted
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.mesos import is_mesos
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, from_descriptor, open_namespace
from cni_plugins.spec.result import Result, encode
from cni_plugins.spec.values import dump_json, fold, parse_json
from cni_plugins.spec.versions import NEWEST, VERSIONS


@dataclass(frozen=True, slots=True)
class Handler:
    """A plugin as the dispatcher knows it: its versions, the function that serves every verb but VERSION, and
    whether it works in the container's namespace (an IPAM plugin does not; the path need not exist).
    """

    name: str
    about: str
    versions: tuple[str, ...]
    serve: Callable[[Call], Result | None]
    sandboxed: bool = True


def handle(request: Request, handlers: Mapping[str, Handler]) -> Reply:
    """Serve one request. Never raises; safe from several threads at once."""
    try:
        handler = handlers[request.plugin]
    except KeyError:
        return _failure(request, CniError(Code.INTERNAL, f"there is no plugin {request.plugin!r}"))
    if "CNI_COMMAND" not in request.env:
        versions = ", ".join(handler.versions)
        text = f"{handler.name}: {handler.about}\nCNI protocol versions supported: {versions}\n"
        return Reply(b"", text.encode(), 0)
    try:
        verb = parse_verb(request.env)
        if verb is Verb.VERSION:
            return _success({"cniVersion": NEWEST, "supportedVersions": list(handler.versions)})
        check_environment(verb, request.env)
        return _serve(verb, request, handler)
    except CniError as error:
        return _failure(request, error)
    except Exception as error:  # a caller that expects one JSON document gets one, whatever went wrong
        return _failure(request, _unforeseen(handler.name, error))


def _unforeseen(plugin: str, error: Exception) -> CniError:
    if isinstance(error, PermissionError) and os.geteuid():
        return CniError(Code.IO, f"{plugin} needs root", str(error))
    return CniError(Code.INTERNAL, f"internal error: {type(error).__name__}", str(error))


def _serve(verb: Verb, request: Request, handler: Handler) -> Reply:
    with _namespaces(verb, request, required=handler.sandboxed) as (host, sandbox):
        call = parse(verb, request, host, sandbox)
        if verb is not Verb.DEL and call.version not in handler.versions:
            raise CniError(
                Code.INCOMPATIBLE_VERSION,
                "incompatible CNI versions",
                f"{handler.name} does not support cniVersion {call.version}, supported are "
                f"{', '.join(handler.versions)}",
            )
        try:
            result = handler.serve(call)
        except CniError as error:
            return replace(_failure(request, error), stderr=_warnings(call))
    if verb is Verb.ADD and result is not None:
        reply = _success(encode(result, call.version, mesos=is_mesos(call.config)))
        return replace(reply, later=tuple(call.later), stderr=_warnings(call))
    return Reply(b"", _warnings(call), 0, idle=tuple(call.idle))


def _warnings(call: Call) -> bytes:
    text = "".join(f"{call.plugin}: network {call.network}: {warning}\n" for warning in call.warnings)
    return text.encode("utf-8", "replace")


@contextmanager
def _namespaces(
    verb: Verb, request: Request, *, required: bool
) -> Iterator[tuple[Namespace, Namespace | None]]:
    """The caller's namespace and the container's, which must be there if it is `required`; those we open are
    closed, those we were given are not.
    """
    opened: list[Namespace] = []
    try:
        if request.host_netns is not None:
            host = from_descriptor(request.host_netns, OWN_NETNS)
        else:
            found = open_namespace(OWN_NETNS)
            if found is None:
                raise CniError(Code.IO, f"cannot open {OWN_NETNS}: is /proc mounted?")
            host = found
            opened.append(host)
        sandbox = _sandbox(verb, request, opened, required=required and verb is not Verb.DEL)
        if sandbox is not None and sandbox.same(host) and not _override(request.env):
            if verb is not Verb.DEL:
                raise CniError(
                    Code.INVALID_NETNS,
                    "plugin's netns and netns from CNI_NETNS should not be the same",
                    f"CNI_NETNS={sandbox.path} is the plugin's own network namespace; a container's "
                    "interface is never made in the host's namespace; nothing was changed",
                )
            sandbox = None  # its ADD was refused, so nothing in there is the container's
        yield host, sandbox
    finally:
        for namespace in opened:
            os.close(namespace.fd)


def _sandbox(verb: Verb, request: Request, opened: list[Namespace], *, required: bool) -> Namespace | None:
    path = request.env.get("CNI_NETNS", "")
    if verb in {Verb.GC, Verb.STATUS} or not path:
        return None
    try:
        if request.netns is not None:
            return from_descriptor(request.netns, path)
        namespace = open_namespace(path)
    except CniError:
        if not required:
            return None
        raise
    if namespace is not None:
        opened.append(namespace)
    elif required:
        raise CniError(
            Code.INVALID_NETNS,
            f"failed to open netns {quoted(path)}: no such file or directory",
            f"CNI_NETNS={path} does not exist",
        )
    return namespace


def _override(env: Mapping[str, str]) -> bool:
    return env.get("CNI_NETNS_OVERRIDE", "").lower() in {"1", "true"}


def _success(document: dict[str, object]) -> Reply:
    return Reply((dump_json(document) + "\n").encode(), b"", 0)


def _failure(request: Request, error: CniError) -> Reply:
    document: dict[str, object] = {
        "cniVersion": _asked_version(request),
        "code": error.code,
        "msg": error.msg,
    }
    if error.details:
        document["details"] = error.details
    return Reply((dump_json(document) + "\n").encode(), b"", 1)


def _asked_version(request: Request) -> str:
    """The version to stamp on an error: the configuration's if it can be found, else the newest."""
    try:
        config = parse_json(request.stdin)
    except ValueError:
        return NEWEST
    version = fold(config, "cniVersion") if isinstance(config, dict) else None
    return version if isinstance(version, str) and version in VERSIONS else NEWEST
