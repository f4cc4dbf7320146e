"""Groups of rules, written when they are first needed in a namespace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, library
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


def ensure(socket: Nfnetlink, section: Section, extra: Iterable[Chain] = ()) -> None:
    """Make `section` and the chains of `extra` exist. Costs a look-up each when they do.

    CniError 999 with nft's text when the kernel has no such thing.
    """
    wanted: Sequence[Chain] = tuple(extra)
    looked_up = [elements.chain_message(section.family, elements.TABLE, section.version)]
    looked_up += [elements.chain_message(section.family, elements.TABLE, chain.name) for chain in wanted]
    present, *have = elements.exist(socket, looked_up)
    missing = tuple(chain for chain, there in zip(wanted, have, strict=True) if not there)
    if present and not missing:
        return
    text = "" if present else script(section)
    if missing:
        text += script(Section(section.family, section.version, missing))
    try:
        library.run(socket.namespace, text)
    except library.ScriptError as error:
        raise CniError(
            Code.INTERNAL, f"cannot write the nf_tables table {section.table}", str(error)
        ) from error
