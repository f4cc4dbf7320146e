"""Delegates that are not ours: programs found along CNI_PATH and run as the specification says.

The child gets the complete configuration and environment with CNI_COMMAND changed, runs in the host's
namespace, and must be done before the call's deadline. Its stdout is captured; its error object becomes ours.
"""

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from cni_plugins.kernel import program
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result, decode
from cni_plugins.spec.values import JsonObject, dump_json, fold, parse_json
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

#: Set by `mesokit cni forget`: a foreign plugin that cannot take down what it made is passed over.
FORGET = "MESOKIT_FORGET"


def find(name: str, path: tuple[str, ...]) -> Path:
    """The program of a plugin: the first regular file of that name. CniError 7 naming where it was looked
    for.
    """
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise CniError(Code.INVALID_CONFIG, f"type is {name!r}, which cannot be the name of a plugin")
    for place in path:
        if not place.startswith("/"):
            continue  # a service and a program of its own would look in different places
        candidate = Path(place) / name
        try:
            if stat.S_ISREG(candidate.stat().st_mode):
                return candidate
        except OSError:
            continue
    looked = ":".join(path) or "CNI_PATH is empty"
    if any(not place.startswith("/") for place in path):
        looked += " (relative directories are not searched)"
    raise CniError(
        Code.INVALID_CONFIG,
        f'failed to find plugin "{name}" in path [{" ".join(path)}]',
        f"there is no plugin {name!r} along CNI_PATH: {looked}",
    )


def is_missing(name: str, call: Call) -> bool:
    """Whether a foreign plugin is nowhere along CNI_PATH; then the call's operator is told, once."""
    try:
        find(name, call.path)
    except CniError as error:
        call.warn(f"{error.msg} ({error.details}): what it may have made is left as it is")
        return True
    return False


def run(verb: Verb, call: Call, name: str, config: JsonObject) -> Result | None:
    """Run a foreign plugin; its result for ADD. CniError: the child's own, or 11 when the deadline passes."""
    path = find(name, call.path)
    if verb is Verb.ADD and name != _ipam(config):
        call.served.add("portMappings")  # whether it does anything with them is its own affair
    env = {key: value for key, value in call.env.items() if key != "MESOKIT_ROOT"} | {
        "CNI_COMMAND": verb.value
    }
    done = program.run(call.host, [str(path)], env, dump_json(config).encode(), call.deadline)
    if done.status != 0:
        raise _failure(name, done)
    if verb is not Verb.ADD:
        return None
    try:
        document = parse_json(done.out)
    except ValueError as error:
        raise CniError(Code.DECODING, f"plugin {name} did not print a result", str(error)) from error
    return decode(document, call.version, f"the result of {name}")


def _ipam(config: JsonObject) -> object:
    ipam = fold(config, "ipam")
    return fold(ipam, "type") if isinstance(ipam, dict) else None


def _failure(name: str, done: program.Finished) -> CniError:
    try:
        document = parse_json(done.out)
    except ValueError:
        document = None
    if isinstance(document, dict):
        code, msg, details = fold(document, "code"), fold(document, "msg"), fold(document, "details")
        if isinstance(msg, str) and isinstance(code, int):
            return CniError(code, msg, details if isinstance(details, str) else "")
    text = (done.out or done.err).decode("utf-8", "replace").strip()
    how = f"signal {-done.status}" if done.status < 0 else f"status {done.status}"
    return CniError(Code.INTERNAL, f"plugin {name} failed with {how}", text[:2000])


@step
class Delegate(Step):
    """A foreign plugin's ADD, which the caller runs; undo runs its DEL with the configuration and environment
    that its ADD got.
    """

    plugin: str
    config: dict[str, Any]
    container_id: str
    ifname: str
    netns: str
    args: str
    path: str

    def undo(self, context: Context) -> None:
        call = context.call
        env = dict(call.env) | {"CNI_CONTAINERID": self.container_id, "CNI_IFNAME": self.ifname}
        env |= {"CNI_ARGS": self.args} if self.args else {}
        env |= {"CNI_PATH": self.path}
        if context.sandbox_namespace is None:
            env.pop("CNI_NETNS", None)
        else:
            env["CNI_NETNS"] = self.netns
        path = tuple(item for item in self.path.split(os.pathsep) if item)
        try:
            run(Verb.DEL, replace(call, env=env, path=path), self.plugin, self.config)
        except CniError as error:
            if call.env.get(FORGET):
                call.warn(f"plugin {self.plugin} did not take down what it made, which is forgotten: {error}")
                return
            way_out = (
                f"repeat the call when plugin {self.plugin} is there and works; or give up what it made: "
                f"mesokit cni forget {call.network} {self.container_id}"
            )
            raise CniError(error.code, error.msg, f"{error.details}; {way_out}".lstrip("; ")) from error
