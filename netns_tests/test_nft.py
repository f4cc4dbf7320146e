"""The nf_tables door: one table, made once by many, elements only, in any namespace from any thread."""

from __future__ import annotations

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import (
    elements,
    library,
    masquerade,
    nat,
    orphans,
    owner,
    ports,
    sections,
    spoof,
    tables,
)
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import Taken
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import IpInterface, parse_cidr, parse_ip
from netns_tests.by_hand import elements as held
from netns_tests.by_hand import host_of, rules
from netns_tests.node import Node

TOP = Path(__file__).resolve().parents[1]


def who(number: int, network: str = "net") -> Identity:
    return Identity(network, f"c{number}", "eth0")


def addresses(number: int) -> list[IpInterface]:
    return [
        parse_cidr(f"10.1.{number // 250}.{number % 250 + 1}/16"),
        parse_cidr(f"fd00:1::{number + 1:x}/64"),
    ]


def published(number: int) -> Publication:
    forwards = [Forward("tcp", None, 2000 + number, target, 80) for target in addresses(number)]
    return Publication(
        (*forwards, Forward("sctp", parse_ip("192.0.2.9"), number + 1, addresses(number)[0], 9))
    )


RACER = """
import sys
from cni_plugins.kernel.nft import masquerade
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.values import parse_cidr
sys.stdin.read()
host = open_namespace(OWN_NETNS)
number = int(sys.argv[1])
for turn in range(10):
    identity = Identity("net", f"c{number}-{turn}", "eth0")
    listed = [parse_cidr(f"10.1.{number}.{turn + 1}/16"), parse_cidr(f"fd00:{number}::{turn + 1}/64")]
    masquerade.add(host, identity, listed)
    if turn % 2:
        masquerade.remove(host, identity, listed)
"""


def test_sixteen_processes_make_one_table(node: Node) -> None:
    read, write = os.pipe()
    running = [
        node.popen([sys.executable, "-c", RACER, str(number)], stdin=read, cwd=str(TOP))
        for number in range(16)
    ]
    os.close(read)
    os.close(write)
    for process in running:
        finished = process.wait(120)
        assert finished.status == 0, finished.stderr.decode()
    assert len(held(node)) == 16 * 5 * 2
    # The section's rules once, and one for each of the 17 subnets.
    assert rules(node) == sum(len(chain.rules) for chain in nat.SECTION.chains) + 17


def test_elements_are_what_nft_reads_and_go_without_a_trace(node: Node) -> None:
    with host_of(node) as host:
        masquerade.add(host, who(1), addresses(1))
        ports.add(host, who(1), published(1))
        spoof.add(host, who(1), "veth1", "02:00:00:00:00:01")
        ports.guard_loopback(host, "br0")
        text = node.shell("nft list ruleset")
        comment = f'comment "{owner.comment(who(1))}"'
        assert comment.endswith('net: net, if: eth0, id: c1"')
        for line in (
            f"10.1.0.2 {comment} : jump leave_10.1.0.0/16",
            f"fd00:1::2 {comment} : jump leave_fd00-1--/64",
            f"tcp . 2001 {comment} : 10.1.0.2 . 80",
            f"tcp . 2001 {comment} : fd00:1::2 . 80",
            f"192.0.2.9 . sctp . 2 {comment} : 10.1.0.2 . 9",
            f"10.1.0.2 {comment} : jump answer_10.1.0.0/16",
            f'"veth1" . 02:00:00:00:00:01 {comment}',
            '"br0" comment "route_localnet"',
        ):
            assert line in text
        assert masquerade.present(host, who(1), addresses(1))
        assert spoof.present(host, who(1), "veth1", "02:00:00:00:00:01")
        assert ports.missing(host, who(1), published(1)) == []
        assert not masquerade.present(host, who(2), addresses(1))
        for _ in range(2):
            masquerade.remove(host, who(1), addresses(1))
            ports.remove(host, who(1), published(1))
            spoof.remove(host, who(1), "veth1", "02:00:00:00:00:01")
            ports.unguard_loopback(host, "br0")
        assert len(ports.missing(host, who(1), published(1))) == 3
    assert held(node) == []
    assert rules(node) == sum(
        len(chain.rules) for section in (nat.SECTION, spoof.SECTION) for chain in section.chains
    )


