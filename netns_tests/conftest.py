"""Fixtures of the namespace tests.

`node`       a private node, fresh for each test
`reference`  the folder of the reference plugins
`ours`       the folder of our plugins, each call a process of its own
`plugins`    the same folder: each test that takes it runs with the node service on `node`, and without
             ("reference" is a third way: it shows that a test is right about its runtime)
`uml`        a machine with a kernel that has vlan, ipvlan, vrf and dummy; one for all tests, so clean up
after yourself
`machine`    a machine that systemd has booted, fresh for each test
`installed`  the same with our Debian package
`built`      the folder of what packaging/build makes
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns_tests.machine import Machine
from netns_tests.node import Node
from netns_tests.plugins import TOP, make_folder, service
from netns_tests.uml import Uml
from netns_tests.uml import machine as uml_machine
from netns_tests.unit import dpkg

BOTH_WAYS = ("service", "one-shot")


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


@pytest.fixture(scope="session")
def uml(tmp_path_factory: pytest.TempPathFactory, ours: str) -> Iterator[Uml]:
    with uml_machine(tmp_path_factory.mktemp("uml"), ours) as booted:
        yield booted
