"""What a control group says its processes use, version 1 or 2. See cgroups(7)."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """Seconds, bytes and counts; None where the kernel does not account for it or the group is not
    visible.
    """

    user_seconds: float | None = None
    system_seconds: float | None = None
    throttled_seconds: float | None = None
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_limit_bytes: int | None = None
    out_of_memory_kills: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Where a process is accounted for: directories by controller; version 2 has one, under "unified".

    The root of a hierarchy, which tells of the whole machine, is left out. `namespaced` are the controllers
    for which a process is at the root of its own cgroup namespace.
    """

    directories: dict[str, Path]
    namespaced: frozenset[str] = frozenset()


_NO_LIMIT = 1 << 60


def container_of(group: Group | None, container_id: str | None) -> Group | None:
    """The part of a group that is the container's own: agents make groups named for it (cgroups(7) paths
    such as /mesos/ID). Without isolation an executor is where its agent is, a session or a service of the
    host, and that group's use is not the container's. In a cgroup namespace of its own the path is "/".
    """
    if group is None:
        return None
    own = {
        controller: directory
        for controller, directory in group.directories.items()
        if controller in group.namespaced or (container_id and container_id in directory.parts)
    }
    return Group(own) if own else None


def group_of(pid: int, mounts: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Group | None:
    """The group of a process; None where it is in none but the root, or gone."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    directories: dict[str, Path] = {}
    namespaced: set[str] = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ["unified"]:
            directory = _directory(mounts, controller, controllers, path)
            if directory is not None:
                directories[controller] = directory
                if path == "/":
                    namespaced.add(controller)
    return Group(directories, frozenset(namespaced)) if directories else None


def _directory(mounts: Path, controller: str, controllers: str, path: str) -> Path | None:
    candidates = [mounts / controllers, mounts / controller]
    if controller == "unified":
        candidates = [mounts / "unified", mounts] if (mounts / "unified").is_dir() else [mounts]
    for root in candidates:
        # Inside a cgroup namespace or a bind mount the named path may not be there, and the root is the
        # group.
        directory = root / path.lstrip("/")
        try:
            if (directory / "cgroup.procs").exists():
                return None if _is_root(directory) else directory
        except OSError:
            return None  # not for us to look into
    return None


def _is_root(directory: Path) -> bool:
    """Whether a hierarchy begins here: only version 1 has a release agent there, only version 2 no type."""
    return (directory / "release_agent").exists() or (
        (directory / "cgroup.controllers").exists() and not (directory / "cgroup.type").exists()
    )


def read(group: Group) -> GroupUsage:
    """What is accounted for now."""
    unified = group.directories.get("unified")
    if unified is not None and (unified / "memory.current").exists():
        return _read_unified(unified)
    return _read_legacy(group.directories)


def _read_unified(directory: Path) -> GroupUsage:
    cpu = _table(directory / "cpu.stat")
    events = _table(directory / "memory.events")
    return GroupUsage(
        user_seconds=_scaled(cpu.get("user_usec"), 1e-6),
        system_seconds=_scaled(cpu.get("system_usec"), 1e-6),
        throttled_seconds=_scaled(cpu.get("throttled_usec"), 1e-6),
        memory_bytes=_number(directory / "memory.current"),
        memory_peak_bytes=_number(directory / "memory.peak"),
        memory_limit_bytes=_limit(_number(directory / "memory.max")),
        out_of_memory_kills=events.get("oom_kill"),
        processes=_number(directory / "pids.current"),
    )


def _read_legacy(directories: dict[str, Path]) -> GroupUsage:
    nowhere = Path("/nonexistent")
    cpu = directories.get("cpuacct", nowhere)
    memory = directories.get("memory", nowhere)
    ticks = _table(cpu / "cpuacct.stat")
    tick = 1 / os.sysconf("SC_CLK_TCK")
    return GroupUsage(
        user_seconds=_scaled(ticks.get("user"), tick),
        system_seconds=_scaled(ticks.get("system"), tick),
        throttled_seconds=_scaled(
            _table(directories.get("cpu", nowhere) / "cpu.stat").get("throttled_time"), 1e-9
        ),
        memory_bytes=_number(memory / "memory.usage_in_bytes"),
        memory_peak_bytes=_number(memory / "memory.max_usage_in_bytes"),
        memory_limit_bytes=_limit(_number(memory / "memory.limit_in_bytes")),
        out_of_memory_kills=_table(memory / "memory.oom_control").get("oom_kill"),
        processes=_number(directories.get("pids", nowhere) / "pids.current"),
    )


def _table(path: Path) -> dict[str, int]:
    try:
        words = (line.split() for line in path.read_text().splitlines())
        return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}
    except OSError:
        return {}


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _limit(value: int | None) -> int | None:
    return None if value is None or value >= _NO_LIMIT else value
