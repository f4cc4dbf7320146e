"""What the step of an attachment under policy (policy.py) does."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from cni_plugins.kernel import bridge_filter, bridges, links
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import policy_rules, sections
from cni_plugins.kernel.nft.tables import Unused
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.model import Default, Endpoint
from cni_plugins.policy.selection import Members
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.steps import policy_bridged, policy_kernel, policy_state
from cni_plugins.steps.context import Context
from cni_plugins.steps.policy_bridged import Bridging
from cni_plugins.steps.policy_file import State
from cni_plugins.steps.policy_inside import Inside

if TYPE_CHECKING:
    from cni_plugins.steps.policy import PolicyEndpoint


def endpoint_of(step: "PolicyEndpoint", identity: Identity) -> Endpoint:
    """The step's attachment as policy sees it."""
    return Endpoint(
        network=identity.network,
        container=identity.container_id,
        ifname=identity.ifname,
        addresses=tuple(entry.address.ip for entry in step.ips),
        subnets=tuple(entry.address.network for entry in step.ips),
        groups=frozenset(step.groups),
        labels=tuple(sorted(step.labels)),
        default=Default(step.default),
        link=step.link,
        port=step.port,
        bridged=step.bridged,
    )


def join(step: "PolicyEndpoint", context: Context) -> None:
    """The endpoint's elements, and it in the elements of those who may know it. CniError."""
    call, mine = context.call, endpoint_of(step, context.call.identity)
    if step.inside:
        mine = replace(mine, netns=call.netns_path, netns_id=tuple(fingerprint(context.inside)))

    def joined(state: State) -> State:
        state = policy_state.with_policies(call.roots, state)
        return replace(state, endpoints=(*_others(state.endpoints, mine), mine), bridging=bridging)

    with _opened(context) as store:
        bridging = store.state.bridging
        if step.bridged:
            if not any(item.bridged for item in store.state.endpoints):
                bridging = policy_bridged.chosen(call.host, call.deadline)
            if bridging is Bridging.FILTER:
                bridge_filter.turn(context.host, step.link, on=True)
        done = store.update(joined)
    failed = next((look.problem for look in done.inside if mine in look.endpoints), "")
    if failed:
        raise CniError(Code.INTERNAL, f"the policy of {call.ifname} cannot be made in its namespace", failed)


def _opened(context: Context, *, undoing: bool = False) -> AbstractContextManager[policy_state.Store]:
    call = context.call
    sandbox = context.sandbox_namespace
    return policy_state.opened(call.roots, call.host, call.deadline, sandbox=sandbox, undoing=undoing)


def restore(context: Context) -> None:
    """The whole of the policy as it was. CniError."""
    with _opened(context) as store:
        store.restore()


def leave(step: "PolicyEndpoint", context: Context) -> None:
    """Take the endpoint out, wherever it is; idempotent. CniError."""
    call = context.call
    identity = endpoint_of(step, call.identity).identity

    def left(state: State) -> State:
        return replace(state, endpoints=tuple(item for item in state.endpoints if item.identity != identity))

    with _opened(context, undoing=True) as store:
        if step.inside:
            _take_down(context, [item for item in store.state.endpoints if item.identity == identity])
        store.update(left)
        if step.inside:
            store.forget_sandbox()
        rest = store.state.endpoints
        filtered = step.bridged and store.state.bridging is Bridging.FILTER
    if filtered and not any(item.bridged and item.link == step.link for item in rest):
        bridge_filter.turn(context.host, step.link, on=False)
    if not rest:
        call.idle.append(Unused(call.host, NFPROTO_INET))
        call.idle.append(Unused(call.host, NFPROTO_BRIDGE))


def _take_down(context: Context, mine: list[Endpoint]) -> None:
    """The interface goes down before its rules go, if it is still there."""
    sandbox = context.sandbox_namespace
    if sandbox is None or not mine or tuple(fingerprint(sandbox)) != mine[0].netns_id:
        return
    link = links.find(context.sandbox, mine[0].ifname)
    if link is not None and link.up:
        context.sandbox.request(links.change(link.name, link.index, clear_flags=links.IFF_UP))


def problem(step: "PolicyEndpoint", context: Context) -> str:
    """What of the endpoint's policy is not in force, "" when all of it is. CniError."""
    call, mine = context.call, endpoint_of(step, context.call.identity)
    state = policy_state.load(call.roots, call.host)
    listed = next((item for item in state.endpoints if item.identity == mine.identity), None)
    there = replace(mine, netns=listed.netns, netns_id=listed.netns_id) if listed is not None else mine
    if listed is None or listed != there or listed.inside != step.inside:
        return f"the policy's state does not know {call.ifname} of container {call.container_id}"
    compiler = Compiler(state.policies, names=state.names)
    if step.inside:
        place = Inside(call.host, call.deadline, context.sandbox_namespace)
        return place.problem(compiler, Members(state.endpoints), listed)
    found = _problem_here(compiler, state, mine, context)
    if found:
        return found
    if step.bridged and state.bridging is not Bridging.CONNTRACK:
        bridge = bridges.find(context.host, step.link)
        if bridge is not None and not bridge_filter.is_on(bridge):
            return f"policy is not enforced between the ports of {step.link}: its nf_call_iptables is off"
    return ""


def _problem_here(compiler: Compiler, state: State, mine: Endpoint, context: Context) -> str:
    """What of the host's rules for the endpoint is not in force."""
    ifname = context.call.ifname
    with Nfnetlink(context.call.host) as socket:
        missing = policy_kernel.missing(socket, compiler, mine, state.bridging)
        if missing:
            return f"the policy of {ifname} is not in the kernel: {missing[0].set} lacks its address"
        beside = state.bridging.sections if mine.bridged else (policy_rules.SOURCES,) if mine.port else ()
        for section in (policy_rules.SECTION, *beside):
            harmed = sections.broken(socket, section)
            if harmed:
                return f"the policy's chain {harmed[0]} is not as it was made"
        broken = policy_kernel.broken(socket, compiler.compile((mine,)), state.bridging.families)
        return f"the policy's chain {broken[0].name} is not as it was made" if broken else ""


def collect(context: Context) -> None:
    """Take out the endpoints of the network that no attachment stands behind. CniError."""
    call = context.call
    with _opened(context) as store:
        listed = store.state.endpoints
        kept = context.keep()
        rest = tuple(
            item for item in listed if item.network != call.network or Identity(*item.identity) in kept
        )
        if len(rest) < len(listed):
            store.update(lambda state: replace(state, endpoints=rest))


def _others(endpoints: tuple[Endpoint, ...], mine: Endpoint) -> list[Endpoint]:
    """The other endpoints, without those of the network that held an address of ours: ghosts. CniError 7 when
    it is another network's, because addresses are what policy tells endpoints by.
    """
    rest: list[Endpoint] = []
    for item in endpoints:
        if item.identity == mine.identity:
            continue
        shared = set(item.addresses).intersection(mine.addresses)
        if not shared:
            rest.append(item)
        elif item.network != mine.network:
            raise CniError(
                Code.INVALID_CONFIG,
                f"address {min(map(str, shared))} is that of container {item.container} on network "
                f"{item.network} already, and policy tells endpoints by their addresses",
                "give networks with policy subnets that do not overlap",
            )
    return rest
