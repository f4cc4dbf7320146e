"""The netfilter socket: sockets that are kept, and numbers that come round."""

import os
from collections.abc import Iterator

import pytest
from pytest_mock import MockerFixture

from cni_plugins.kernel import iptables
from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.netlink.socket import Socket
from cni_plugins.kernel.nft import elements, masquerade, orphans, ports, reference, spoof
from cni_plugins.kernel.nft.elements import Element, chain_message, exist
from cni_plugins.kernel.nft.ports import Forward, Publication
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.values import parse_cidr


@pytest.fixture
def own() -> Iterator[Namespace]:
    namespace = open_namespace(OWN_NETNS)
    assert namespace is not None
    yield namespace
    os.close(namespace.fd)


def channel(socket: Nfnetlink) -> object:
    return socket._socket.channel if socket._socket is not None else None


def test_a_socket_of_the_own_namespace_is_kept_for_the_next(own: Namespace) -> None:
    with Nfnetlink(own) as first:
        kept = channel(first)
        with Nfnetlink(own) as second:
            assert channel(second) is not kept
    with Nfnetlink(own) as third:
        assert channel(third) is kept
        assert exist(third, [chain_message(NFPROTO_INET, "no_such_table", "any")] * 100) == [False] * 100


def test_sequence_numbers_come_round(own: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfnetlink, "_sequences", iter([1 << 33, (1 << 33) + (1 << 16), 0xFFFF0000]))
    for _ in range(3):
        with Nfnetlink(own) as socket:
            assert exist(socket, [chain_message(NFPROTO_INET, "no_such_table", "any")]) == [False]


def test_a_kernel_without_netfilter_holds_nothing(own: Namespace, mocker: MockerFixture) -> None:
    mocker.patch.object(nfnetlink, "_open", lambda namespace: None)
    mocker.patch.dict(nfnetlink._spare, clear=True)
    who = Identity("net", "cid", "eth0")
    addresses = [parse_cidr("10.1.0.5/24")]
    for _ in range(2):
        masquerade.remove(own, who, addresses)
        spoof.remove(own, who, "veth0", "02:00:00:00:00:01")
        ports.remove(own, who, Publication((Forward("tcp", None, 80, addresses[0], 80),)))
        reference.remove_masquerade(own, who)
        reference.remove_spoof_check(own, who)
        reference.remove_ports(own, "cid")
        orphans.remove(own, "net", list, ports.sets(own))
    assert iptables.versions_with(own, ["CNI-X"]) == []
    assert not masquerade.present(own, who, addresses)
    with Nfnetlink(own) as socket:
        assert not socket.supported
        with pytest.raises(CniError, match="no nf_tables"):
            elements.change(socket, create=[Element(NFPROTO_INET, "s", b"1234")])


def test_a_socket_whose_dump_broke_off_is_not_kept(own: Namespace, mocker: MockerFixture) -> None:
    """The kernel may be in the middle of it, and would refuse the next one's dump (EBUSY)."""
    mocker.patch.dict(nfnetlink._spare, clear=True)
    with Nfnetlink(own) as first:
        broken = channel(first)
        mocker.patch.object(Socket, "_received", side_effect=CniError(999, "interrupted"))
        with pytest.raises(CniError, match="interrupted"):
            elements.sets(first, NFPROTO_INET)
        mocker.stopall()
    with Nfnetlink(own) as second:
        assert channel(second) is not broken
        assert isinstance(elements.sets(second, NFPROTO_INET), list)
