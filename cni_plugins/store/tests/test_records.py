"""Attachment records: whole, torn, locked."""

import os
import threading
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.store import records

HEAD: dict[str, object] = {"network": "n", "containerID": "c1", "ifname": "eth0", "plugin": "bridge"}
IDENTITY = Identity("n", "c1", "eth0")


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return roots_from({"MESOKIT_ROOT": str(tmp_path)})


def read(roots: Roots) -> records.Contents:
    record = records.find(roots, IDENTITY, "bridge", after(30))
    assert record is not None
    with record:
        assert record.contents is not None
        return record.contents


def write(roots: Roots, *lines: dict[str, object]) -> Path:
    with records.create(roots, IDENTITY, "bridge", after(30)) as record:
        for line in lines:
            record.append(line)
        return record.path


def test_what_is_written_is_read(roots: Roots) -> None:
    one, two = records.step_line("a", 1, {"x": 1}), records.step_line("b", 2, {})
    write(roots, HEAD, one, two, records.undone_line(2), records.result_line({"cniVersion": "1.1.0"}, 1))
    contents = read(roots)
    assert contents.identity == IDENTITY
    assert contents.steps == (one,)
    assert contents.result == {"cniVersion": "1.1.0"}


def test_a_torn_line_at_any_byte_is_ignored(roots: Roots) -> None:
    path = write(roots, HEAD, records.step_line("a", 1, {}), records.step_line("b", 2, {"text": "é"}))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert (
            len(read(roots).steps) == whole[:length].count(b"\n") - 1 or whole[length : length + 1] == b"\n"
        )
        write(roots, records.step_line("c", 3, {}))
        assert read(roots).steps[-1] == records.step_line("c", 3, {})


def test_a_record_is_found_by_network_and_path(roots: Roots) -> None:
    path = write(roots, HEAD)
    ((found, contents),) = records.every(roots)
    assert (found, contents.identity) == (path, IDENTITY)
    assert not list(records.every(roots, "other"))
    assert records.find(roots, IDENTITY, "ptp", after(30)) is None
    foreign = (b"\xff{", b"", b"[]", b"7\n", b'{"network": 5}', b'{"network": "n"}', b'{"undo": {}}\n')
    for number, rubbish in enumerate(foreign):
        (path.parent / f"rubbish{number}").write_bytes(rubbish)
    assert len(list(records.every(roots, "n"))) == 1


def test_names_too_long_for_a_directory(roots: Roots) -> None:
    identity = Identity("n" * 400, "c" * 400, "eth0")
    with records.create(roots, identity, "bridge", after(30)) as record:
        assert len(record.path.name) < 100
        assert len(record.path.parent.name) < 100


def test_one_holder_at_a_time_and_none_of_a_removed_record(roots: Roots) -> None:
    first = records.create(roots, IDENTITY, "bridge", after(30))
    with pytest.raises(CniError) as caught:
        records.create(roots, IDENTITY, "bridge", after(0.05))
    assert caught.value.code == 11
    got: list[records.Record] = []
    thread = threading.Thread(target=lambda: got.append(records.create(roots, IDENTITY, "bridge", after(30))))
    thread.start()
    with first:
        first.append(HEAD)
        first.remove()
    thread.join()
    with got[0] as second:
        assert second.contents is None
        assert second.path.exists()


def test_a_full_disk_is_said(roots: Roots) -> None:
    record = records.create(roots, IDENTITY, "bridge", after(30))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, record._fd)
    os.close(full)
    with record, pytest.raises(CniError) as caught:
        record.append(HEAD)
    assert caught.value.code == 5


def test_a_torn_record_is_read_and_removed_without_writing(roots: Roots, mocker: MockerFixture) -> None:
    path = write(roots, HEAD, records.step_line("a", 1, {}))
    path.write_bytes(path.read_bytes() + b'{"step"')
    full = mocker.patch("cni_plugins.store.records.os.write", side_effect=OSError(28, "no space"))
    record = records.find(roots, IDENTITY, "bridge", after(30))
    assert record is not None and record.contents is not None
    with record:
        record.remove()
    assert not full.called and not path.exists()
