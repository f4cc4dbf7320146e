"""Where a call works: its two namespaces with a netlink socket each, opened when first needed and closed with
the call.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

if TYPE_CHECKING:
    from cni_plugins.attach.plugin import Plugin


class Context:
    """`sandbox_namespace` is None when it is gone; `sandbox` then raises. One thread at a time."""

    __slots__ = ("_host", "_sandbox", "call", "plugins", "sandbox_namespace")

    def __init__(
        self, call: Call, plugins: "Mapping[str, Plugin[Any]]", sandbox_namespace: Namespace | None
    ) -> None:
        self.call = call
        self.plugins = plugins
        self.sandbox_namespace = sandbox_namespace
        self._host: Netlink | None = None
        self._sandbox: Netlink | None = None

    def __enter__(self) -> "Context":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for netlink in (self._host, self._sandbox):
            if netlink is not None:
                netlink.close()

    @property
    def deadline(self) -> Deadline:
        return self.call.deadline

    @property
    def host(self) -> Netlink:
        """Netlink in the plugin's (the host's) namespace."""
        if self._host is None:
            self._host = Netlink(self.call.host, self.deadline)
        return self._host

    @property
    def sandbox(self) -> Netlink:
        """Netlink in the container's namespace. CniError 8 when there is none."""
        if self._sandbox is None:
            self._sandbox = Netlink(self.inside, self.deadline)
        return self._sandbox

    @property
    def inside(self) -> Namespace:
        """The container's namespace. CniError 8 when there is none."""
        if self.sandbox_namespace is None:
            raise CniError(Code.INVALID_NETNS, f"the network namespace {self.call.netns_path!r} is gone")
        return self.sandbox_namespace
