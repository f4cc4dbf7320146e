"""How the tests are spread over processes, and which of them need nothing but Python: a plugin of pytest.

`pytest -p netns_tests.parallel -n 2 --dist loadfile`: the tests of a file stay together, because they share
what is made once for a module; those in QEMU all do, because the machine boots once for a process.

`--fast` leaves out what needs root, a program of a Debian package, or minutes.
"""

from __future__ import annotations

import pytest

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
    "executor/app/tests/test_container_address.py",
    "executor/checks/tests/test_command.py::test_no_room_for_a_process",
    "executor/framework/sdk/tests/test_leader.py::test_the_lowest",
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
    "packaging/tests/test_launcher.py",
    "packaging/tests/test_packed.py",
    "packaging/tests/test_wheel.py",
    "proto/tests/test_schema.py::test_classes_are_those_of_the_schema",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that need no root and no Debian package")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    chosen = [item for item in items if _fast(item)]
    left = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = chosen


def _fast(item: pytest.Item) -> bool:
    fixtures = frozenset(getattr(item, "fixturenames", ()))
    return not item.nodeid.startswith(_NOT_FAST) and not fixtures & _FIXTURES


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - only where tests run in parallel

    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = _kept_together
    return scheduling


def _kept_together(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return "in QEMU" if "/test_qemu_" in file else file
