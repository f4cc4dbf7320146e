"""The netfilter socket: sockets that are kept, and numbers that come round."""

import os
from collections.abc import Iterator

import pytest

from cni_plugins.kernel import nfnetlink
from cni_plugins.kernel.nfnetlink import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft.elements import exist, table_message
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace


@pytest.fixture
def own() -> Iterator[Namespace]:
    namespace = open_namespace(OWN_NETNS)
    assert namespace is not None
    yield namespace
    os.close(namespace.fd)


def test_a_socket_of_the_own_namespace_is_kept_for_the_next(own: Namespace) -> None:
    with Nfnetlink(own) as first:
        kept = first._socket
        with Nfnetlink(own) as second:
            assert second._socket is not kept
    with Nfnetlink(own) as third:
        assert third._socket is kept
        assert exist(third, [table_message(NFPROTO_INET, "no_such_table_of_ours")] * 100) == [False] * 100


def test_sequence_numbers_come_round(own: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfnetlink, "_sequences", iter([1 << 33, (1 << 33) + (1 << 16), 0xFFFF0000]))
    for _ in range(3):
        with Nfnetlink(own) as socket:
            assert exist(socket, [table_message(NFPROTO_INET, "no_such_table_of_ours")]) == [False]
