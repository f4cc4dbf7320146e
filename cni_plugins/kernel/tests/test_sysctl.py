"""Sysctls through a procfs of our own, and through /proc where the kernel gives none."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cni_plugins.kernel import sysctl
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace

NAME = "ipv4/conf/lo/arp_notify"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def in_a_thread_of_its_own(work: Callable[[], None]) -> None:
    """Doors belong to threads: a new thread opens a new one."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # it is the test's
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(params=["own", "shared"])
def procfs(request: pytest.FixtureRequest, mocker: MockerFixture) -> str:
    if request.param == "shared":  # a kernel before 5.2, or one that forbids mounting
        mocker.patch.object(sysctl, "_libc").syscall.return_value = -1
    return str(request.param)


def test_each_namespace_has_its_own(namespace: Namespace, procfs: str) -> None:
    def work() -> None:
        assert sysctl.read(namespace, NAME) == "0"
        assert sysctl.ensure(namespace, {NAME: "1"}) == {NAME: "0"}
        assert sysctl.ensure(namespace, {NAME: "1"}) == {}
        assert sysctl.read(namespace, NAME) == "1"
        assert Path(f"/proc/sys/net/{NAME}").read_text().strip() == "0"
        sysctl.write(namespace, {NAME: "0"})
        assert sysctl.read(namespace, NAME) == "0"

    in_a_thread_of_its_own(work)


def test_what_is_missing_or_refused(namespace: Namespace, procfs: str) -> None:
    def work() -> None:
        assert sysctl.read(namespace, "ipv4/conf/nothing/arp_notify") is None
        assert sysctl.ensure(namespace, {"ipv4/conf/nothing/arp_notify": "1"}, optional=True) == {}
        assert sysctl.ensure(namespace, {"ipv4/tcp_available_congestion_control": "x"}, optional=True) == {}
        with pytest.raises(CniError, match="cannot write '1' to /proc/sys/net/ipv4/conf/nothing/arp_notify"):
            sysctl.ensure(namespace, {"ipv4/conf/nothing/arp_notify": "1"})
        with pytest.raises(CniError, match="leaves /proc/sys/net"):
            sysctl.read(namespace, "../kernel/hostname")
        with pytest.raises(CniError, match="leaves /proc/sys/net"):
            sysctl.write(namespace, {"/etc/hostname": "x"})

    in_a_thread_of_its_own(work)


def test_any_number_of_look_ups_keeps_no_descriptor(namespace: Namespace) -> None:
    def work() -> None:
        sysctl.read(namespace, NAME)
        before = descriptors()
        for _ in range(1000):
            assert sysctl.read(namespace, NAME) == "0"
        assert descriptors() == before

    before = descriptors()
    in_a_thread_of_its_own(work)
    assert descriptors() == before
