"""The environment of a task, composed from three layers, later ones winning:

1. the executor's own environment, as the agent made it, but for what is the executor's alone
(`inherited`); 2. what describes the task: MESOS_SANDBOX, MESOS_TASK_ID, MESOS_ALLOCATION_ROLE,
MESOS_CONTAINER_IP where known, and HOME, USER and LOGNAME where the task runs as another user; 3.
`CommandInfo.environment`, its secrets resolved.
"""

from collections.abc import Callable, Collection, Mapping

from mesos.v1 import mesos_pb2

from executor.task.command import InvalidTaskError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_BUNDLE_PREFIXES = ("_MEI", "_PYI_", "PYINSTALLER_")
_RESTORED = ("LD_LIBRARY_PATH", "LIBPATH", "LD_PRELOAD")
"""The bundle's bootloader points these at its own libraries and keeps the original under NAME_ORIG."""


def inherited(own: Mapping[str, str], private: Collection[str], *, bundle: str | None) -> dict[str, str]:
    """Layer 1: `own` without `private` variables and without what came in with the bundle, the folder that
    this program was unpacked to if it was.
    """
    kept = {
        name: value
        for name, value in own.items()
        if name not in private and not name.startswith(_BUNDLE_PREFIXES)
    }
    if bundle is not None:
        for name in _RESTORED:
            original = kept.pop(f"{name}_ORIG", None)
            if original is not None:
                kept[name] = original
            elif kept.get(name, "").startswith(bundle):
                del kept[name]
    kept.setdefault("PATH", DEFAULT_PATH)
    return kept


def of_command(command: mesos_pb2.CommandInfo) -> dict[str, str]:
    """Layer 3. Raises InvalidTaskError for a reference to a secret: nobody resolves it for a custom
    executor."""
    variables: dict[str, str] = {}
    for variable in command.environment.variables:
        value = _value(variable)
        if "=" in variable.name or "\0" in variable.name + value or not variable.name:
            raise InvalidTaskError(f"environment variable {variable.name!r} has no usable name or value")
        variables[variable.name] = value
    return variables


def allocation_role(task: mesos_pb2.TaskInfo) -> str | None:
    """The role that the task's resources are allocated to."""
    roles = (resource.allocation_info.role for resource in task.resources)
    return next((role for role in roles if role), None)


def container_ip(
    libprocess_ip: str | None, address: str | None, interfaces: Callable[[], str | None]
) -> str | None:
    """The container's address: what the agent set for libprocess, unless that is any address, as it is in
    a container with networks of its own; else our end of the connection with the agent, unless that leads
    nowhere else, as over a Unix socket. A container with networks of its own has one all the same: then
    `interfaces` looks for it.
    """
    own_networks = libprocess_ip in ("0.0.0.0", "::")
    if libprocess_ip and not own_networks:
        return libprocess_ip
    if address is None or address == "::1" or address.startswith("127."):
        return interfaces() if own_networks else None
    return address


def _value(variable: mesos_pb2.Environment.Variable) -> str:
    kind = variable.type
    if kind == mesos_pb2.Environment.Variable.VALUE:
        return variable.value
    if kind == mesos_pb2.Environment.Variable.SECRET:
        if variable.secret.type == mesos_pb2.Secret.VALUE:
            return variable.secret.value.data.decode("utf-8", "surrogateescape")
        raise InvalidTaskError(
            f"environment variable {variable.name!r} refers to a secret that nobody has resolved: "
            "give its value, or put it into ExecutorInfo.command, where the agent resolves it"
        )
    raise InvalidTaskError(f"environment variable {variable.name!r} is neither VALUE nor SECRET")
