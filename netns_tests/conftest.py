"""Fixtures of the namespace tests."""

from collections.abc import Iterator

import pytest

from netns_tests.node import Node


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        yield made


@pytest.fixture(scope="session")
def reference() -> str:
    """Debian's containernetworking-plugins."""
    return "/usr/lib/cni"
