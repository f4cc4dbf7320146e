"""DEL of what a reference plugin attached: there is no record, so the kernel is asked, with care."""

from collections.abc import Callable

from cni_plugins.attach.context import Context
from cni_plugins.kernel import links
from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError
from cni_plugins.store import records


def each(*steps: Callable[[], None]) -> None:
    """Run every step, whatever becomes of the others; then raise the first CniError."""
    errors: list[CniError] = []
    for step in steps:
        try:
            step()
        except CniError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def is_ours(call: Call) -> bool:
    """Whether another network of ours attached this very interface (a second ADD of it failed, and this is
    its DEL).
    """
    return any(
        contents.identity.container_id == call.container_id and contents.identity.ifname == call.ifname
        for _, contents in records.every(call.roots)
    )


def delete_link(call: Call, context: Context, kind: str) -> None:
    """Delete CNI_IFNAME in the container if it is of this kind and nobody's record has it."""
    if context.sandbox_namespace is None:
        return
    link = links.find(context.sandbox, call.ifname)
    if link is not None and link.kind == kind and not is_ours(call):
        links.remove(context.sandbox, call.ifname)
