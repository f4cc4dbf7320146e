"""Netlink in a namespace that this process is not in: batches, errors, dumps, threads."""

import os
import threading
from ipaddress import ip_interface

import psutil
import pytest
from pytest_mock import MockerFixture

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel import addresses, bridges, interface, links, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink import apart
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.kernel.netlink.socket import Reply, Socket
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace


def test_a_batch_is_answered_message_by_message(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink:
        answers = netlink.request(
            links.create("br0", "bridge", []),
            links.deletion("nothing"),
            links.change("br0", 0, set_flags=links.IFF_UP),
        )
        assert [bool(answer.error) for answer in answers] == [False, True, False]
        assert netlink.request() == []
        with pytest.raises(CniError) as caught:
            netlink.request(links.create("br0", "bridge", []), links.change("br0", 0, mtu=1300))
        assert "create bridge br0" in caught.value.msg
        assert "EEXIST" in caught.value.msg
        link = links.find(netlink, "br0")
        assert link is not None
        assert (link.mtu, link.up) == (1300, True)


def test_the_kernel_s_own_words_are_passed_on(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink, pytest.raises(CniError) as caught:
        netlink.request(links.create("x", "no-such-kind"))
    assert caught.value.details


def test_a_deadline_that_has_passed(namespace: Namespace) -> None:
    with Netlink(namespace, after(0)) as netlink, pytest.raises(CniError) as caught:
        links.find(netlink, "lo")
    assert caught.value.code == 11


def test_ports_are_noticed_without_reading_them_all(namespace: Namespace) -> None:
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink:
        bridges.create(netlink, "br0", "02:00:00:00:00:01", mtu=0, promisc=False, vlan_filtering=False)
        bridge = bridges.find(netlink, "br0")
        assert bridge is not None
        assert not bridges.has_ports(netlink, "br0")
        for number in range(60):
            netlink.request(
                links.create_veth(
                    f"v{number}",
                    f"e{number}",
                    other.fd,
                    mtu=0,
                    mac=links.random_mac(),
                    peer_mac=links.random_mac(),
                    master=bridge.index,
                )
            )
        assert bridges.has_ports(netlink, "br0")
        assert len(links.every(netlink, master=bridge.index)) == 60
        assert not bridges.release(netlink, "br0", bridge.mac)
        for number in range(60):
            netlink.request(links.deletion(f"v{number}"))
        assert bridges.release(netlink, "br0", bridge.mac)
        assert not bridges.release(netlink, "br0", bridge.mac)


def with_port(netlink: Netlink, other: Namespace, name: str) -> Link:
    """The bridge `br0` with one port more."""
    bridges.create(netlink, "br0", "02:00:00:00:00:01", mtu=0, promisc=False, vlan_filtering=False)
    bridge = bridges.find(netlink, "br0")
    assert bridge is not None
    mac, peer = links.random_mac(), links.random_mac()
    netlink.request(
        links.create_veth(name, f"e-{name}", other.fd, mtu=0, mac=mac, peer_mac=peer, master=bridge.index)
    )
    port = links.find(netlink, name)
    assert port is not None
    return port


def test_the_last_port_takes_the_bridge_along_and_nothing_else(namespace: Namespace) -> None:
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink:
        first, second = with_port(netlink, other, "v1"), with_port(netlink, other, "v2")
        netlink.request(links.create("beside", "bridge", group=4711), links.create("plain", "bridge"))
        assert not bridges.is_only_port(netlink, "br0", first.index)
        assert not bridges.release_with(netlink, "br0", first)
        links.remove(netlink, "v2", second.index)
        assert bridges.release_with(netlink, "br0", first)
        assert {link.name for link in links.every(netlink)} == {"lo", "beside", "plain"}
        assert not bridges.release_with(netlink, "br0", first)
        assert not bridges.is_only_port(netlink, "br0", first.index)


def test_a_bridge_that_is_not_ours_or_stays_does_not_go_with_its_last_port(namespace: Namespace) -> None:
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink:
        port = with_port(netlink, other, "v1")
        for alias in (bridges.STAYS, "somebody's", ""):
            netlink.request(links.change("br0", port.master, ifalias=alias))
            assert not bridges.release_with(netlink, "br0", port)
        assert links.find(netlink, "v1") is not None


def test_a_group_that_a_link_is_in_is_not_taken(namespace: Namespace, mocker: MockerFixture) -> None:
    """The first number that comes is that of somebody's links: they stay."""
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink:
        port = with_port(netlink, other, "v1")
        netlink.request(links.create("somebody", "bridge", group=4711))
        numbers = iter((bytes(4), (4711).to_bytes(4, "little"), (4712).to_bytes(4, "little")))
        mocker.patch("cni_plugins.kernel.links.os.urandom", side_effect=lambda _: next(numbers))
        assert bridges.release_with(netlink, "br0", port)
        assert {link.name for link in links.every(netlink)} == {"lo", "somebody"}


def test_a_bridge_of_somebody_else_stays(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink:
        netlink.request(links.create("br0", "bridge", []))
        assert not bridges.release(netlink, "br0", "02:00:00:00:00:01")


def test_sysctls_are_those_of_the_namespace(namespace: Namespace) -> None:
    name = "ipv4/conf/lo/arp_notify"
    assert sysctl.ensure(namespace, {name: "1"}) == {name: "0"}
    assert sysctl.ensure(namespace, {name: "1"}) == {}
    assert sysctl.read(namespace, name) == "1"
    other = new_namespace()
    assert sysctl.read(other, name) == "0"
    assert sysctl.ensure(namespace, {"ipv4/no/such": "1"}, optional=True) == {}
    for bad in ("ipv4/no/such", "../vm/swappiness"):
        with pytest.raises(CniError):
            sysctl.write(namespace, {bad: "1"})


def test_threads_do_not_move_one_another() -> None:
    """Sixteen threads, each in a namespace of its own: every one finds its own link and no other."""
    seen: list[set[str]] = []

    def work(number: int) -> None:
        namespace = new_namespace()
        with Netlink(namespace, after(60)) as netlink:
            netlink.request(links.create(f"br{number}", "bridge", []))
        names = [f"br{other}" for other in range(16)]
        seen.append({name for _ in range(4) for name in names if interface.index_of(namespace, name)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(sorted, seen)) == sorted([f"br{number}"] for number in range(16))


def test_an_address_that_is_there_is_no_error_but_an_answer(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink:
        address = ip_interface("10.0.0.1/24")
        first, second = (netlink.request(addresses.add(1, address))[0].error for _ in range(2))
        assert first == 0
        assert second != 0
        assert [item.address for item in addresses.of_link(netlink, 1)] == [address]


def test_a_message_of_an_unknown_kind_is_refused(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink, pytest.raises(CniError):
        netlink.request(Message("do nonsense", 9999, 0, b""))


def test_an_interrupted_dump_is_asked_for_again(namespace: Namespace, mocker: MockerFixture) -> None:
    """The kernel marks a dump during which something changed; on a busy node that may be every one."""
    half, whole = (Reply(0, (b"half",)), True), (Reply(0, (b"whole",)), False)
    once = mocker.patch.object(Socket, "_dump_once", side_effect=[half, whole])
    with Netlink(namespace, after(30)) as netlink:
        assert netlink.dump("list links", 18, b"") == [b"whole"]
        once.side_effect = [half] * 100
        assert netlink.dump("list links", 18, b"") == [b"half"]


def veth(netlink: Netlink, name: str, other: Namespace) -> None:
    mac, peer_mac = links.random_mac(), links.random_mac()
    netlink.request(links.create_veth(name, "eth0", other.fd, mtu=0, mac=mac, peer_mac=peer_mac))


def test_a_removed_link_is_gone_with_its_peer(namespace: Namespace) -> None:
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink, Netlink(other, after(30)) as inside:
        for _ in range(20):  # the names are free again at once
            veth(netlink, "v0", other)
            links.remove(netlink, "v0")
            assert links.find(netlink, "v0") is None
            assert links.find(inside, "eth0") is None
        links.remove(netlink, "v0")


def test_a_link_that_cannot_be_removed(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink, pytest.raises(CniError, match="cannot delete lo: "):
        links.remove(netlink, "lo")


def test_removal_without_room_for_a_thread(namespace: Namespace, mocker: MockerFixture) -> None:
    other = new_namespace()
    mocker.patch.object(apart, "start_new_thread", side_effect=RuntimeError("can't start new thread"))
    mocker.patch("os.fork", side_effect=BlockingIOError)
    with Netlink(namespace, after(30)) as netlink:
        veth(netlink, "v0", other)
        links.remove(netlink, "v0")
        assert links.find(netlink, "v0") is None
        with pytest.raises(CniError, match="cannot delete lo: "):
            links.remove(netlink, "lo")


def test_a_late_deletion_meets_no_other_link_of_that_name(namespace: Namespace) -> None:
    """A link that is absent is not asked for; whoever makes one of that name next keeps it."""
    other = new_namespace()
    with Netlink(namespace, after(30)) as netlink:
        for _ in range(100):
            links.remove(netlink, "v0")
            veth(netlink, "v0", other)
            assert links.find(netlink, "v0") is not None
            netlink.request(links.deletion("v0"))


@pytest.mark.parametrize("threads", [False, True])
def test_nobody_waits_for_a_bridge_to_be_taken_apart(
    namespace: Namespace, mocker: MockerFixture, *, threads: bool
) -> None:
    """By a thread, or by a process that holds nothing of the caller's."""
    mocker.patch.object(apart, "_count", return_value=int(threads))
    reading, writing = os.pipe()
    before = set(psutil.Process().children())  # of other tests in this process
    with Netlink(namespace, after(30)) as netlink:
        for _ in range(20):
            bridges.create(netlink, "br0", "02:00:00:00:00:01", mtu=0, promisc=False, vlan_filtering=False)
            assert bridges.release(netlink, "br0", "02:00:00:00:00:01")
            assert interface.index_of(namespace, "br0") == 0
        with pytest.raises(CniError, match="cannot delete lo: "):
            links.remove(netlink, "lo")
    assert set(psutil.Process().children()) <= before
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:  # whoever sends does not have the other end any more
        assert pipe.read() == b""