def test_two_hundred_containers_have_the_rules_of_one(node: Node) -> None:
    with host_of(node) as host:
        counts = []
        for number in range(200):
            masquerade.add(host, who(number), addresses(number))
            ports.add(host, who(number), published(number))
            if number in {0, 199}:
                counts.append(rules(node))
        assert counts[0] == counts[1]
        assert len(held(node)) == 200 * 7
        orphans.remove(host, "net", lambda: [who(7)], (*ports.SETS, *masquerade.SETS))
        assert len(held(node)) == 7


def test_an_address_changes_hands_and_its_old_owner_cannot_take_it_back(node: Node) -> None:
    with host_of(node) as host:
        masquerade.add(host, who(1), addresses(1))
        wider = [parse_cidr("10.1.0.2/8"), addresses(1)[1]]
        masquerade.add(host, who(2), wider)
        assert masquerade.present(host, who(2), wider)
        masquerade.remove(host, who(1), addresses(1))
        assert masquerade.present(host, who(2), wider)


def test_a_port_does_not_change_hands(node: Node) -> None:
    with host_of(node) as host:
        ports.add(host, who(1), published(1))
        theirs = Publication((Forward("tcp", None, 2001, addresses(7)[0], 80),), Hide.ALL)
        with pytest.raises(Taken) as taken:
            ports.add(host, who(7), theirs)
        assert owner.holder(taken.value.comment) == "container c1 (network net, interface eth0)"
        assert ports.missing(host, who(1), published(1)) == []
        ports.add(host, who(1), published(1))
    assert "10.1.0.8" not in " ".join(held(node))


def test_a_later_release_writes_the_rules_anew_and_keeps_the_elements(node: Node) -> None:
    with host_of(node) as host, Nfnetlink(host) as socket:
        masquerade.add(host, who(1), addresses(1))
        before = rules(node)
        sections.ensure(socket, replace(nat.SECTION, version="nat_2"))
        assert masquerade.present(host, who(1), addresses(1))
        assert rules(node) == before
        assert "chain nat_2" in node.shell("nft list ruleset")


def test_strays_are_told_by_network_and_attachment(node: Node) -> None:
    long = Identity("net", "x" * 300, "eth0")
    with host_of(node) as host:
        for number in (1, 2):
            masquerade.add(host, who(number), addresses(number))
        masquerade.add(host, who(3, "network"), addresses(3))
        masquerade.add(host, long, addresses(4))
        orphans.remove(host, "net", lambda: [who(1), long], masquerade.SETS)
        assert masquerade.present(host, who(1), addresses(1))
        assert masquerade.present(host, long, addresses(4))
        assert masquerade.present(host, who(3, "network"), addresses(3))
        assert not masquerade.present(host, who(2), addresses(2))


def test_threads_work_in_several_namespaces_at_once(node: Node) -> None:
    with Node() as second, host_of(node) as here, host_of(second) as there:

        def attach(number: int) -> None:
            host = (here, there)[number % 2]
            for turn in range(8):
                index = number * 8 + turn
                masquerade.add(host, who(index), addresses(index))
                assert masquerade.present(host, who(index), addresses(index))

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(attach, number) for number in range(16)]:
                done.result()
        assert len(held(node)) == len(held(second)) == 16 * 8


def test_what_the_kernel_refuses_is_told_per_element(node: Node) -> None:
    with host_of(node) as host, Nfnetlink(host) as socket:
        sections.ensure(socket, nat.SECTION)
        good = Element(NFPROTO_INET, "localnet", elements.key(elements.interface("a")), comment="x")
        bad = Element(NFPROTO_INET, "no_such_set", elements.key(elements.interface("b")))
        assert elements.change(socket, create=[good, bad]) == {bad: errno.ENOENT}
        assert elements.comments(socket, [good]) == [None]
        assert elements.change(socket, create=[good]) == {}
        assert elements.change(socket, create=[good]) == {good: errno.EEXIST}
        assert elements.comments(socket, [good]) == ["x"]
        assert elements.listed(socket, NFPROTO_INET, "no_such_set") == []
        with pytest.raises(library.ScriptError, match="No such file"):
            library.run(host, "list table inet nowhere")
        assert not tables.drop_unused(socket, NFPROTO_INET)
        elements.remove_own(socket, [good])
        assert tables.drop_unused(socket, NFPROTO_INET)
    assert node.shell("nft list ruleset") == ""
