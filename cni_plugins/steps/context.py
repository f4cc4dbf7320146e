"""Where a call works: its two namespaces with a netlink socket each, opened when first needed and closed with
the call.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.store import records
from cni_plugins.store.locks import locked

if TYPE_CHECKING:
    from cni_plugins.kernel.nft.tables import Counts
    from cni_plugins.steps.step import Step


class Shared:
    """What the checks of many attachments have in common, while nothing is changed: a socket in the host's
    namespace, what was counted in nf_tables (a `kernel.nft.tables.Counts`), and whether the host forwards.
    """

    __slots__ = ("counts", "forwards", "host")

    def __init__(self, host: Netlink, counts: "Counts") -> None:
        self.host = host
        self.counts = counts
        self.forwards: dict[int, bool] = {}


class Context:
    """`plugins` are those of the toolkit by name, for delegates; `sandbox_namespace` is None when it is gone,
    `sandbox` then raises. One thread at a time.
    """

    __slots__ = (
        "_host",
        "_recorded",
        "_sandbox",
        "_shared",
        "call",
        "complete",
        "plugins",
        "sandbox_namespace",
    )

    def __init__(
        self,
        call: Call,
        plugins: Mapping[str, Any],
        sandbox_namespace: Namespace | None,
        recorded: "Sequence[Step] | None" = None,
        *,
        complete: bool = False,
        shared: Shared | None = None,
    ) -> None:
        """`recorded` are the steps that a CHECK found in the attachment's record, None without one;
        `complete` says that the ADD whose steps are at work came through. What is `shared` stays open.
        """
        self._shared = shared
        self.complete = complete
        self.call = call
        self.plugins = plugins
        self.sandbox_namespace = sandbox_namespace
        self._recorded = recorded
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
        if self._shared is not None:
            return self._shared.host
        if self._host is None:
            self._host = Netlink(self.call.host, self.deadline)
        return self._host

    @property
    def sandbox(self) -> Netlink:
        """Netlink in the container's namespace. CniError 8 when there is none."""
        if self._sandbox is None:
            self._sandbox = Netlink(self.inside, self.deadline, remember=self._shared is not None)
        return self._sandbox

    @property
    def inside(self) -> Namespace:
        """The container's namespace. CniError 8 when there is none."""
        if self.sandbox_namespace is None:
            raise CniError(Code.INVALID_NETNS, f"the network namespace {self.call.netns_path!r} is gone")
        return self.sandbox_namespace

    @property
    def counts(self) -> "Counts | None":
        """What is remembered of nf_tables, for checks; None where every one has to look for itself."""
        return None if self._shared is None else self._shared.counts

    @property
    def forwards(self) -> dict[int, bool]:
        """What is remembered of the host's forwarding, by the family (4, 6)."""
        return {} if self._shared is None else self._shared.forwards

    def take_recorded(self) -> "Sequence[Step] | None":
        """The steps of the attachment's record, for the first plugin of a CHECK that asks: it checks those of
        its delegates too, and the others find none left. None when there is no record.
        """
        steps, self._recorded = self._recorded, None if self._recorded is None else ()
        return steps

    def iptables_lock(self, *, undoing: bool = False) -> AbstractContextManager[None]:
        """The lock around a change through iptables (see kernel.iptables). CniError 5 or 11."""
        return locked(f"{self.call.roots.run}/locks/iptables", self.deadline, undoing=undoing)

    def keep(self) -> set[Identity]:
        """The attachments of a GC's network that stay: what is listed, and what has a record by now. Whoever
        decides by this looks at the kernel first: a change is in the kernel after its record is on disk.
        """
        network = self.call.network
        listed = {Identity(network, container, ifname) for container, ifname in self.call.valid or ()}
        return listed | {contents.identity for _, contents in records.every(self.call.roots, network)}

    def container_is_recorded(self) -> bool:
        """Whether a record of this network knows the container: then nothing of a reference plugin's that is
        named after the container alone can be told from what is ours. Reads the network's records: ask only
        when something was found.
        """
        call = self.call
        return any(
            contents.identity.container_id == call.container_id
            for _, contents in records.every(call.roots, call.network)
        )

    def interface_is_recorded(self) -> bool:
        """Whether any network of ours attached this very interface (a second ADD of it failed, and this is
        its DEL).
        """
        call = self.call
        return any(
            contents.identity.container_id == call.container_id and contents.identity.ifname == call.ifname
            for _, contents in records.every(call.roots)
        )


def collection_lock(call: Call, *, shared: bool = False) -> AbstractContextManager[None]:
    """GC of a network decides under this lock. An ADD takes it, shared and for a moment, when its record is
    on disk and before it makes anything: either GC sees the record, or it has decided before there was
    anything to see. CniError 5 or 11.
    """
    return locked(
        f"{call.roots.run}/locks/gc-{records.folder_name(call.network)}",
        call.deadline,
        shared=shared,
    )
