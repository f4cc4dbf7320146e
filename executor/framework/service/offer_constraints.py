"""Which agents the master need not offer: made of what the apps ask that wait for offers (MESOS-10161).

A master of 1.11 or later keeps to `role -> groups (any of them) -> constraints (all of them)`. Each app that
waits is a group of its role. What is told is never more than the app itself refuses: where one app takes any
agent the role has no constraints; what depends on where other instances run is told as "has the attribute";
a pattern is told only where Python's `re` and the master's RE2 cannot disagree and it is small; what is
equal by number and not by text is left out. So nobody starves by it, and what slips through is refused here.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.service.constraints import Constraint
from executor.framework.service.spec import App

OfferConstraints = scheduler_pb2.OfferConstraints
AttributeConstraint = scheduler_pb2.AttributeConstraint
Group = OfferConstraints.RoleConstraints.Group

MAX_GROUPS = 100
"""For a role; more are none at all."""

_PSEUDO = {
    "@hostname": AttributeConstraint.Selector.HOSTNAME,
    "@region": AttributeConstraint.Selector.REGION,
    "@zone": AttributeConstraint.Selector.ZONE,
}
_SMALL = 80
"""Of RE2's instructions, guessed high; a master takes 100 (`--offer_constraints_re2_max_program_size`)."""
_DOT = 10
_PLAIN = re.compile(
    r"(?:[A-Za-z0-9_/:,@|()-]|\\[.+-]|\.|\[[A-Za-z0-9_]+(?:-[A-Za-z0-9])?[A-Za-z0-9_]*\]"
    r"|(?<=[A-Za-z0-9_.)\]])[*+?](?![*+?]))+"
)


def understood_by(version: str) -> bool:
    """Whether a master of this version keeps to offer constraints; False for a version that is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (1, 11)


def constraints_for(waiting: Iterable[App], roles: Sequence[str]) -> OfferConstraints:
    """For apps that wait for offers. A role that some app takes any agent of has none."""
    found, apps = OfferConstraints(), list(waiting)
    for role in roles:
        groups = {_group(app.constraints, bool(app.volumes)) for app in apps if app.role in ("", role)}
        if not groups or b"" in groups or len(groups) > MAX_GROUPS:
            continue
        for data in sorted(groups):
            found.role_constraints[role].groups.add().MergeFromString(data)
    return found


@lru_cache(maxsize=1024)
def _group(constraints: tuple[Constraint, ...], volumes: bool) -> bytes:
    """A serialized group, b"" for any agent. A volume lies where it lies."""
    group = Group()
    for constraint in () if volumes else constraints:
        item = _told(constraint)
        if item is not None:
            group.attribute_constraints.append(item)
    return group.SerializeToString(deterministic=True)


def _told(constraint: Constraint) -> AttributeConstraint | None:
    """One constraint as a master knows them, None where it cannot be said."""
    if constraint.operator == "any":
        return None
    item = AttributeConstraint()
    if constraint.field in _PSEUDO:
        item.selector.pseudoattribute_type = _PSEUDO[constraint.field]
    else:
        item.selector.attribute_name = constraint.field
    value, operator = constraint.value, constraint.operator
    if operator in ("like", "unlike") and _plain(value):
        if operator == "like":
            item.predicate.text_matches.regex = value
        else:
            item.predicate.text_not_matches.regex = value
    elif operator in ("is", "cluster") and value and not _number(value):
        item.predicate.text_equals.value = value
    elif operator == "unlike" or constraint.field == "@hostname":
        return None
    else:
        item.predicate.exists.SetInParent()
    return item


def _plain(pattern: str) -> bool:
    small = 2 * len(pattern) + _DOT * pattern.count(".") <= _SMALL
    return small and "(?" not in pattern and _PLAIN.fullmatch(pattern) is not None


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
