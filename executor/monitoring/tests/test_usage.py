"""Usage: of processes that do something, and of control groups laid out as kernels do."""

import os
from pathlib import Path

import pytest

from executor.monitoring import cgroup
from executor.monitoring.usage import Sampler
from executor.process.tests.fixtures import eventually, python, shell, supervised

BUSY = """
import os, time
held = bytearray(64 << 20)
if os.fork() == 0:
    while time.process_time() < 0.3: pass
    os._exit(0)
os.wait()
time.sleep(1000)
"""


COUNTING = """
import time
while time.process_time() < 0.2: sum(range(10000))
time.sleep(1000)
"""


def test_a_tree_is_added_up_dead_children_included() -> None:
    with supervised() as supervisor:
        sampler = Sampler(supervisor)
        process = supervisor.start(python(BUSY))

        def worked() -> bool:
            usage = sampler.sample([process])["test"]
            return usage.user_seconds + usage.system_seconds >= 0.25 and usage.processes == 1

        eventually(worked, "the work of the dead child")
        usage = sampler.sample([process])["test"]
        assert usage.source == "processes"
        assert 64 << 20 < usage.memory_bytes < 200 << 20
        assert usage.memory_peak_bytes >= usage.memory_bytes
        assert usage.threads == 1


def test_several_tasks_in_one_look() -> None:
    with supervised() as supervisor:
        sampler = Sampler(supervisor)
        first = supervisor.start(shell("sleep 1000 & sleep 1000"))
        second = supervisor.start(shell("exec sleep 1000"))
        eventually(lambda: len(supervisor.survivors(first)) == 3, "the tree")
        by_cookie = supervisor.members([first, second])
        assert {len(entries) for entries in by_cookie.values()} == {3, 1}
        assert sampler.sample([first])["test"].processes == 3
        assert sampler.sample([second])["test"].processes == 1


def test_times_never_go_back() -> None:
    with supervised() as supervisor:
        sampler = Sampler(supervisor)
        process = supervisor.start(python(COUNTING))
        eventually(lambda: sampler.sample([process])["test"].user_seconds >= 0.05, "some work")
        before = sampler.sample([process])["test"]
        os.kill(process.pid, 9)
        eventually(lambda: sampler.sample([process])["test"].processes == 0, "the end")
        after = sampler.sample([process])["test"]
        assert after.user_seconds >= before.user_seconds
        assert after.memory_peak_bytes == before.memory_peak_bytes


def lay_out(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def group(tmp_path: Path, mounts: Path, membership: str) -> cgroup.Group | None:
    lay_out(tmp_path / "proc" / "7", {"cgroup": membership})
    return cgroup.group_of(7, mounts, tmp_path / "proc")


def test_version_2(tmp_path: Path, mounts: Path) -> None:
    lay_out(
        mounts,
        {
            "cgroup.procs": "",
            "cgroup.controllers": "cpu memory\n",
            "mesos/c1/cgroup.procs": "7\n",
            "mesos/c1/cgroup.controllers": "cpu memory\n",
            "mesos/c1/cgroup.type": "domain\n",
            "mesos/c1/cpu.stat": "user_usec 2500000\nsystem_usec 1000000\nthrottled_usec 7\n",
            "mesos/c1/memory.current": "4096\n",
            "mesos/c1/memory.peak": "8192\n",
            "mesos/c1/memory.max": "max\n",
            "mesos/c1/memory.events": "oom 1\noom_kill 2\n",
            "mesos/c1/pids.current": "3\n",
        },
    )
    found = group(tmp_path, mounts, "0::/mesos/c1\n")
    assert found is not None
    assert cgroup.read(found) == cgroup.GroupUsage(2.5, 1.0, 7e-6, 4096, 8192, None, 2, 3)
    assert group(tmp_path, mounts, "0::/\n") is None


def test_version_1(tmp_path: Path, mounts: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    memory, cpu = "memory/mesos/c1", "cpu,cpuacct/mesos/c1"
    lay_out(
        mounts,
        {
            f"{memory}/cgroup.procs": "7\n",
            f"{memory}/memory.usage_in_bytes": "4096\n",
            f"{memory}/memory.max_usage_in_bytes": "8192\n",
            f"{memory}/memory.limit_in_bytes": "33554432\n",
            f"{memory}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            f"{cpu}/cgroup.procs": "7\n",
            f"{cpu}/cpuacct.stat": f"user {tick * 2}\nsystem {tick}\n",
            f"{cpu}/cpu.stat": "nr_periods 1\nnr_throttled 1\nthrottled_time 500000000\n",
            "pids/cgroup.procs": "",
            "pids/release_agent": "",
        },
    )
    found = group(tmp_path, mounts, "9:pids:/\n4:memory:/mesos/c1\n2:cpu,cpuacct:/mesos/c1\n")
    assert found is not None
    assert cgroup.read(found) == cgroup.GroupUsage(2.0, 1.0, 0.5, 4096, 8192, 33554432, 1, None)


def test_a_group_seen_from_inside_its_namespace(tmp_path: Path, mounts: Path) -> None:
    lay_out(
        mounts,
        {
            "cgroup.procs": "7\n",
            "cgroup.controllers": "memory\n",
            "cgroup.type": "domain\n",
            "memory.current": "1\n",
        },
    )
    found = group(tmp_path, mounts, "0::/\n")
    assert found is not None
    assert cgroup.read(found).memory_bytes == 1


def test_only_a_group_of_the_containers_own_is_the_containers(tmp_path: Path, mounts: Path) -> None:
    lay_out(
        mounts,
        {
            "memory/user.slice/session-1.scope/cgroup.procs": "7\n",
            "memory/mesos/c1/cgroup.procs": "7\n",
            "pids/user.slice/cgroup.procs": "7\n",
        },
    )
    sessions = group(tmp_path, mounts, "4:memory:/user.slice/session-1.scope\n8:pids:/user.slice\n")
    assert sessions is not None
    assert cgroup.container_of(sessions, "c1") is None
    assert cgroup.container_of(sessions, None) is None
    isolated = group(tmp_path, mounts, "4:memory:/mesos/c1\n8:pids:/user.slice\n")
    own = cgroup.container_of(isolated, "c1")
    assert own is not None
    assert set(own.directories) == {"memory"}
    lay_out(mounts, {"memory/cgroup.procs": "7\n"})
    inside = group(tmp_path, mounts, "4:memory:/\n")
    own = cgroup.container_of(inside, None)
    assert own is not None
    assert set(own.directories) == {"memory"}


def test_groups_that_may_not_be_looked_into_are_none(tmp_path: Path, mounts: Path) -> None:
    (mounts / "memory").mkdir(parents=True)
    lay_out(tmp_path / "proc" / "7", {"cgroup": f"4:memory:/{'x' * 300}\n"})
    assert cgroup.group_of(7, mounts, tmp_path / "proc") is None


def test_no_groups_at_all(tmp_path: Path, mounts: Path) -> None:
    assert group(tmp_path, mounts, "0::/\n") is None
    assert cgroup.group_of(8, mounts, tmp_path / "proc") is None
