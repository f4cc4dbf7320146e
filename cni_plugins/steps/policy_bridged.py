"""What passes from port to port of a bridge: how it is judged, and what the kernel's bridge family has of it.

The first choice is connection tracking in the bridge family (kernel/nft/policy.py, BRIDGED), which changes
nothing for other programs. Whether the kernel has that is seen when the first container of a bridge comes:
it takes the rules or does not. br_netfilter of the bridge alone is the second (kernel/bridge_filter.py), and
without either an attachment is refused. What was chosen is part of the state, until there is no container of
a bridge any more.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial

from cni_plugins.kernel import bridge_filter
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, Nfnetlink
from cni_plugins.kernel.nft import library, policy_rules
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.kernel.nft.sections import Section
from cni_plugins.policy.compile import Change, Compiled
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.profile import Entry
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace

#: The sets of which the bridge family has a second one, by how their names begin; in_ and out_: profiles'.
_DOUBLED = (
    "policy_out", "policy_in", "policy_shut", "policy_known", "policy_closed", "policy_self", "policy_links",
    "policy_send", "policy_take", "in_", "out_",
)  # fmt: skip


#: What the kernel takes where it tracks connections in the bridge family; gone with its transaction.
_PROBE = """
add table bridge mesokit_probe
add chain bridge mesokit_probe forward { type filter hook forward priority -10 ; }
add rule bridge mesokit_probe forward ct state established accept
delete table bridge mesokit_probe
"""


class Bridging(StrEnum):
    """How packets between the ports of a bridge are judged; NONE while there is no bridge under policy."""

    NONE = ""
    CONNTRACK = "conntrack"
    FILTER = "br_netfilter"

    @property
    def families(self) -> Sequence[int]:
        """Of nf_tables, those whose tables have the profiles."""
        return kernel.IP_AND_BRIDGE if self is Bridging.CONNTRACK else kernel.IP

    @property
    def sections(self) -> Sequence[Section]:
        """The fixed chains that it takes beside those of IP."""
        if self is Bridging.CONNTRACK:
            return policy_rules.PORTS, policy_rules.BRIDGED
        return (policy_rules.PORTS_UNTAGGED,)

    def entries(self, listed: Iterable[Entry]) -> set[Entry]:
        """With those of the bridge family."""
        found = set(listed)
        if self is Bridging.CONNTRACK:
            found.update(
                Entry(kernel.BRIDGE + entry.set, entry.key, entry.end, entry.chain, entry.flags)
                for entry in tuple(found)
                if entry.set.startswith(_DOUBLED)
            )
        return found

    def change(self, made: Change) -> Change:
        if self is not Bridging.CONNTRACK:
            return made
        fill, add, remove = (self.entries(listed) for listed in (made.fill, made.add, made.remove))
        return Change(made.new, made.dead, fill, add, remove)

    def compiled(self, made: Compiled) -> Compiled:
        return Compiled(made.profiles, self.entries(made.entries))

    def told(self, endpoint: Endpoint) -> str:
        """How an endpoint's packets come to be judged."""
        if endpoint.inside:
            return "in its own network namespace"
        if not endpoint.bridged:
            return "routed"
        return f"{'bridge conntrack' if self is Bridging.CONNTRACK else 'br_netfilter'} of {endpoint.link}"


def require_some(host: Namespace, deadline: Deadline) -> None:
    """CniError 50 when `chosen` would find none. Leaves no rule; where the answer shows without it none is
    tried either, because whoever remembers the ruleset by its number looks at all of it after a transaction.
    """
    if bridge_filter.available(host):
        return
    with Nfnetlink(host) as socket:
        if policy_rules.BRIDGED.version in kernel.chain_names(socket, NFPROTO_BRIDGE):
            return
    try:
        library.run(host, _PROBE)
    except library.ScriptError as error:
        _by_filter(partial(bridge_filter.require_loadable, host, deadline), str(error))


def chosen(host: Namespace, deadline: Deadline) -> Bridging:
    """The way of this kernel; its fixed chains are there, or its module is loaded. CniError 50 when there is
    none.
    """
    with Nfnetlink(host) as socket:
        lacking = kernel.bridge_tracks(socket)
    if not lacking:
        return Bridging.CONNTRACK
    _by_filter(partial(bridge_filter.require, host, deadline), lacking)
    return Bridging.FILTER


def _by_filter(require: Callable[[], None], lacking: str) -> None:
    try:
        require()
    except CniError as error:
        raise CniError(
            error.code, error.msg, f"{error.details}; and no bridge conntrack: {lacking}"
        ) from error
