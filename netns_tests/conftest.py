"""Fixtures of the namespace tests.

`node`       a private node, fresh for each test
`reference`  the folder of the reference plugins
`ours`       the folder of our plugins, each call a process of its own
`plugins`    the same folder: each test that takes it runs with the node service on `node`, and without
             ("reference" is a third way: it shows that a test is right about its runtime)
`machine`    a machine that systemd has booted, fresh for each test
`installed`  the same with our Debian package
`built`      the folder of what packaging/build makes

Nodes and our programs in them are forked from a process that has everything imported (warm.py), except in
tests marked `cold`, whose subject a real start is, and with `--cold`.

Files named test_qemu_*.py run on Debian's own kernel in QEMU (qemu.py), and with `--in-qemu` all that is
chosen does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns_tests.machine import Machine
from netns_tests.node import Node, NodeError
from netns_tests.plugins import IN_QEMU, TOP, make_folder, service
from netns_tests.qemu import Qemu
from netns_tests.unit import dpkg
from netns_tests.warm import Warm

BOTH_WAYS = ("service", "one-shot")
_MACHINE = pytest.StashKey[Qemu]()
_WARM = pytest.StashKey[Warm]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--in-qemu", action="store_true", help="run every namespace test on Debian's kernel in QEMU"
    )
    parser.addoption(
        "--policies", type=int, default=6, help="how many random sets of policies are probed (long form: 40)"
    )
    parser.addoption(
        "--gc-seconds", type=float, default=5.0, help="how long GC runs beside workers (long form: 300)"
    )
    parser.addoption(
        "--cold", action="store_true", help="start every program of ours, fork none from a warm process"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cold: a real start is its subject (warm.py)")
    if not config.getoption("--cold") and Node.maker is None:
        Node.maker = config.stash[_WARM] = Warm()


def pytest_unconfigure(config: pytest.Config) -> None:
    Node.maker = None
    if _WARM in config.stash:
        config.stash[_WARM].close()


@pytest.fixture(autouse=True)
def _started_as_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("cold") is not None:
        monkeypatch.setattr(Node, "maker", None)


def _runs_in_qemu(item: pytest.Item) -> bool:
    chosen = item.path.name.startswith("test_qemu_") or item.config.getoption("--in-qemu")
    return bool(chosen) and not IN_QEMU


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs a test in QEMU and reports what it did; the first of a session boots the machine."""
    if not _runs_in_qemu(item):
        return None
    hook, session = item.ihook, item.session
    following = nextitem.nodeid if nextitem is not None and _runs_in_qemu(nextitem) else None
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        for data in _machine(session).reports(item.nodeid, following):
            report = hook.pytest_report_from_serializable(config=item.config, data=data)
            hook.pytest_runtest_logreport(report=report)
    except NodeError as error:
        reason = str(error)
        call = pytest.CallInfo.from_call(lambda: pytest.fail(reason, pytrace=False), when="call")
        hook.pytest_runtest_logreport(report=hook.pytest_runtest_makereport(item=item, call=call))
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if nextitem is not None:  # at the end pytest does it
        # Whoever ran before left standing what he shared with this test, such as their folder.
        session._setupstate.teardown_exact(nextitem)
    return True


def _machine(session: pytest.Session) -> Qemu:
    found = session.stash.get(_MACHINE, None)
    if found is None:
        found = session.stash[_MACHINE] = Qemu()
        found.boot()
        found.collect([each.nodeid for each in session.items if _runs_in_qemu(each)])
    return found


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _MACHINE in session.stash:
        session.stash[_MACHINE].close()


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        yield made


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture
def installed(machine: Machine, built: Path) -> Machine:
    (package,) = built.glob("*.deb")
    dpkg(machine, "--install", str(package))
    return machine


@pytest.fixture(scope="session")
def built() -> Path:
    subprocess.run([TOP / "packaging/build"], check=True, stdout=subprocess.DEVNULL)
    return TOP / "dist"


@pytest.fixture(scope="session")
def reference() -> str:
    """Debian's containernetworking-plugins."""
    return "/usr/lib/cni"


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_folder(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(params=BOTH_WAYS)
def plugins(request: pytest.FixtureRequest, node: Node, ours: str, reference: str) -> Iterator[str]:
    match request.param:
        case "reference":
            yield reference
        case "one-shot":
            yield ours
        case _:
            with service(node):
                yield ours
