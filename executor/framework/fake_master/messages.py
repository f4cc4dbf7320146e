"""What a master refuses of the parts of a task or an executor, in its words: ids, environments, health
checks, containers, resources (src/common/validation.cpp, src/common/resources.cpp, src/master/validation.cpp
`resource::validate`). Each gives the first fault, "" for none.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from google.protobuf.message import Message
from mesos.v1 import mesos_pb2

from executor.framework.sdk.resources import InvalidResourceError, Kind, Resources, parse

Resource = mesos_pb2.Resource
Variable = mesos_pb2.Environment.Variable


def told(*checks: tuple[object, str]) -> Iterator[str]:
    """The texts of those checks that found something wrong, in order."""
    return (text for wrong, text in checks if wrong)


def told_of(what: str, why: str) -> Iterator[str]:
    """A fault of a part, said with the part's name."""
    return told((why, f"{what}: {why}"))


def bad_id(value: str) -> str:
    """Of any id that may become a folder's name."""
    if not value:
        return "ID must not be empty"
    if len(value.encode()) > 255:
        return "ID must not be greater than 255 characters"
    if value in (".", ".."):
        return f"'{value}' is disallowed"
    if any(character in "/\\" or ord(character) < 32 or ord(character) == 127 for character in value):
        return f"'{value}' contains invalid characters"
    return ""


def bad_role(role: str) -> str:
    """Of a role's name (src/common/roles.cpp)."""
    return next(_role(role), "") if role != "*" else ""


def _role(role: str) -> Iterator[str]:
    yield from told(
        (role.startswith("/"), f"Role '{role}' cannot start with a slash"),
        (role.endswith("/"), f"Role '{role}' cannot end with a slash"),
        ("//" in role, f"Role '{role}' cannot contain two adjacent slashes"),
        (not role, "Role names cannot be the empty string"),
    )
    for component in role.split("/"):
        strange = any(character in "\x08\x7f \t\n\v\f\r" for character in component)
        yield from told(
            (component in (".", "..", "*"), f"Role '{role}' cannot include '{component}' as a component"),
            (
                component.startswith("-"),
                f"Role component '{component}' is invalid because it starts with a dash",
            ),
            (
                strange,
                f"Role component '{component}' is invalid because it contains backspace or whitespace",
            ),
        )


def _set(message: Message) -> set[str]:
    """The fields that a message has."""
    return {field.name for field, _ in message.ListFields()}


def bad_command(command: mesos_pb2.CommandInfo) -> str:
    """Of a command: its environment."""
    return next(_environment(command.environment), "")


def _environment(environment: mesos_pb2.Environment) -> Iterator[str]:
    for variable in environment.variables:
        name = f"Environment variable '{variable.name}'"
        if variable.type == Variable.SECRET:
            if not variable.HasField("secret"):
                yield f"{name} of type 'SECRET' must have a secret set"
            if variable.HasField("value"):
                yield f"{name} of type 'SECRET' must not have a value set"
            if variable.secret.type == mesos_pb2.Secret.VALUE and not variable.secret.HasField("value"):
                yield (
                    f"{name} specifies an invalid secret: "
                    "Secret of type VALUE must have the 'value' field set"
                )
            if b"\0" in variable.secret.value.data:
                yield (
                    f"{name} specifies a secret containing null bytes, "
                    "which is not allowed in the environment"
                )
        elif variable.type == Variable.VALUE:
            if not variable.HasField("value"):
                yield f"{name} of type 'VALUE' must have a value set"
            if variable.HasField("secret"):
                yield f"{name} of type 'VALUE' must not have a secret set"
        else:
            yield "Environment variable of type 'UNKNOWN' is not allowed"


def bad_health_check(check: mesos_pb2.HealthCheck) -> str:
    """Of a health check."""
    return next(_health_check(check), "")


def _health_check(check: mesos_pb2.HealthCheck) -> Iterator[str]:
    yield from told((not check.HasField("type"), "HealthCheck must specify 'type'"))
    match check.type:
        case mesos_pb2.HealthCheck.COMMAND:
            kind = "'shell command'" if check.command.shell else "'executable path'"
            yield from told(
                (not check.HasField("command"), "Expecting 'command' to be set for COMMAND health check"),
                (not check.command.HasField("value"), f"Command health check must contain {kind}"),
            )
            yield from told_of("Health check's `CommandInfo` is invalid", bad_command(check.command))
        case mesos_pb2.HealthCheck.HTTP:
            http = check.http
            yield from told(
                (not check.HasField("http"), "Expecting 'http' to be set for HTTP health check"),
                (
                    http.HasField("scheme") and http.scheme not in ("http", "https"),
                    f"Unsupported HTTP health check scheme: '{http.scheme}'",
                ),
                (
                    http.HasField("path") and not http.path.startswith("/"),
                    f"The path '{http.path}' of HTTP health check must start with '/'",
                ),
            )
        case mesos_pb2.HealthCheck.TCP:
            yield from told((not check.HasField("tcp"), "Expecting 'tcp' to be set for TCP health check"))
        case _:
            yield "'UNKNOWN' is not a valid health check type"
    for name in ("delay_seconds", "grace_period_seconds", "interval_seconds", "timeout_seconds"):
        yield from told((getattr(check, name) < 0, f"Expecting '{name}' to be non-negative"))


def bad_container(container: mesos_pb2.ContainerInfo) -> str:
    """Of a container: its volumes."""
    return next(_container(container), "")


