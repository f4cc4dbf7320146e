"""When rules are looked after, by how long the last look took."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cni_plugins.kernel.nft.changes import Changes
from cni_plugins.node.rules_watch import RulesWatch


@pytest.fixture
def watch() -> Iterator[RulesWatch]:
    """Nobody tells it anything."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    with ours, theirs:
        yield RulesWatch(Changes(ours))


def test_a_short_look_is_followed_by_the_next_at_once(watch: RulesWatch) -> None:
    watch.took(0.1)
    watch.soon(0)
    assert watch.is_due()
    assert watch.patience() is None


def test_a_long_look_is_followed_by_a_pause(watch: RulesWatch) -> None:
    """On a node with ten thousand attachments: the look does not become all that the service does."""
    watch.took(100)
    watch.soon(0)
    assert not watch.is_due()
    patience = watch.patience()
    assert patience is not None
    assert patience > 400
