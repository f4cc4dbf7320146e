"""DEL of what a reference plugin attached: there is no record, so the kernel is asked, with care."""

from collections.abc import Callable
from typing import Any

from cni_plugins.kernel import links
from cni_plugins.spec.call import Call
from cni_plugins.steps.context import Context


def link_of(kind: str) -> Callable[[Call, Any, Context], None]:
    """A plugin's `remove_legacy`: delete CNI_IFNAME in the container if it is of this kind and no record has
    it.
    """

    def remove(call: Call, config: object, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        link = links.find(context.sandbox, call.ifname)
        if link is not None and link.kind == kind and not context.interface_is_recorded():
            links.remove(context.sandbox, link.name, link.index)

    return remove
