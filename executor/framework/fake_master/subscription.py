"""Why a master refuses a framework: what it says of itself, its roles, its offer constraints
(src/master/master.cpp `validateFramework`, src/master/validation.cpp `framework::validate`).
"""

from collections.abc import Container, Iterable, Iterator

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.messages import bad_id, bad_role
from executor.framework.fake_master.offer_constraints import fault_of
from executor.framework.fake_master.options import Options

Capability = mesos_pb2.FrameworkInfo.Capability
_LONGEST = 9_223_372_036.0
"""Seconds in the nanoseconds of 64 bits."""


def roles_of(info: mesos_pb2.FrameworkInfo) -> list[str]:
    """The roles a framework is subscribed to."""
    if any(item.type == Capability.MULTI_ROLE for item in info.capabilities):
        return list(info.roles)
    return [info.role or "*"]


def of_framework(info: mesos_pb2.FrameworkInfo, options: Options, removed: Container[str]) -> str:
    """Why a framework is refused, "" if it is not."""
    return next(_of_framework(info, options, removed), "")


def _of_framework(info: mesos_pb2.FrameworkInfo, options: Options, removed: Container[str]) -> Iterator[str]:
    multi = any(item.type == Capability.MULTI_ROLE for item in info.capabilities)
    if multi and info.HasField("role"):
        yield "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
    if not multi and info.roles:
        yield "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
    roles = roles_of(info)
    twice = sorted({role for role in roles if roles.count(role) > 1})
    if twice:
        yield f"'FrameworkInfo.roles' contains duplicate items: {{ {', '.join(twice)} }}"
    for role in roles:
        if why := bad_role(role):
            yield f"'FrameworkInfo.roles' contains invalid role: {why}"
    if info.id.value and (why := bad_id(info.id.value)):
        yield why
    if not -_LONGEST <= info.failover_timeout <= _LONGEST:
        yield f"The framework failover_timeout ({info.failover_timeout:g}) is invalid"
    unknown = [role for role in roles if options.roles and role not in options.roles]
    if unknown:
        yield f"Roles {{ {', '.join(unknown)} }} are not present in the master's --roles"
    if info.user == "root" and not options.root_submissions:
        yield "User 'root' is not allowed to run frameworks without --root_submissions set"
    if info.id.value in removed:
        yield "Framework has been removed"


def of_wishes(
    info: mesos_pb2.FrameworkInfo,
    suppressed: Iterable[str],
    constraints: scheduler_pb2.OfferConstraints,
) -> str:
    """Why suppressed roles or offer constraints are refused, "" if they are not."""
    roles = roles_of(info)
    listed = sorted(set(suppressed) - set(roles))
    if listed:
        return f"Suppressed roles {{ {', '.join(listed)} }} are not contained in the set of roles"
    for role in constraints.role_constraints:
        if role not in roles:
            return (
                f"Offer constraints specify `role_constraints` for a role '{role}'"
                "not contained in the set of roles"
            )
    why = fault_of(constraints)
    return f"Offer constraints are not valid: {why}" if why else ""


def of_change(old: mesos_pb2.FrameworkInfo, new: mesos_pb2.FrameworkInfo) -> str:
    """Why a framework may not become this one, "" if it may."""
    if old.principal != new.principal:
        return "Changing framework's principal is not allowed."
    for name in ("user", "checkpoint"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            return (
                f"Updating 'FrameworkInfo.{name}' is unsupported; attempted to update from '{before}' "
                f"to '{after}'"
            )
    return ""
