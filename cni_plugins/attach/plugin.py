"""What a plugin is: its name, its keys, and what it does for each verb.

The functions take the parsed call, the plugin's own typed configuration and where to work. Dispatch, records,
roll-back, delegates, namespaces, deadlines and output are done around them, once (attach/lifecycle.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call
from cni_plugins.spec.result import Result
from cni_plugins.spec.versions import VERSIONS
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step

C = TypeVar("C")


class Kind(Enum):
    """MAIN makes an interface, IPAM chooses addresses, META changes what others made (prevResult or
    `delegate`).
    """

    MAIN = "main"
    IPAM = "ipam"
    META = "meta"


def nothing(call: Call, config: object, context: Context) -> None:
    """For a verb that a plugin has nothing to do for."""


def accept(call: Call, config: object) -> None:
    """For a plugin whose keys need no more checking than their kinds do."""


@dataclass(frozen=True, slots=True)
class Plugin(Generic[C]):
    """`config` is the dataclass of the plugin's keys (an IPAM plugin's: the keys inside `ipam`).

    `add` makes each change by `tx.apply(step)`. Everything else comes from the steps:
    * DEL undoes those of the record. Without one (never added, or added by the reference plugin of that
      name) `remove_legacy` of every kind in `kinds` runs, and `remove_legacy` of the plugin for what is its
      own, with a configuration that is decoded leniently.
    * GC takes down records that are not listed, then `collect` of every kind in `kinds`; `gc` is for more.
    * CHECK checks the steps of the record; without one, those that `steps` makes of a configuration and a
      result. `check` is for more, such as an IPAM plugin's files.
    A MAIN plugin's `ipam` and a META plugin's `delegate` get every verb, by themselves. (A MAIN plugin's
    `add` asks for its addresses with `delegation.addresses`, when it is ready for them; one that never does
    has `takes_ipam` False.)

    `validate` refuses what the kinds of the keys cannot: keys that contradict one another, requests of the
    runtime; it runs before anything is changed, by this plugin, its delegate or another member of its chain.
    (Not before an IPAM plugin's own `add`, which chooses addresses before it reserves any.) All raise
    CniError. With `args` a CNI_ARGS that cannot be read is refused; the reference plugin of that name reads
    it too. An IPAM plugin with `needs_link` asks for its addresses on the interface, which is made first.
    """

    name: str
    kind: Kind
    about: str
    config: type[C]
    add: Callable[[Call, C, Transaction], Result]
    kinds: tuple[registry.Kind, ...] = ()
    steps: Callable[[Call, C, Context, Result], Iterable[Step]] | None = None
    check: Callable[[Call, C, Context], None] = nothing
    remove_legacy: Callable[[Call, C, Context], None] = nothing
    gc: Callable[[Call, C, Context], None] = nothing
    status: Callable[[Call, C, Context], None] = nothing
    validate: Callable[[Call, C], None] = accept
    versions: tuple[str, ...] = VERSIONS
    args: bool = False
    takes_ipam: bool = True
    needs_link: bool = False
