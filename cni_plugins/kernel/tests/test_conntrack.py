"""Which UDP flows are forgotten, told from the kernel's own bytes."""

from cni_plugins.kernel import conntrack
from cni_plugins.kernel.conntrack import UdpPort
from cni_plugins.kernel.netlink.codec import attribute, nested
from cni_plugins.spec.values import parse_ip


def _tuple(kind: int, source: tuple[str, int], target: tuple[str, int], protocol: int = 17) -> bytes:
    source_kind, target_kind = (1, 2) if "." in source[0] else (3, 4)
    addresses = attribute(source_kind, parse_ip(source[0]).packed)
    addresses += attribute(target_kind, parse_ip(target[0]).packed)
    ports = attribute(2, source[1].to_bytes(2, "big")) + attribute(3, target[1].to_bytes(2, "big"))
    return nested(kind, nested(1, addresses), nested(2, attribute(1, bytes((protocol,))), ports))


def _entry(sent: bytes, answer: bytes) -> bytes:
    return sent + answer + attribute(12, b"\0\0\0\7") + attribute(18, b"\0\1")


DIRECT = _entry(
    _tuple(1, ("192.0.2.1", 5555), ("192.0.2.2", 53)), _tuple(2, ("192.0.2.2", 53), ("192.0.2.1", 5555))
)
LED = _entry(
    _tuple(1, ("192.0.2.1", 5555), ("192.0.2.2", 53)), _tuple(2, ("10.1.0.5", 5353), ("192.0.2.1", 5555))
)
PASSING = _entry(
    _tuple(1, ("10.1.0.9", 7), ("198.51.100.1", 53)), _tuple(2, ("198.51.100.1", 53), ("192.0.2.2", 7))
)
PORT = UdpPort(None, 53, parse_ip("10.1.0.5"), 5353)


def test_a_flow_is_read_and_named() -> None:
    flow = conntrack.parse(LED)
    assert flow is not None
    assert (flow.sent.target_port, flow.answer.source_port) == (53, 5353)
    assert flow.name.endswith(attribute(12, b"\0\0\0\7") + attribute(18, b"\0\1"))
    six = _tuple(1, ("fd00::1", 1), ("fd00::2", 2))
    found = conntrack.parse(_entry(six, _tuple(2, ("fd00::2", 2), ("fd00::1", 1))))
    assert found is not None
    assert found.sent.source == parse_ip("fd00::1").packed


def test_what_is_no_udp_flow_is_none() -> None:
    tcp = _tuple(1, ("192.0.2.1", 1), ("192.0.2.2", 2), protocol=6)
    assert conntrack.parse(_entry(tcp, tcp)) is None
    assert conntrack.parse(b"") is None


def test_a_new_port_ends_flows_that_do_not_lead_to_its_container() -> None:
    direct, led, passing = (conntrack.parse(entry) for entry in (DIRECT, LED, PASSING))
    assert direct and led and passing
    assert conntrack.is_elsewhere(direct, PORT)
    assert not conntrack.is_elsewhere(led, PORT)
    assert conntrack.is_elsewhere(led, UdpPort(None, 53, parse_ip("10.1.0.6"), 5353))
    assert not conntrack.is_elsewhere(passing, PORT)


def test_a_port_that_goes_ends_the_flows_that_led_to_its_container() -> None:
    direct, led, passing = (conntrack.parse(entry) for entry in (DIRECT, LED, PASSING))
    assert direct and led and passing
    assert [conntrack.is_led_to(flow, PORT) for flow in (direct, led, passing)] == [False, True, False]
    elsewhere = UdpPort(parse_ip("192.0.2.3"), 53, parse_ip("10.1.0.5"), 5353)
    assert not conntrack.is_led_to(led, elsewhere)
    assert not conntrack.is_led_to(led, UdpPort(None, 54, parse_ip("10.1.0.5"), 5353))
    assert not conntrack.is_led_to(led, UdpPort(None, 53, parse_ip("fd00::5"), 5353))
