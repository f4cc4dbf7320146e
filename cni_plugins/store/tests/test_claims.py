"""Claims: who has what, who counts, and what a crash leaves."""

from pathlib import Path

import pytest

from cni_plugins.spec.deadline import after
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.store import claims, records

FIRST, SECOND = Identity("net", "c1", "eth0"), Identity("net", "c2", "eth0")


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return roots_from({"MESOKIT_ROOT": str(tmp_path)})


def attach(roots: Roots, identity: Identity) -> None:
    with records.create(roots, identity, "portmap", after(5)) as record:
        record.append(claims.owner(identity, plugin="portmap"))


def everything(member: str) -> bool:
    return True


def test_a_living_owner_is_found_and_one_without_a_record_is_not(roots: Roots) -> None:
    attach(roots, FIRST)
    with claims.guarded(roots, after(5)):
        claims.claim(roots, "port-80", "any", claims.owner(FIRST))
        claims.claim(roots, "port-80", "10.0.0.1", claims.owner(SECOND))
        assert claims.living(roots, "port-80", SECOND, everything) == [("any", FIRST)]
        assert claims.living(roots, "port-80", FIRST, everything) == []
        assert set(claims.members(roots, "port-80")) == {"any"}
        assert claims.living(roots, "port-80", SECOND, "other".__eq__) == []


def test_only_the_owner_releases(roots: Roots) -> None:
    for identity, member in ((FIRST, "a"), (SECOND, "b")):
        claims.claim(roots, "s", member, claims.owner(identity))
    claims.release(roots, "s", "b", FIRST)
    assert set(claims.members(roots, "s")) == {"a", "b"}
    for _ in range(2):
        claims.release(roots, "s", "a", FIRST)
        assert set(claims.members(roots, "s")) == {"b"}
    claims.release(roots, "s", "b", SECOND)
    claims.release(roots, "s", "b", SECOND)
    assert not (roots.run / "claims" / "s").exists()


def test_a_file_whose_writer_died_is_no_claim(roots: Roots) -> None:
    claims.claim(roots, "s", "a", claims.owner(FIRST))
    for text in ("", '{"network":', "[]"):
        (roots.run / "claims" / "s" / "torn").write_text(text)
        assert set(claims.members(roots, "s")) == {"a"}


def test_gc_drops_what_nobody_keeps_and_no_record_covers(roots: Roots) -> None:
    third, elsewhere = Identity("net", "c3", "eth0"), Identity("other", "c1", "eth0")
    attach(roots, SECOND)
    for number, identity in enumerate((FIRST, SECOND, third, elsewhere)):
        claims.claim(roots, f"s{number}", "any", claims.owner(identity))
    claims.sweep(roots, "net", {third})
    assert [bool(claims.members(roots, f"s{number}")) for number in range(4)] == [False, True, True, True]
    claims.sweep(roots, "net", set())
    assert not claims.members(roots, "s2")
