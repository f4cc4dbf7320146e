"""How the tests are spread over processes, and which of them need nothing but Python: a plugin of pytest.

`pytest -p netns_tests.parallel -n 2 --dist loadfile`: the tests of a file stay together, because they share
what is made once for a module. Files that take long begin first, so that no process works on when the others
are done: seconds are those of the last run (in pytest's cache), or those of LONG. Of four processes or more
one begins with files that mostly wait (WAITING), which the others take last. Tests in QEMU are one group: a
machine boots once for a process, and what it is asked for is all it runs.

pytest writes its asserts anew in every test file, which takes three times as long as all else that it does
before the first test, and each process would do it for all files: each file is done once, before they begin.

`--fast` leaves out what needs root, a program of a Debian package, or minutes.
"""

from __future__ import annotations

import gc
import os
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

QEMU = "in QEMU"
#: Seconds of groups that take long, where no earlier run has told: so they begin first.
LONG = {
    QEMU: 900.0,
    "netns_tests/test_differential.py": 300.0,
    "netns_tests/test_crash.py": 200.0,
    "netns_tests/test_update_networks.py": 180.0,
    "netns_tests/test_dhcp6.py": 150.0,
    "netns_tests/test_fuzz.py": 120.0,
    "netns_tests/test_dhcp.py": 110.0,
    "netns_tests/test_systemd.py": 110.0,  # what packaging/build makes is made for it
    "netns_tests/test_conformance.py": 100.0,
    "netns_tests/test_commands.py": 95.0,
    "netns_tests/test_node_service.py": 90.0,
    "executor/framework/service/tests/test_ha.py": 90.0,
    "executor/tests/hostile_peers/test_agents.py": 90.0,
    "netns_tests/test_update_crash.py": 80.0,
    "netns_tests/test_policy.py": 75.0,
    "cni_plugins/cli/tests/test_validate_agrees.py": 70.0,
    "netns_tests/test_runtimes_networks.py": 75.0,
    "netns_tests/test_bandwidth.py": 70.0,
    "netns_tests/test_router_advertisements.py": 60.0,
    "netns_tests/test_switch.py": 60.0,
    "netns_tests/test_agent_people.py": 60.0,
    "netns_tests/test_concurrency.py": 50.0,
    "netns_tests/test_portmap.py": 50.0,
    "netns_tests/test_demo.py": 45.0,
    "netns_tests/test_policy_generated.py": 40.0,
    "netns_tests/test_fault_lab.py": 40.0,
}
_SECONDS = "mesokit/seconds"
#: These wait for most of their time, for a lease's end or for silence: one process begins with them, beside
#: those that work.
WAITING = frozenset(
    (
        "executor/framework/service/tests/test_ha.py",
        "netns_tests/test_dhcp.py",
        "netns_tests/test_dhcp6.py",
        "netns_tests/test_policy.py",
        "netns_tests/test_prefix_delegation.py",
        "netns_tests/test_router_advertisements.py",
    )
)
#: With fewer processes each takes what comes.
_ENOUGH = 4