def _container(container: mesos_pb2.ContainerInfo) -> Iterator[str]:
    for volume in container.volumes:
        given = _set(volume) & {"host_path", "image", "source"}
        if len(given) != 1:
            yield "Invalid volume: Only one of them should be set: 'host_path', 'image' and 'source'"
    docker = container.HasField("type") and container.type == mesos_pb2.ContainerInfo.DOCKER
    if docker and not container.HasField("docker"):
        yield "DockerInfo 'docker' is not set for DOCKER typed ContainerInfo"


def bad_resources(resources: Sequence[Resource]) -> str:
    """Of resources that a task, an executor or an operation names."""
    return next(_resources(resources), "")


def _resources(resources: Sequence[Resource]) -> Iterator[str]:
    for resource in resources:
        yield from (f"Invalid resources: {why}" for why in _one_resource(resource))
    try:
        pieces = parse(resources)
    except InvalidResourceError as error:
        yield f"Invalid resources: {error}"
        return
    if pieces.total("gpus") % 1000:
        yield "Invalid 'gpus' resource: The 'gpus' resource must be an unsigned integer"
    for resource in resources:
        disk = resource.disk
        if not resource.HasField("disk"):
            continue
        if disk.HasField("persistence"):
            yield from (f"Invalid DiskInfo: {why}" for why in _persistent(resource))
        elif disk.HasField("volume"):
            yield "Invalid DiskInfo: Non-persistent volume not supported"
        elif not disk.HasField("source"):
            yield "Invalid DiskInfo: DiskInfo is set but empty"


def bad_form(resource: Resource) -> str:
    """Of one resource by itself; looked at before any operation is."""
    return next(_one_resource(resource), "")


def _one_resource(resource: Resource) -> Iterator[str]:
    fields = {
        mesos_pb2.Value.SCALAR: "scalar",
        mesos_pb2.Value.RANGES: "ranges",
        mesos_pb2.Value.SET: "set",
    }
    wanted = fields.get(resource.type, "")
    intervals = sorted((item.begin, item.end) for item in resource.ranges.range)
    overlap = any(later[0] <= earlier[1] for earlier, later in pairwise(intervals))
    yield from told(
        (not resource.name, "Empty resource name"),
        (not wanted, "Unsupported resource type"),
        (_set(resource) & set(fields.values()) != {wanted}, f"Invalid {wanted} resource"),
        (overlap, "Invalid ranges resource: overlapping ranges"),
        (
            resource.HasField("disk") and resource.name != "disk",
            f"DiskInfo should not be set for {resource.name} resource",
        ),
    )
    yield from _reservations(resource)


def _reservations(resource: Resource) -> Iterator[str]:
    if not resource.reservations:
        why = bad_role(resource.role or "*")
        yield from told((why, why))
    elif len(resource.reservations) > 1 and _set(resource) & {"role", "reservation"}:
        yield "Invalid resource format: 'role' and 'reservation' must not be set beside refined reservations"
    for reservation in resource.reservations:
        why = bad_role(reservation.role)
        missing = next((name for name in ("type", "role") if name not in _set(reservation)), "")
        yield from told(
            (
                missing,
                f"Invalid reservation: 'Resource.ReservationInfo.{missing}' field must be set.",
            ),
            (why, why),
            (reservation.role == "*", 'Invalid reservation: role "*" cannot be reserved'),
        )
    for ancestor, refined in pairwise(resource.reservations):
        yield from told(
            (
                refined.type == Resource.ReservationInfo.STATIC,
                "Invalid refined reservation: A refined reservation cannot be STATIC",
            ),
            (
                not refined.role.startswith(f"{ancestor.role}/"),
                f"Invalid refined reservation: role '{refined.role}' is not a refinement of "
                f"'{ancestor.role}'",
            ),
        )


def _persistent(resource: Resource) -> Iterator[str]:
    if resource.HasField("revocable"):
        yield "Persistent volumes cannot be created from revocable resources"
    if not resource.reservations and resource.role in ("", "*"):
        yield "Persistent volumes cannot be created from unreserved resources"
    if not resource.disk.HasField("volume"):
        yield "Expecting 'volume' to be set for persistent volume"
    if resource.disk.volume.HasField("host_path"):
        yield "Expecting 'host_path' to be unset for persistent volume"
    if why := bad_id(resource.disk.persistence.id):
        yield f"Invalid persistence ID for persistent volume: {why}"


def bad_sum(pieces: Iterable[tuple[Kind, object]]) -> str:
    """Of resources that are used together: volumes of one id, revocable and firm pieces of one name."""
    listed = [kind for kind, _ in pieces]
    ids = [(kind.reserved_to, kind.persistence) for kind in listed if kind.persistence]
    for role_and_id in ids:
        if ids.count(role_and_id) > 1:
            return f"Persistence ID '{role_and_id[1]}' is not unique"
    for name in {kind.name for kind in listed}:
        if len({kind.revocable for kind in listed if kind.name == name}) > 1:
            return f"Cannot use both revocable and non-revocable '{name}' at the same time"
    return ""


def bad_allocation(resources: Iterable[Resource]) -> str:
    """Of the roles that resources are allocated to; a master has filled in the offer's."""
    roles = {resource.allocation_info.role for resource in resources}
    if "" in roles:
        return "The resources are not allocated to a role"
    if len(roles) > 1:
        first, second, *_ = sorted(roles)
        return (
            f"The resources have multiple allocation roles ('{first}' and '{second}') "
            "but only one allocation role is allowed"
        )
    return ""


def overlapping(parts: Sequence[Resources]) -> bool:
    """Whether a port, or an item of a set, is in two of the parts."""
    total = Resources()
    for part in parts:
        total += part
    names = {kind.name for part in parts for kind, amount in part if not isinstance(amount, int)}
    return any(total.total(name) != sum(part.total(name) for part in parts) for name in names)
