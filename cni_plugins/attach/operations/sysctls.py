"""Undo operations on sysctls."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.kernel import sysctl


def restore(context: Context, args: Mapping[str, Any]) -> None:
    """`sysctl.restore {where, name, before, after}`: put `net/<name>` back, if nobody changed it since."""
    namespace = context.call.host if args["where"] == "host" else context.sandbox_namespace
    if namespace is None:
        return
    found = sysctl.read(namespace, args["name"])
    # Of several numbers the kernel prints tabs where a configuration has spaces.
    if found is not None and found.split() == args["after"].split():
        sysctl.write(namespace, {args["name"]: args["before"]})
