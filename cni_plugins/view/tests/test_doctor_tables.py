"""Tables of the kernel that only the first network namespace may size: their findings, with sizes made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cni_plugins.kernel.neighbours import Neighbour, State
from cni_plugins.kernel.nft.elements import Sets
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.spec.values import parse_ip
from cni_plugins.view.doctor import host
from cni_plugins.view.doctor.facts import Facts, Level
from cni_plugins.view.node import Seen, node_of


def facts(neighbours: int = 0) -> Facts:
    seen = Seen((), (), {}, (0, 0), "", {})
    there = tuple(
        Neighbour(1, parse_ip(f"10.0.{number // 256}.{number % 256}"), "", State.STALE)
        for number in range(neighbours)
    )
    namespace = Namespace(-1, "", 0, 0)
    return Facts(
        roots_from({}), namespace, node_of(seen), (), (), {4: (), 6: ()}, there, {}, 0.0, Sets(namespace)
    )


@pytest.mark.parametrize(
    ("count", "level"), [("100", None), ("799", None), ("800", Level.WARN), ("1000", Level.FAIL)]
)
def test_connections(mocker: MockerFixture, count: str, level: Level | None) -> None:
    values = {"netfilter/nf_conntrack_count": count, "netfilter/nf_conntrack_max": "1000"}
    mocker.patch("cni_plugins.kernel.sysctl.read", lambda _, name: values[name])
    found = list(host.connection_table(facts()))
    assert [item.level for item in found] == ([level] if level else [])
    if found:
        assert "sysctl -w net.netfilter.nf_conntrack_max=65536" in found[0].remedy


def test_no_connection_tracking_is_no_finding(mocker: MockerFixture) -> None:
    mocker.patch("cni_plugins.kernel.sysctl.read", return_value=None)
    assert list(host.connection_table(facts())) == []


@pytest.mark.parametrize(("count", "told"), [(10, 0), (900, 1)])
def test_neighbours(mocker: MockerFixture, count: int, told: int) -> None:
    mocker.patch("cni_plugins.kernel.sysctl.read", return_value="1024")
    found = list(host.neighbour_table(facts(count)))
    assert len(found) == told
    assert all("gc_thresh3=8192" in item.remedy for item in found)


def test_a_slow_kernel_is_told(tmp_path: Path) -> None:
    slow = replace(facts(), seconds=2.5)
    assert [item.evidence for item in host.slow_kernel(slow)] == ["a list of links took 2.5 s"]
