"""Offer constraints as a master keeps to them: which agents a role is not offered
(src/master/allocator/mesos/offer_constraints_filter.cpp, MESOS-10161).

An attribute that is no text passes every predicate on text; the first attribute of a name counts. A master
compiles patterns with RE2 and refuses those whose program is larger than `--offer_constraints_re2_max_
program_size` (100); Python's `re` and a generous guess of that size stand for it here.
"""

import re
from collections.abc import Iterator

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

OfferConstraints = scheduler_pb2.OfferConstraints
AttributeConstraint = scheduler_pb2.AttributeConstraint
Selector = AttributeConstraint.Selector

MAX_PROGRAM = 100
_DOT = 10
"""Instructions that RE2 needs for any character of UTF-8."""


def fault_of(constraints: OfferConstraints) -> str:
    """What is wrong with them, "" if nothing is."""
    return next(_faults(constraints), "")


def _faults(constraints: OfferConstraints) -> Iterator[str]:
    for role, listed in constraints.role_constraints.items():
        if not listed.groups:
            yield (
                f"'OfferConstraints::role_constraints' has an empty 'RoleConstraints::groups' for role {role}"
            )
        for group in listed.groups:
            if not group.attribute_constraints:
                yield (
                    f"'OfferConstraints::RoleConstraints::groups' for role {role}contains an empty "
                    "RoleConstraints::Group"
                )
            for item in group.attribute_constraints:
                if why := _fault(item):
                    yield f"A role {role} has an invalid 'AttributeConstraint': {why}"


def _fault(item: AttributeConstraint) -> str:
    if item.selector.WhichOneof("selector") is None:
        return "Exactly one of 'name' or 'pseudoattribute_type' must be set"
    if item.selector.pseudoattribute_type == Selector.UNKNOWN and not item.selector.HasField(
        "attribute_name"
    ):
        return "Unknown pseudoattribute type"
    kind = item.predicate.WhichOneof("predicate")
    if kind is None:
        return "Unknown predicate type"
    if kind in ("text_matches", "text_not_matches"):
        pattern = getattr(item.predicate, kind).regex
        try:
            re.compile(pattern)
        except re.error as error:
            return f"Failed to construct regex from pattern '{pattern}': {error}"
        size = len(pattern) + pattern.count(".") * _DOT
        if size > MAX_PROGRAM:
            return (
                f"Regex '{pattern}' is too complex: program size of {size} is larger than maximum of "
                f"{MAX_PROGRAM} allowed"
            )
    return ""


def excluded(constraints: OfferConstraints | None, role: str, agent: mesos_pb2.AgentInfo) -> bool:
    """Whether a role is not to be offered an agent."""
    if constraints is None or role not in constraints.role_constraints:
        return False
    groups = constraints.role_constraints[role].groups
    return not any(all(_holds(item, agent) for item in group.attribute_constraints) for group in groups)


def _holds(item: AttributeConstraint, agent: mesos_pb2.AgentInfo) -> bool:
    value: str | mesos_pb2.Attribute | None
    if item.selector.HasField("attribute_name"):
        name = item.selector.attribute_name
        value = next((found for found in agent.attributes if found.name == name), None)
    elif item.selector.pseudoattribute_type == Selector.HOSTNAME:
        value = agent.hostname
    elif not agent.domain.HasField("fault_domain"):
        value = None
    elif item.selector.pseudoattribute_type == Selector.REGION:
        value = agent.domain.fault_domain.region.name
    else:
        value = agent.domain.fault_domain.zone.name
    return _passes(value, item.predicate)


def _passes(value: str | mesos_pb2.Attribute | None, predicate: AttributeConstraint.Predicate) -> bool:
    kind = predicate.WhichOneof("predicate")
    if value is None:
        return str(kind) in ("not_exists", "text_not_equals", "text_not_matches")
    if kind in ("exists", "not_exists"):
        return str(kind) == "exists"
    if isinstance(value, mesos_pb2.Attribute):
        if value.type != mesos_pb2.Value.TEXT:
            return True
        value = value.text.value
    if kind in ("text_equals", "text_not_equals"):
        wanted = str(getattr(predicate, kind).value)
        return (str(value) == wanted) is (kind == "text_equals")
    matches = re.fullmatch(str(getattr(predicate, str(kind)).regex), str(value)) is not None
    return matches is (kind == "text_matches")
