"""What runtimes say of their containers: a Mesos agent's directories, and the results that libcni keeps.

The agent's directories are read as they are on disk: the agent need not answer, nor be alive.
`<work_dir>/meta/slaves/latest/frameworks/F/executors/E/runs/latest/tasks/T` (src/slave/paths.cpp) holds what
is checkpointed; the sandboxes, `<work_dir>/slaves/S/frameworks/F/executors/E/runs/CONTAINER`, are always
there. `/var/run/mesos/isolators/network/cni/CONTAINER/NETWORK/IFNAME` (src/slave/containerizer/mesos/
isolators/network/cni/paths.cpp) is what the agent will detach. Names below the task directories are chosen by
frameworks: they are told, and never followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.view.node import Task

_WORK_DIRS = (
    "/var/lib/mesos/slave",
    "/var/lib/mesos/agent",
    "/var/lib/mesos",
    "/var/tmp/mesos",
    "/tmp/mesos",
)
_AGENTS = frozenset((b"mesos-agent\n", b"mesos-slave\n", b"lt-mesos-agent\n"))
_MONITORS = frozenset((b"conmon\n",))
_LIBPOD = "/run/libpod"  # there once root has used podman
_RESULTS = "/var/lib/cni/results"
_LARGEST = 1 << 20  # bytes of a kept result


@dataclass(frozen=True, slots=True)
class Agent:
    """A Mesos agent of this host as its command line tells it."""

    pid: int
    flags: Mapping[str, str]


def agents() -> list[Agent]:
    """The Mesos agents that run here."""
    found = []
    for pid, words in _running(_AGENTS):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        flags = {}
        for variable in variables:
            key, _, value = variable.partition("=")
            if key.startswith("MESOS_"):
                flags[key.removeprefix("MESOS_").lower()] = value
        for word in words:
            if word.startswith("--"):
                key, _, value = word[2:].partition("=")
                flags[key] = value
        found.append(Agent(pid, flags))
    return found


def _running(programs: frozenset[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Processes of these programs (their names with a line's end), and their command lines."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/comm", "rb") as file:
                if file.read() not in programs:
                    continue
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield int(name), words


def _of_podman(containers: Collection[str]) -> Iterator[Task]:
    """Podman's containers that run, by their names: the command line of each one's monitor has both. A task
    can call itself so, but not among the host's own processes.
    """
    if not Path(_LIBPOD).is_dir():
        return
    home = Path("/proc/self/ns/pid").stat().st_ino
    for pid, words in _running(_MONITORS):
        place = Path(f"/proc/{pid}")
        try:
            if place.stat().st_uid or (place / "ns/pid").stat().st_ino != home:
                continue
        except OSError:
            continue
        given = dict(pairwise(words))
        if given.get("-n") and given.get("-c") in containers:
            yield Task(given["-c"], (given["-n"],), runtime="podman")


def work_dirs(roots: Roots) -> list[Path]:
    """Where agents of this host keep their state: what running ones say, else the usual places."""
    said = [Path(agent.flags["work_dir"]) for agent in agents() if agent.flags.get("work_dir")]
    usual = [roots.relocate(place) for place in _WORK_DIRS]
    return said or [place for place in usual if (place / "meta").is_dir() or (place / "slaves").is_dir()]


def tasks(roots: Roots, attached: Collection[Identity]) -> dict[str, Task]:
    """The tasks of containers, by container id; those that nobody knows are missing."""
    containers = {identity.container_id for identity in attached}
    found: dict[str, Task] = {}
    if not containers:
        return found
    for place in work_dirs(roots):
        for run in _runs(place / "meta" / "slaves"):
            if run.name in containers:
                found[run.name] = _task(run, tuple(unquote(item.name) for item in _entries(run / "tasks")))
        if len(found) < len(containers):
            for run in _runs(place / "slaves"):
                if run.name in containers and run.name not in found:
                    found[run.name] = _task(run, ())
    if len(found) < len(containers):
        for run in _every_run(roots.lib / "agent" / "slaves"):
            if run.name in containers and run.name not in found:
                found[run.name] = _task(run, (), "mesokit run")
    if len(found) < len(containers):
        unknown = [identity for identity in attached if identity.container_id not in found]
        named = (_of_cni_args(roots, identity) for identity in unknown)
        found |= {task.container_id: task for task in named if task is not None}
    if len(found) < len(containers):
        found |= {task.container_id: task for task in _of_podman(set(containers) - found.keys())}
    return found


def _every_run(slaves: Path) -> Iterator[Path]:
    """The sandboxes of `mesokit run` (executor/local_agent/sandbox.py): laid out as an agent's, none called
    the latest. Those of another --work-dir are not known.
    """
    for agent in _entries(slaves):
        for framework in _entries(agent / "frameworks"):
            for executor in _entries(framework / "executors"):
                yield from _entries(executor / "runs")


def _task(run: Path, names: tuple[str, ...], runtime: str = "mesos") -> Task:
    executor, framework = unquote(run.parts[-3]), run.parts[-5]
    return Task(run.name, names or (executor,), executor, framework, runtime)


def _runs(slaves: Path) -> Iterator[Path]:
    """…/slaves/S/frameworks/F/executors/E/runs/CONTAINER, the newest of each executor."""
    agents_ = [slaves / "latest"] if (slaves / "latest").is_dir() else _entries(slaves)
    for agent in agents_:
        for framework in _entries(agent / "frameworks"):
            for executor in _entries(framework / "executors"):
                runs = executor / "runs"
                with suppress(OSError):
                    yield runs / Path(os.readlink(runs / "latest")).name


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(item for item in place.iterdir() if item.name != "latest")
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class Known:
    """An attachment that a runtime keeps a note of; `netns` is "" where the note does not say."""

    identity: Identity
    runtime: str
    netns: str


def known(roots: Roots) -> list[Known]:
    """What runtimes will still detach themselves: a Mesos agent's notes, and libcni's kept results (podman,
    containerd, CRI-O, nerdctl).
    """
    return [*_of_agents(roots), *_of_libcni(roots)]


def _of_agents(roots: Roots) -> Iterator[Known]:
    said = {Path(agent.flags["runtime_dir"]) for agent in agents() if agent.flags.get("runtime_dir")}
    places = {place.resolve() for place in said | {roots.relocate("/var/run/mesos")}}
    for place in sorted({*places, *work_dirs(roots)}):
        for container in _entries(place / "isolators/network/cni"):
            for network in _entries(container):
                for interface in _entries(network):
                    if interface.is_dir():
                        identity = Identity(network.name, container.name, interface.name)
                        yield Known(identity, "mesos", str(container / "ns"))


def _kept(path: Path) -> dict[str, Any]:
    """What libcni kept of an ADD; empty where it kept nothing, or nothing that can be read."""
    with suppress(OSError, ValueError):
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
        if isinstance(document, dict):
            return document
    return {}


def _of_libcni(roots: Roots) -> Iterator[Known]:
    for path in _entries(roots.relocate(_RESULTS)):
        document = _kept(path)
        names = [document.get(key) for key in ("networkName", "containerId", "ifName", "netns")]
        network, container, interface, netns = (name if isinstance(name, str) else "" for name in names)
        if network and container and interface:
            yield Known(Identity(network, container, interface), "libcni", netns)


def _of_cni_args(roots: Roots, identity: Identity) -> Task | None:
    """What its runtime called a container in CNI_ARGS, which libcni keeps: a kubelet's runtime says a pod's
    name and its namespace, podman its container's name. None where it says neither.
    """
    name = f"{identity.network}-{identity.container_id}-{identity.ifname}"
    pairs = _kept(roots.relocate(_RESULTS) / name).get("cniArgs")
    try:
        given = dict(pairs) if isinstance(pairs, list) else {}
    except (TypeError, ValueError):
        return None
    pod, namespace = given.get("K8S_POD_NAME"), given.get("K8S_POD_NAMESPACE")
    if not (isinstance(pod, str) and pod):
        return None
    if isinstance(namespace, str) and namespace:
        return Task(identity.container_id, (f"{namespace}/{pod}",), runtime="pod", short=pod)
    return Task(identity.container_id, (pod,), runtime="podman" if Path(_LIBPOD).is_dir() else "libcni")
