"""The policy that this node enforces: its endpoints and policies on disk, and in the kernel.

`/run/mesokit/policy/state.json` holds what was applied last; it is what an attachment works from, with and
without the node service. A change is worked out from it (policy/compile.py), made in the kernel as
differences, and then written down. The file `changing` is there meanwhile: who finds it, after a crash, reads
what the kernel holds and makes it what `state.json` says before anything else. The same is done when the
kernel turns out to hold something else, and after somebody flushed it.

Looking the kernel through takes longer than any change. The file `verified` therefore holds the number of the
ruleset (it rises with every transaction of anybody) at which the kernel was seen to hold what this very
`state.json` says, or that its fixed chains alone were seen to be whole, which is what an attachment looks
at. It is written on only by changes of our own between which there was no other transaction; at any other
number everything is looked at.

Files of `/etc/mesokit/policy.d` count once they are applied: by `mesokit policy apply`, by the node service
that watches them, or by the first attachment after a boot. A file that is refused changes nothing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.kernel.nft import policy_rules
from cni_plugins.kernel.nft.sections import Section
from cni_plugins.policy import successors
from cni_plugins.policy.compile import Change, Compiler
from cni_plugins.policy.selection import Members
from cni_plugins.spec import files
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.steps import policy_file, policy_kernel, policy_places
from cni_plugins.steps.policy_bridged import Bridging
from cni_plugins.steps.policy_file import Lines, State
from cni_plugins.steps.policy_inside import Inside, Look, Seen

if TYPE_CHECKING:
    from cni_plugins.policy.read import Parsed
from cni_plugins.store.locks import locked

_ALL, _CHAINS = "all", "chains"
_SEAL = 7  # rises with a release under which the same state is something else in the kernel


def directory(roots: Roots) -> Path:
    """Where an operator's policies are."""
    return roots.relocate("/etc/mesokit/policy.d")


def inside_directory(roots: Roots) -> Path:
    """What changes when the first endpoint comes that is judged in its own namespace, or the last goes."""
    return roots.run / "policy" / "inside"


