"""Groups of rules, written when they are first needed in a namespace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, library, tables
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.errors import CniError, Code

_FAMILIES = {NFPROTO_INET: "inet", NFPROTO_BRIDGE: "bridge"}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules; `hook` as nft writes it ("type nat hook …"), empty for a chain that is
    jumped to.
    """

    name: str
    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What one purpose needs in our table of `family`. `version` is the name of an empty chain that is
    there once the section is; a release that changes the rules changes it. `sets` are nft's "set NAME { …
    }" and "map …".
    """

    family: int
    version: str
    chains: tuple[Chain, ...]
    sets: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        return f"{_FAMILIES[self.family]} {elements.TABLE}"


def script(section: Section) -> str:
    """The section in nft's language; running it again, at once or later, changes nothing."""
    table = section.table
    lines = [f"add table {table}"]
    for item in section.sets:
        kind, name, body = item.split(" ", 2)
        lines.append(f"add {kind} {table} {name} {body}")
    for chain in section.chains:
        hook = f" {{ {chain.hook} ; policy accept ; }}" if chain.hook else ""
        lines.append(f"add chain {table} {chain.name}{hook}")
        lines.append(f"flush chain {table} {chain.name}")
    lines += [f"add rule {table} {chain.name} {rule}" for chain in section.chains for rule in chain.rules]
    lines.append(f"add chain {table} {section.version}")
    return "\n".join(lines) + "\n"


@lru_cache(16)
def _expected_uses(section: Section) -> dict[str, int]:
    """What each chain's use count is at least: its rules, and the jumps of others of the section to it."""
    words = [word for chain in section.chains for rule in chain.rules for word in rule.split()]
    return {chain.name: len(chain.rules) + words.count(chain.name) for chain in section.chains}


def ensure(socket: Nfnetlink, section: Section, extra: Iterable[Chain] = ()) -> bool:
    """Make `section` and the chains of `extra` exist, and rules that somebody flushed; whether the section
    was not there whole. Costs a look-up for each chain when it is; rules of a chain that elements lead to are
    not counted: see `repair`.

    CniError 999 with nft's text when the kernel has no such thing.
    """
    wanted: Sequence[Chain] = tuple(extra)
    expected = _expected_uses(section)
    names = [section.version, *expected, *(chain.name for chain in wanted)]
    version, *counts = tables.uses(socket, section.family, names)
    whole = version is not None and all(
        count is not None and count >= least for count, least in zip(counts, expected.values(), strict=False)
    )
    have = counts[len(expected) :]
    missing = tuple(chain for chain, count in zip(wanted, have, strict=True) if count is None)
    _write(socket, section, missing, whole=whole)
    return not whole


def broken(
    socket: Nfnetlink, section: Section, extra: Iterable[Chain] = (), counts: Counts | None = None
) -> list[str]:
    """The names of the chains of `section` and `extra` that are not there or have not all of their rules."""
    chains = {chain.name: len(chain.rules) for chain in (*section.chains, *extra)}
    return (Counts() if counts is None else counts).harmed(socket, section.family, chains)


def repair(socket: Nfnetlink, section: Section, extra: Iterable[Chain] = ()) -> None:
    """Write anew what `broken` names; the elements stay. CniError 999."""
    wanted = tuple(extra)
    harmed = frozenset(broken(socket, section, wanted))
    if harmed:
        missing = tuple(chain for chain in wanted if chain.name in harmed)
        _write(socket, section, missing, whole=len(missing) == len(harmed))


def _write(socket: Nfnetlink, section: Section, missing: Sequence[Chain], *, whole: bool) -> None:
    if whole and not missing:
        return
    text = "" if whole else script(section)
    if missing:
        text += script(Section(section.family, section.version, tuple(missing)))
    try:
        library.run(socket.namespace, text)
    except library.ScriptError as error:
        raise CniError(
            Code.INTERNAL, f"cannot write the nf_tables table {section.table}", str(error)
        ) from error
