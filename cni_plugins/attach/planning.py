"""How one attachment gets what an operator wants: the difference of two lists of steps.

The steps of the record are rewritten as an ADD with the changed configuration would have made them; what
leads from one list to the other are operations, in the order in which nothing is missing meanwhile: first
what is added, then what changes in place, then (when the record has the new list) what is taken away. What
cannot be changed in place is told with the reason, and so is what costs packets or flows.
"""

from collections.abc import Callable, Sequence

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.plans.addresses import change_addresses, change_routes
from cni_plugins.attach.plans.checks import missing, require_acceptable
from cni_plugins.attach.plans.inside import change_dns, change_labels, change_sysctls
from cni_plugins.attach.plans.link import change_flags, change_limits, change_mtu
from cni_plugins.attach.plans.plan import Plan, copied
from cni_plugins.attach.plans.ports import change_ports
from cni_plugins.spec.result import Result
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step


def plan(
    changes: Changes,
    steps: list[Step],
    result: Result,
    context: Context,
    *,
    others: Sequence[Step] = (),
    force: bool,
) -> Plan:
    """What leads from a record's steps and result to those with `changes`; `others` are the steps of further
    records of the attachment. Reads the kernel, changes nothing.
    CniError when the kernel cannot be asked.
    """
    made = Plan(list(steps), result, copied(context.call.config), tuple(others))
    if context.sandbox_namespace is None:
        made.problems.append("the container's network namespace is gone: DEL is all that is left for it")
        return made
    if changes.inside:
        made.problems += missing(made, context, routes=bool(changes.gateways or changes.routes))
    if made.problems:
        return made
    parts: tuple[tuple[bool, Callable[[Plan, Changes, Context], None]], ...] = (
        (bool(changes.addresses or changes.no_addresses), lambda *args: change_addresses(*args, force=force)),
        (bool(changes.gateways or changes.routes or changes.no_routes), change_routes),
        (bool(changes.ports or changes.no_ports), change_ports),
        (changes.mtu is not None, change_mtu),
        (bool(changes.limits), change_limits),
        (bool(changes.flags), change_flags),
        (bool(changes.sysctls), change_sysctls),
        (bool(changes.dns), change_dns),
        (changes.groups is not None or bool(changes.labels), change_labels),
    )
    for asked, part in parts:
        if asked:
            part(made, changes, context)
    if not made.problems:
        require_acceptable(made, context)
    return made