def endpoints_directory(roots: Roots) -> Path:
    """What changes when the first endpoint of all comes, or the last goes."""
    return roots.run / "policy" / "endpoints"


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change was in the host's rules: numbers of profiles and of elements; and the namespaces of
    containers where it could not be made, or (`Store.restore`) where something had to be mended.
    """

    new: int
    dead: int
    added: int
    removed: int
    inside: tuple[Look, ...] = ()

    @property
    def restored(self) -> int:
        """How much was missing or foreign, for `Store.restore`."""
        return self.new + self.added + self.removed + sum(look.mended for look in self.inside)

    @property
    def problems(self) -> list[str]:
        return [f"{look.who}: {look.problem}" for look in self.inside if look.problem]


def _applied(change: Change, inside: Sequence[Look]) -> Applied:
    added = len(change.add) + len(change.fill)
    return Applied(len(change.new), len(change.dead), added, len(change.remove), tuple(inside))


@dataclass(slots=True)
class Memory:
    """What a process that lives keeps from one change to the next, so that the next costs what it changes.
    None of it is believed: files are read again, and what they say is compared.
    """

    lines: Lines = field(default_factory=Lines)
    parsed: "Parsed" = field(default_factory=dict)
    _compiler: Compiler = field(default_factory=lambda: Compiler(()))
    _members: Members = field(default_factory=lambda: Members(()))
    seen: Seen = field(default_factory=dict)

    def of(self, state: State) -> tuple[Compiler, Members]:
        """What compiles a state, and its endpoints; the latest of both is kept."""
        named = self._compiler.names == state.names
        if (
            not named
            or self._compiler.policies != state.policies
            or self._members.endpoints is not state.endpoints
        ):
            self._compiler = Compiler(state.policies, self._compiler if named else None, state.names)
        if self._members.endpoints is not state.endpoints:
            self._members = Members(state.endpoints)
        return self._compiler, self._members


class Store:
    """The state of the host namespace `host`, with its lock held."""

    __slots__ = ("_folder", "_host", "_inside", "_memory", "_roots", "state")

    def __init__(self, roots: Roots, host: Namespace, memory: Memory, inside: Inside) -> None:
        self._inside = inside
        self._folder = roots.run / "policy"
        self._roots = roots
        self._host = host
        self._memory = memory
        self.state = load(roots, host, memory.lines)

    def update(self, make: Callable[[State], State]) -> Applied:
        """Make the state what `make` says, here and in the kernel. CniError 5 or 999; what is in the kernel
        is then the old or the new, and put right by whoever comes next.
        """
        before = self.state
        after = make(before)
        old_compiler, old_members = self._memory.of(before)
        compiler, members = self._memory.of(replace(after, names=before.names))
        successors.follow(old_compiler, old_members, compiler, members)
        compiler.settle(members)
        after = replace(after, names=compiler.names)
        change = after.bridging.change(compiler.change(old_compiler, old_members, members))
        whole = self._unfinished() or (bool(old_members.here.endpoints) and before.bridging != after.bridging)
        with Nfnetlink(self._host) as socket:
            began, count = socket.generation(), 0
            seen = "" if whole else self._seen(began)
            self._mark()
            was, now = bool(old_members.here.endpoints), bool(members.here.endpoints)
            if not whole and (change or (now and not was)):
                fixed = _sections(after)
                if not (seen and was and fixed == _sections(before)):
                    written = kernel.ensure(socket, fixed)
                    # Chains of another release want other elements of the endpoints that there are.
                    whole, seen = written and was, "" if written else seen or _CHAINS
                tried = None if whole else _try(socket, change, after)
                whole, count = tried is None, tried or 0
            if whole:
                change = synchronise(socket, compiler, after)
                inside = self._inside.look(compiler, members)
            else:
                inside = self._inside.follow(old_compiler, old_members, compiler, members)
            self._save(after, inside=members.some_inside)
            if not whole:
                count += self._forget(socket, compiler, change, after)
            if seen and not whole and socket.generation() == began + count:
                self._verify(began + count, seen)
            self._unmark()
        self.state = after
        return _applied(change, inside)

    def _forget(self, socket: Nfnetlink, compiler: Compiler, change: Change, state: State) -> int:
        """Take away what the change has left behind; the number of transactions."""
        try:
            return kernel.forget(socket, change.dead, state.bridging.families)
        except kernel.Mismatch:  # somebody else's rules lead there, or it is gone
            synchronise(socket, compiler, state)
            return 0

    def restore(self, *, all_of_them: bool = True) -> Applied:
        """Make the kernel hold what the state says, whatever it holds. Without `all_of_them` a container's
        namespace is looked at only if something has changed there since the last time. CniError 5 or 999.
        """
        unfinished = self._unfinished()
        if not self.state.endpoints and not unfinished:
            return Applied(0, 0, 0, 0)
        compiler, members = self._memory.of(self.state)
        change = Change()
        with Nfnetlink(self._host) as socket:
            began = socket.generation()
            if unfinished or self._seen(began) != _ALL:
                self._mark()
                change = synchronise(socket, compiler, self.state)
                if not change and began and socket.generation() == began:
                    self._verify(began, _ALL)
                self._unmark()
        return _applied(change, self._inside.look(compiler, members, all_of_them=all_of_them or unfinished))

    def restore_inside(self) -> list[Look]:
        """`restore`, of the namespaces of containers alone where something has changed."""
        compiler, members = self._memory.of(self.state)
        return self._inside.look(compiler, members, all_of_them=False)

    def forget_sandbox(self) -> None:
        """Take away what is in the call's namespace if no endpoint is there any more: who died between the
        kernel and the state left rules that the state knows nothing of.
        """
        self._inside.forget_known(self.state.endpoints)

    def _seen(self, generation: int) -> str:
        """What the kernel is known to hold of what the state says, because nobody has changed nf_tables since
        that was looked at: _ALL of it, its fixed _CHAINS, or "" for nothing.
        """
        try:
            found = files.read(self._folder / "verified") if generation else b""
            return next((seen for seen in (_ALL, _CHAINS) if found == self._seal(generation, seen)), "")
        except OSError:
            return ""

    def _verify(self, generation: int, seen: str) -> None:
        with suppress(OSError):  # without a state file there is nothing to be verified
            _write(self._folder / "verified", self._seal(generation, seen))

    def _seal(self, generation: int, seen: str) -> bytes:
        status = (self._folder / "state.json").stat()
        parts = (
            _SEAL,
            self._host.device,
            self._host.inode,
            status.st_ino,
            status.st_mtime_ns,
            status.st_size,
        )
        return " ".join(map(str, (*parts, generation, seen))).encode()

    def _unfinished(self) -> bool:
        return (self._folder / "changing").exists()

    def _mark(self) -> None:
        _write(self._folder / "changing", b"")

    def _unmark(self) -> None:
        (self._folder / "changing").unlink(missing_ok=True)

    def _save(self, state: State, *, inside: bool) -> None:
        temporary = self._folder / "state.json.new"
        _write(temporary, policy_file.write(state, self._host, self._memory.lines))
        temporary.rename(self._folder / "state.json")
        self._memory.lines.mark = _mark((self._folder / "state.json").stat())
        _note(inside_directory(self._roots), there=inside)
        _note(endpoints_directory(self._roots), there=bool(state.endpoints))


def _note(directory: Path, *, there: bool) -> None:
    """A file that tells whoever watches the directory that there are some of what it stands for."""
    note = directory / "some"
    if there != note.exists():
        if there:
            _write(note, b"")
        else:
            note.unlink()


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        files.write(path, data, mode=0o600)
    except OSError as error:
        raise CniError(Code.IO, f"cannot write the policy's state {path}", str(error)) from error


@contextmanager
def opened(
    roots: Roots,
    host: Namespace,
    deadline: Deadline,
    memory: Memory | None = None,
    *,
    sandbox: Namespace | None = None,
    undoing: bool = False,
) -> Iterator[Store]:
    """The state, under its lock; `sandbox` is the container's namespace, where the call has it open. CniError
    5 or 11.
    """
    memory = memory or Memory()
    with locked(f"{roots.run}/locks/policy", deadline, undoing=undoing):
        yield Store(roots, host, memory, Inside(host, deadline, sandbox, memory.seen))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def load(roots: Roots, host: Namespace, lines: Lines | None = None) -> State:
    """The state, read without its lock; empty where there is none of this namespace. CniError 5."""
    path = policy_places.state_file(roots)
    lines = lines or Lines()
    try:
        mark = _mark(path.stat())
        if mark == lines.mark:
            return lines.state
        state = policy_file.read(files.read(path), host, lines)
        lines.mark = mark if state is lines.state else ()
        return state
    except FileNotFoundError:
        return State()
    except OSError as error:
        raise CniError(Code.IO, f"cannot read the policy's state {path}", str(error)) from error
    except policy_file.Newer as error:
        raise CniError(Code.IO, f"{path} is of version {error}: a newer release wrote it") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CniError(
            Code.IO, f"the policy's state {path} is not what this release writes", f"{error!r}"
        ) from error


def with_policies(roots: Roots, state: State) -> State:
    """The state with the operator's files read, if none were yet. CniError 7 when they are refused."""
    if state.read:
        return state
    from cni_plugins.policy.read import Refused, read_directory  # noqa: PLC0415 - once a boot

    try:
        return replace(state, policies=tuple(read_directory(directory(roots))), read=True)
    except Refused as error:
        raise CniError(
            Code.INVALID_CONFIG,
            f"the policies of {directory(roots)} are refused, and nothing is attached before they are right",
            str(error),
        ) from error


def _try(socket: Nfnetlink, change: Change, state: State) -> int | None:
    """Make a change of differences; the number of its transactions, None when the kernel did not hold what it
    starts from.
    """
    try:
        return kernel.apply(
            socket,
            new=change.new,
            fill=change.fill,
            remove=change.remove,
            add=change.add,
            families=state.bridging.families,
        )
    except kernel.Mismatch:
        return None


def _sections(state: State) -> list[Section]:
    """The fixed chains that a state takes."""
    found = [policy_rules.SECTION]
    if any(item.port and not item.bridged for item in state.endpoints):
        found.append(policy_rules.SOURCES)
    if state.bridging is Bridging.CONNTRACK or any(item.port and item.bridged for item in state.endpoints):
        found += state.bridging.sections
    return found


def synchronise(socket: Nfnetlink, compiler: Compiler, state: State) -> Change:
    """Make the host's rules hold what `state` says; what was different. CniError 999."""
    if not any(not item.inside for item in state.endpoints) and not kernel.set_names(socket):
        return Change()
    wanted = state.bridging.compiled(compiler.compile(state.endpoints))
    return policy_kernel.make_hold(socket, wanted, _sections(state), state.bridging.families)
