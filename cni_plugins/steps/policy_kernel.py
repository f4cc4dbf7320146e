"""What a namespace's nf_tables hold of a policy, and making them hold what they should."""

import re
from collections.abc import Sequence

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.kernel.nft import profile_rules, sections, tables
from cni_plugins.kernel.nft.sections import Section
from cni_plugins.policy.compile import Change, Compiled, Compiler
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.profile import Entry, Profile
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.policy_bridged import Bridging

_PROFILE = re.compile(r"((?:in|out|host|from|send|take)_[0-9a-f]{12})_[a-z]?[46]")
_COMMON = ("policy_", "port_", "inside_")


def held(socket: Nfnetlink) -> set[Entry]:
    """All that the kernel's sets hold. CniError 999."""
    return {Entry(name, *entry) for name in kernel.set_names(socket) for entry in kernel.read(socket, name)}


def broken(socket: Nfnetlink, compiled: Compiled, families: Sequence[int] = kernel.IP) -> list[Profile]:
    """The profiles of which a chain is missing, or has not all of its rules."""
    found: list[Profile] = []
    for family in families:
        counts = tables.rule_counts(socket, family)
        there = set(kernel.chain_names(socket, family))
        found += [
            profile
            for profile in compiled.profiles.values()
            if profile_rules.of_family((profile,), family)
            for version in (4, 6)
            if (name := f"{profile.name}_{version}") not in there
            or counts.get(name, 0) != len(profile_rules.rules(profile, version, family))
        ]
    return found


def make_hold(
    socket: Nfnetlink, wanted: Compiled, fixed: Sequence[Section], families: Sequence[int] = kernel.IP
) -> Change:
    """Make the kernel hold `wanted` and the fixed chains; what was different. CniError 999."""
    for section in fixed:
        sections.ensure(socket, section)
        sections.repair(socket, section)
    there = held(socket)
    harmed = {profile.name: profile for profile in broken(socket, wanted, families)}
    missing = wanted.entries - there
    extra = there - wanted.entries
    chains = (name for family in kernel.IP_AND_BRIDGE for name in kernel.chain_names(socket, family))
    found = (*chains, *map(_plain, kernel.set_names(socket)))
    names = {match[1] for name in found if (match := _PROFILE.fullmatch(name))}
    fill = {entry for entry in missing if not _is_common(entry)}
    change = Change(
        new=list(harmed.values()),
        fill=fill,
        add=missing - fill,
        remove={entry for entry in extra if _is_common(entry) or _profile_of(entry) in wanted.profiles},
    )
    try:
        kernel.apply(
            socket,
            new=change.new,
            fill=change.fill,
            remove=change.remove,
            add=change.add,
            families=families,
        )
        kernel.discard(socket, names - wanted.profiles.keys())
    except kernel.Mismatch as error:
        raise CniError(
            Code.INTERNAL, "the policy cannot be written: somebody else changes mesokit's tables", str(error)
        ) from error
    return change


def _plain(name: str) -> str:
    return name.removeprefix(kernel.BRIDGE)


def _is_common(entry: Entry) -> bool:
    return _plain(entry.set).startswith(_COMMON)


def _profile_of(entry: Entry) -> str:
    return _plain(entry.set).rpartition("_")[0]


def missing(socket: Nfnetlink, compiler: Compiler, endpoint: Endpoint, bridging: Bridging) -> list[Entry]:
    """The entries of an endpoint's own that the kernel does not hold. CniError 999."""
    wanted = list(bridging.entries(compiler.own(endpoint)))
    return [entry for entry, there in zip(wanted, kernel.present(socket, wanted), strict=True) if not there]