#: They make namespaces.
_FIXTURES = frozenset({"world", "namespace", "node", "machine", "installed", "plugins"})
#: What else needs root (users, namespaces, limits), a build, a program of a package, or minutes.
_NOT_FAST = (
    "cni_plugins/cli/tests/test_start.py",
    "cni_plugins/cli/tests/test_run.py",
    "cni_plugins/kernel/tests/test_announce.py::test_a_container_that_has_gone",
    "cni_plugins/kernel/tests/test_netlink.py",
    "cni_plugins/kernel/tests/test_nfnetlink.py",
    "cni_plugins/node/tests/",
    "cni_plugins/policy/tests/test_compile.py::test_differences_lead",
    "cni_plugins/policy/tests/test_compile.py::test_the_sets_mean",
    "cni_plugins/policy/tests/test_compile.py::test_what_is_inherited",
    "executor/app/tests/test_container_address.py",
    "executor/checks/tests/test_command.py::test_no_room_for_a_process",
    "executor/framework/sdk/tests/test_leader.py::test_the_lowest",
    "executor/framework/service/tests/chaos/",
    "executor/framework/service/tests/test_cluster.py::test_five_hundred",
    "executor/framework/service/tests/test_crash.py",
    "executor/framework/service/tests/test_ha.py",
    "executor/framework/store/tests/test_stores.py",
    "executor/output/tests/test_directory.py",
    "executor/output/tests/test_progress.py::test_a_file_with_another_name",
    "executor/output/tests/test_progress.py::test_lines_made_for_a_slow_search",
    "executor/process/tests/test_launch.py::test_no_processes_left",
    "executor/process/tests/test_launch.py::test_user_switch",
    "executor/process/tests/test_tree.py::test_daemon_that_sheds",
    "executor/tests/",
    "netns_tests/",
    "packaging/tests/test_bench.py",
    "packaging/tests/test_install.py",
    "packaging/tests/test_interpreter.py",
    "packaging/tests/test_launcher.py",
    "packaging/tests/test_packed.py",
    "packaging/tests/test_parallel.py::test_what_takes_long",
    "packaging/tests/test_wheel.py",
    "proto/tests/test_schema.py::test_classes_are_those_of_the_schema",
)
#: Of these, files and folders.
_WHOLE = tuple(name for name in _NOT_FAST if "::" not in name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that need no root and no Debian package")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of which no test is chosen are not even imported. None: whatever else decides."""
    if not config.getoption("--fast") or not collection_path.is_relative_to(config.rootpath):
        return None
    name = collection_path.relative_to(config.rootpath).as_posix()
    return True if f"{name}/".startswith(_WHOLE) or name in _WHOLE else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    chosen = [item for item in items if _fast(item)]
    left = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = chosen


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected stays to the end: no collection of garbage, of which tests and what they test ask
    for hundreds, looks at these hundred megabytes again, and no child copies them for it."""
    gc.collect()
    gc.freeze()


def _fast(item: pytest.Item) -> bool:
    fixtures = frozenset(getattr(item, "fixturenames", ()))
    return not item.nodeid.startswith(_NOT_FAST) and not fixtures & _FIXTURES


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """In the process that will start others, and has no thread yet."""
    config = session.config
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        rewrite_once(config, _files(config))


def _files(config: pytest.Config) -> list[Path]:
    """Of what was asked for, the test files."""
    places = [config.invocation_params.dir / each.partition("::")[0] for each in config.args]
    found = [path for place in places for path in (place.rglob("test_*.py") if place.is_dir() else [place])]
    return sorted(path for path in set(found) if path.is_file() and not pytest_ignore_collect(path, config))


def rewrite_once(config: pytest.Config, files: Sequence[Path]) -> None:
    """Writes what pytest makes of these files to where it looks for it; the largest first, two at a time on
    two processors. A file that cannot be read or is no Python is left to pytest, which says so."""
    state = config.stash[rewrite.assertstate_key]
    made = {path: rewrite.get_cache_dir(path) / (path.name[:-3] + rewrite.PYC_TAIL) for path in files}
    stale = [path for path in files if rewrite._read_pyc(path, made[path]) is None]
    stale.sort(key=lambda path: path.stat().st_size, reverse=True)
    processes = min(len(os.sched_getaffinity(0)), len(stale))
    children = []
    for number in range(processes):
        child = os.fork()
        if child != 0:
            children.append(child)
            continue
        try:
            for path in stale[number::processes]:
                made[path].parent.mkdir(exist_ok=True)
                source, code = rewrite._rewrite_test(path, config)
                rewrite._write_pyc(state, code, source, made[path])
        finally:
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)


class Seconds:
    """How long each group takes; remembered from run to run by the process that spreads them."""

    def __init__(self, config: pytest.Config) -> None:
        cache = config.cache
        self._cache = cache
        self._before: dict[str, float] = LONG | (cache.get(_SECONDS, {}) if cache is not None else {})
        self._now: defaultdict[str, float] = defaultdict(float)

    def of(self, group: str) -> float:
        return self._before.get(group, 0.0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._now[kept_together(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        """A group of which only a part ran now keeps what it took as a whole."""
        longest = {group: max(self.of(group) / 2, now) for group, now in self._now.items()}
        if self._cache is not None:
            self._cache.set(_SECONDS, self._before | longest)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Seconds(config), "seconds of groups")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - only where tests run in parallel

    seconds = config.pluginmanager.get_plugin("seconds of groups")
    assert isinstance(seconds, Seconds)
    seconds_of = seconds.of

    class LongestFirst(OrderedDict[str, dict[str, bool]]):
        """The queue of groups, from which xdist takes the first. `waits`: whether those of WAITING go before
        the others, or behind; None: it is all the same."""

        waits: bool | None = None

        def popitem(self, last: bool = True) -> tuple[str, dict[str, bool]]:
            def order(each: str) -> tuple[bool, float, int]:
                return (each in WAITING) == self.waits, seconds_of(each), len(self[each])

            group = max(self, key=order)
            return group, self.pop(group)

    scheduling = LoadFileScheduling(config, log)
    queue = LongestFirst()
    assign = scheduling._assign_work_unit

    def assign_work_unit(node: object) -> None:
        nodes = scheduling.nodes
        queue.waits = node is nodes[0] if len(nodes) >= _ENOUGH else None
        assign(node)

    scheduling._split_scope = kept_together
    scheduling._assign_work_unit = assign_work_unit
    scheduling.workqueue = queue
    return scheduling


def kept_together(nodeid: str) -> str:
    """The group of a test: its file, or all that runs in QEMU."""
    file = nodeid.partition("::")[0]
    return QEMU if "/test_qemu_" in file else file
