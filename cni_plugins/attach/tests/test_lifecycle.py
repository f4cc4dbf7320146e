"""Records around plugins: what a crash, a failure, a repetition and a stranger leave behind, with plugins
that only announce and count."""

import fcntl
import json
import os
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cni_plugins.attach import delegation
from cni_plugins.attach.lifecycle import handler
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.conftest import Answer, World
from cni_plugins.main import handle
from cni_plugins.spec import call as calls
from cni_plugins.spec import dispatch
from cni_plugins.spec.call import Call, Request
from cni_plugins.spec.config import BOOL, TEXT, option
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step


@dataclass(frozen=True, slots=True)
class Keys:
    fail: bool = option("fail", BOOL, False, "fail after the changes")
    word: str = option("word", TEXT, "a", "what to write down")


class Diary:
    """What plugins did and undid, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.broken: set[str] = set()

    def do(self, word: str) -> None:
        self.lines.append(f"do {word}")

    def undo(self, context: Context, word: str) -> None:
        if word in self.broken:
            raise CniError(5, f"cannot undo {word}")
        self.lines.append(f"undo {word}")


@dataclass(frozen=True, slots=True)
class Note(Step):
    """A step that writes into the diary of the test."""

    word: str

    def apply(self, context: Context) -> None:
        DIARIES[-1].do(self.word)

    def undo(self, context: Context) -> None:
        DIARIES[-1].undo(context, self.word)


DIARIES: list[Diary] = []


@pytest.fixture
def diary(monkeypatch: pytest.MonkeyPatch) -> Diary:
    made = Diary()
    monkeypatch.setattr(registry, "load", lambda kind: Note)
    # The other one remembers what it found, and tests that come later would find this.
    monkeypatch.setattr(registry, "_load", lambda name: registry.load(registry.Kind(name)))
    monkeypatch.setattr(registry, "kind_of", lambda step: registry.Kind.SYSCTL)
    DIARIES[:] = [made]
    return made


def plugins(diary: Diary) -> dict[str, Plugin[Any]]:
    def add(call: Call, config: Keys, tx: Transaction) -> Result:
        for number in (1, 2):
            tx.apply(Note(f"{config.word}{number}"))
        if config.fail:
            raise CniError(100, "as it was told")
        return Result(
            interfaces=(*(call.previous or Result()).interfaces, Interface(config.word, sandbox="x"))
        )

    def remove_legacy(call: Call, config: Keys, context: Context) -> None:
        diary.lines.append(f"remove_legacy {config.word}")

    main = Plugin("main", Kind.MAIN, "a test", Keys, add, remove_legacy=remove_legacy)
    meta = Plugin("meta", Kind.META, "a test", Keys, add, remove_legacy=remove_legacy)
    return {"main": main, "meta": meta}


def call(world: World, diary: Diary, verb: str, config: dict[str, Any], box: str = "c1") -> Answer:
    known = plugins(diary)
    config = {"cniVersion": "1.1.0", "name": "n"} | config
    env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": box, "CNI_IFNAME": "eth0", "MESOKIT_ROOT": str(world.root)}
    if box in world.boxes:
        env["CNI_NETNS"] = world.boxes[box].path
    request = Request(config["type"], env, json.dumps(config).encode(), host_netns=world.host.fd)
    reply = dispatch.handle(request, {name: handler(plugin, known) for name, plugin in known.items()})
    return Answer(reply.status, json.loads(reply.stdout) if reply.stdout else None)


def test_delete_is_the_reverse_of_add(world: World, diary: Diary) -> None:
    world.box("c1")
    assert call(world, diary, "ADD", {"type": "main"}).status == 0
    assert call(world, diary, "DEL", {"type": "main"}).status == 0
    assert diary.lines == ["do a1", "do a2", "undo a2", "undo a1"]
    assert not world.records()
    assert call(world, diary, "DEL", {"type": "main"}).status == 0
    assert diary.lines[-1] == "remove_legacy a"


def test_failing_add_is_undone_at_once(world: World, diary: Diary) -> None:
    world.box("c1")
    assert call(world, diary, "ADD", {"type": "main", "fail": True}).code == 100
    assert diary.lines == ["do a1", "do a2", "undo a2", "undo a1"]
    assert not world.records()


def test_what_cannot_be_undone_stays_recorded_and_is_tried_again(world: World, diary: Diary) -> None:
    world.box("c1")
    diary.broken = {"a2"}
    error = call(world, diary, "ADD", {"type": "main", "fail": True}).document
    assert (error["code"], error["msg"]) == (100, "as it was told")
    assert "cannot undo a2" in error["details"]
    assert "undo a1" in diary.lines
    assert call(world, diary, "DEL", {"type": "main"}).code == 5
    assert len(world.records()) == 1
    diary.broken = set()
    assert call(world, diary, "DEL", {"type": "main"}).status == 0
    assert not world.records()


def test_add_after_a_crash_takes_the_wreck_down_first(world: World, diary: Diary) -> None:
    world.box("c1")
    call(world, diary, "ADD", {"type": "main", "word": "old"})
    (path,) = world.records()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:10])
    diary.lines.clear()
    assert call(world, diary, "ADD", {"type": "main", "word": "new"}).status == 0
    assert diary.lines == ["undo old1", "do new1", "do new2"]
    call(world, diary, "DEL", {"type": "main"})
    assert diary.lines[3:] == ["undo new2", "undo new1"]


def test_a_record_of_another_namespace_gives_way(world: World, diary: Diary) -> None:
    world.box("c1")
    call(world, diary, "ADD", {"type": "main", "word": "old"})
    world.boxes["gone"] = world.boxes.pop("c1")
    world.box("c1")
    assert call(world, diary, "ADD", {"type": "main", "word": "new"}).status == 0
    assert diary.lines[2:] == ["undo old2", "undo old1", "do new1", "do new2"]


def test_a_meta_plugin_needs_something_to_change(world: World, diary: Diary) -> None:
    world.box("c1")
    error = call(world, diary, "ADD", {"type": "meta"}).document
    assert "delegate" in error["details"]
    assert not world.records()


def test_a_delegate_shares_the_transaction(world: World, diary: Diary) -> None:
    world.box("c1")
    conf = {"type": "meta", "word": "m", "delegate": {"type": "main", "word": "d"}}
    result = call(world, diary, "ADD", conf).document
    assert [item["name"] for item in result["interfaces"]] == ["d", "m"]
    assert len(world.records()) == 1
    call(world, diary, "DEL", {"type": "meta"})
    assert diary.lines == ["do d1", "do d2", "do m1", "do m2", "undo m2", "undo m1", "undo d2", "undo d1"]
    diary.lines.clear()
    assert call(world, diary, "ADD", conf | {"fail": True}).code == 100
    assert diary.lines[4:] == ["undo m2", "undo m1", "undo d2", "undo d1"]


def test_a_delegate_is_checked_before_anything_is_done(world: World, diary: Diary) -> None:
    world.box("c1")
    for delegate in ({"type": "main", "fail": 7}, {"type": "no-such"}, {}, 7, {"type": "../x"}):
        assert call(world, diary, "ADD", {"type": "meta", "delegate": delegate}).code == 7
    assert not diary.lines
    assert not world.records()


def test_a_meta_plugin_that_stands_twice_in_a_list(world: World, diary: Diary) -> None:
    world.box("c1")
    first = call(world, diary, "ADD", {"type": "main"}).document
    second = call(world, diary, "ADD", {"type": "meta", "word": "x", "prevResult": first}).document
    third = call(world, diary, "ADD", {"type": "meta", "word": "y", "prevResult": second})
    assert [item["name"] for item in third.document["interfaces"]] == ["a", "x", "y"]
    diary.lines.clear()
    call(world, diary, "DEL", {"type": "meta", "word": "y"})
    call(world, diary, "DEL", {"type": "meta", "word": "x"})
    call(world, diary, "DEL", {"type": "main"})
    assert diary.lines == [
        "undo y2",
        "undo y1",
        "undo x2",
        "undo x1",
        "remove_legacy x",
        "undo a2",
        "undo a1",
    ]


def test_failure_of_the_second_leaves_the_first_for_delete(world: World, diary: Diary) -> None:
    world.box("c1")
    first = call(world, diary, "ADD", {"type": "main"}).document
    second = call(world, diary, "ADD", {"type": "meta", "word": "x", "prevResult": first}).document
    assert (
        call(world, diary, "ADD", {"type": "meta", "word": "y", "fail": True, "prevResult": second}).code
        == 100
    )
    diary.lines.clear()
    call(world, diary, "DEL", {"type": "meta"})
    assert diary.lines[-2:] == ["undo x2", "undo x1"]


def test_gc_looks_at_its_own_network_and_plugin(world: World, diary: Diary) -> None:
    for box in ("c1", "c2"):
        world.box(box)
        call(world, diary, "ADD", {"type": "main", "word": box}, box)
        call(world, diary, "ADD", {"type": "main", "word": "other", "name": "m"}, box)
    diary.lines.clear()
    keep = {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]}
    assert call(world, diary, "GC", {"type": "main"} | keep).status == 0
    assert diary.lines == ["undo c12", "undo c11"]
    assert len(world.records()) == 3


def test_check_needs_the_result(world: World, diary: Diary) -> None:
    world.box("c1")
    assert call(world, diary, "CHECK", {"type": "main"}).code == 7
    assert call(world, diary, "CHECK", {"type": "main", "prevResult": {"cniVersion": "1.1.0"}}).status == 0


def test_several_deletes_at_once(world: World, diary: Diary) -> None:
    world.box("c1")
    call(world, diary, "ADD", {"type": "main"})
    answers: list[int] = []
    work = lambda: answers.append(call(world, diary, "DEL", {"type": "main"}).status)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * 8
    assert [line for line in diary.lines if line.startswith("undo")] == ["undo a2", "undo a1"]


def test_inherited_keys(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(call: Call, tx: Transaction, config: Any) -> Result:
        seen.append(config)
        return Result()

    monkeypatch.setattr(delegation, "add", record)
    diary = Diary()
    world.box("c1")
    conf: dict[str, Any] = {
        "type": "meta",
        "delegate": {"type": "main", "args": {"a": 1}},
        "args": {"b": 2},
        "runtimeConfig": {"mac": "x"},
    }
    call(world, diary, "ADD", conf)
    (config,) = seen
    assert config == {
        "name": "n",
        "cniVersion": "1.1.0",
        "runtimeConfig": {"mac": "x"},
        "type": "main",
        "args": {"a": 1},
    }


def test_gc_leaves_alone_what_a_call_is_working_on(world: World, diary: Diary) -> None:
    world.box("c1")
    call(world, diary, "ADD", {"type": "main"})
    (path,) = world.records()
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert call(world, diary, "GC", {"type": "main"} | nothing).status == 0
        assert world.records() == [path]
    assert call(world, diary, "GC", {"type": "main"} | nothing).status == 0
    assert not world.records()


def test_an_add_that_ran_out_of_time_is_still_taken_back(
    world: World, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Diary, "undo", lambda self, context, word: seen.append(context.deadline.remaining()))
    monkeypatch.setattr(calls, "_SECONDS", dict.fromkeys(calls._SECONDS, 0.0))
    world.box("c1")
    assert call(world, diary, "ADD", {"type": "main", "fail": True}).code in {11, 100}
    assert all(left > 1 for left in seen)


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_add_without_room_for_its_record_leaves_nothing(
    world: World, diary: Diary, mocker: MockerFixture, room: int
) -> None:
    """The head, two announcements and the result are written; the disk is full after `room` of them."""
    world.box("c1")
    writes = [mocker.DEFAULT] * room + [OSError(28, "no space")] * 9
    mocker.patch("cni_plugins.store.records.os.write", side_effect=writes, wraps=os.write)
    assert call(world, diary, "ADD", {"type": "main"}).code == 5
    assert diary.lines.count("do a1") == diary.lines.count("undo a1")
    assert diary.lines.count("do a2") == diary.lines.count("undo a2")
    assert not world.records()


def test_status_where_no_record_can_be_written(world: World, diary: Diary, mocker: MockerFixture) -> None:
    assert call(world, diary, "STATUS", {"type": "main"}).code == 0
    mocker.patch("cni_plugins.store.records.os.access", return_value=False)
    assert call(world, diary, "STATUS", {"type": "main"}).code == 50


@pytest.mark.parametrize("garbage", [b"\xff\xfe{\n{}\n", b"{}\n", None])
def test_an_unreadable_record_is_set_aside(
    world: World, capsys: pytest.CaptureFixture[str], garbage: bytes | None
) -> None:
    """DEL finds what it can without the record, as after a reference plugin, and says so."""
    conf: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "br0"}
    conf |= {"ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}
    world.add(conf)
    (record,) = world.records()
    if garbage is None:
        record.unlink()
        record.mkdir()
        (record / "x").touch()
    else:
        record.write_bytes(garbage)
    env = {
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "MESOKIT_ROOT": str(world.root),
    }
    env |= {"CNI_NETNS": world.boxes["c1"].path}
    reply = handle(Request("bridge", env, json.dumps(conf).encode(), host_netns=world.host.fd))
    assert reply.status == 0, reply.stdout
    (kept,) = (world.root / "run/mesokit/unreadable").iterdir()
    if garbage is not None:
        assert kept.read_bytes() == garbage
        assert str(record) in reply.stderr.decode()
        assert str(kept) in reply.stderr.decode()
    assert world.links("c1") == ["lo"]
    assert world.reserved("n") == []
    assert world.records() == []
    world.add(conf)


def test_an_unreadable_record_is_in_nobodys_way(world: World) -> None:
    """Neither of an ADD of the same name nor of a GC."""
    conf = {"cniVersion": "1.1.0", "name": "n", "type": "bridge", "bridge": "br0"}
    world.add(conf)
    (record,) = world.records()
    world.delete(conf)
    record.write_bytes(b"\0\n\n")
    world.add(conf)
    world.delete(conf)
    record.write_bytes(b"\0\n\n")
    assert world.call("GC", conf | {"cni.dev/valid-attachments": []}).status == 0
    assert world.records() == []
