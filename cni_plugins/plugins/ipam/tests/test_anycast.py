"""The routers' anycast address of an IPv6 subnet is nobody's, even where a range begins with it."""

import pytest

from cni_plugins.plugins.ipam.ranges import Remarks, make_set, range_of, walk
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import parse_ip

_QUIET = Remarks(lambda text: None, lambda key: None)


@pytest.mark.parametrize(
    ("subnet", "first", "given"),
    [
        ("fd00::/126", "fd00::", "fd00::2"),  # ::1 is the gateway
        ("fd00::/64", "fd00::", "fd00::2"),
        ("fd00::/127", "fd00::", "fd00::1"),  # both are hosts' (RFC 6164), :: is the gateway here
    ],
)
def test_a_range_does_not_begin_with_it(subnet: str, first: str, given: str) -> None:
    ranges = make_set([{"subnet": subnet, "rangeStart": first}], "ipam.ranges[0]", _QUIET)
    assert str(next(walk(ranges, None))[0]) == given
    if not subnet.endswith("/127"):
        assert range_of(ranges, parse_ip(first)) is None


def test_a_range_of_nothing_else_is_refused() -> None:
    with pytest.raises(CniError) as told:
        make_set(
            [{"subnet": "fd00::/64", "rangeStart": "fd00::", "rangeEnd": "fd00::"}], "ipam.ranges[0]", _QUIET
        )
    assert "rangeStart" in told.value.msg
