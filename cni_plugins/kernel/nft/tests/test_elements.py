"""Elements as bytes, comments, and sections as text."""

from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.kernel.netlink.codec import attribute, attributes, every_attribute, nested
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
from cni_plugins.kernel.nft import elements, nat, owner, sections, spoof
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import parse_cidr, parse_ip


def test_a_key_is_its_fields_each_padded_to_a_register() -> None:
    key = elements.key(bytes((6,)), elements.port(8080))
    assert key == bytes.fromhex("06000000 1f900000")
    assert elements.key(elements.address(parse_ip("10.0.0.5"))) == bytes((10, 0, 0, 5))
    assert len(elements.key(elements.interface("veth0"), bytes(6))) == 24


def test_an_element_is_read_as_it_is_written() -> None:
    made = Element(NFPROTO_INET, "s", elements.key(elements.port(1)), elements.jump("leave_x"), "who it is")
    message = elements._message(12, 0, made)
    assert elements._entries(message.body) == [(made.key, made.comment)]
    assert attributes(message.body)[1] == b"mesokit\0"


def test_a_comment_is_cut_to_what_nf_tables_keeps() -> None:
    made = Element(NFPROTO_INET, "s", b"\0\0\0\1", comment="x" * 300)
    assert elements._entries(elements._message(12, 0, made).body) == [(made.key, "x" * 128)]


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40), st.binary(min_size=4, max_size=4))
def test_who_owns_an_element_stands_in_its_bytes(network: str, container: str, key: bytes) -> None:
    """Found without taking the element apart: as a whole, and nothing besides."""
    comment = owner.comment(Identity(network, container, "eth0"))
    made = Element(NFPROTO_INET, "s", key, elements.jump("leave_x"), comment)
    body = elements._message(12, 0, made).body
    assert [each.decode() for each in elements._OWNED.findall(body)] == [comment]
    foreign = Element(NFPROTO_INET, "s", key, comment="somebody's, net: n, if: eth0, id: c")
    assert elements._OWNED.findall(elements._message(12, 0, foreign).body) == []


def test_user_data_of_another_kind_is_passed_over() -> None:
    assert elements._comment(bytes((3, 2, 9, 9, 0, 3)) + b"hi\0") == "hi"
    assert elements._comment(b"") == ""


@given(st.binary(max_size=64))
def test_attributes_of_anything(data: bytes) -> None:
    for kind, payload in every_attribute(data):
        assert 0 <= kind <= 0x3FFF
        assert len(payload) <= len(data)
    assert every_attribute(attribute(7, data) + nested(9, attribute(1, b"x")))[0] == (7, data)


def test_a_comment_names_its_attachment_by_hash_and_in_words() -> None:
    identity = Identity("net", "cid", "eth0")
    text = owner.comment(identity)
    assert text.startswith(owner.network_tag("net"))
    assert text.startswith(owner.tag(identity) + ", net: net, if: eth0, id: cid")
    assert owner.holder(text) == "container cid (network net, interface eth0)"
    assert owner.tag(Identity("net", "cid", "eth1")) != owner.tag(identity)
    assert owner.tag(Identity("net2", "cid", "eth0")) != owner.tag(identity)


def test_a_comment_is_short_and_harmless_whatever_the_names() -> None:
    text = owner.comment(Identity("n" * 200, "c" * 300, "a\";\\{}'\n"))
    assert len(text.encode()) <= 128
    assert not set(text) & set('"\\{};\n')
    assert owner.holder("written by hand") == "written by hand"
    assert owner.holder("") == "somebody else"


def test_a_section_can_be_written_any_number_of_times() -> None:
    section = Section(
        NFPROTO_INET,
        "mine_1",
        (Chain("base", ("accept",), "type filter hook input priority 0"), Chain("plain", ())),
        ("set s { type ipv4_addr ; }",),
    )
    assert sections.script(section).splitlines() == [
        "add table inet mesokit",
        "add set inet mesokit s { type ipv4_addr ; }",
        "add chain inet mesokit base { type filter hook input priority 0 ; policy accept ; }",
        "flush chain inet mesokit base",
        "add chain inet mesokit plain",
        "flush chain inet mesokit plain",
        "add rule inet mesokit base accept",
        "add chain inet mesokit mine_1",
    ]


def test_the_sections_share_their_table_without_sharing_names() -> None:
    names = [chain.name for chain in nat.SECTION.chains]
    assert len(set(names)) == len(names)
    assert nat.SECTION.table != spoof.SECTION.table
    assert nat.leave(parse_cidr("10.1.2.3/16")).name == "leave_10.1.0.0/16"
    assert nat.leave(parse_cidr("fd00::5/64")).name == "leave_fd00--/64"
    assert nat.answer(parse_cidr("fd00::5/64")).rules == ("ip6 saddr fd00::/64 masquerade",)
