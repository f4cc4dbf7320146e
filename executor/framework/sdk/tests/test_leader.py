"""Who leads, as masters write it into ZooKeeper."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from executor.framework.sdk.leader import Detector, LeaderUrlError, address_of, lowest
from executor.framework.store.tests import servers


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[str]:
    with servers.zookeeper(tmp_path / "zookeeper") as server:
        yield server.address


def info(ip: str) -> bytes:
    return f'{{"address":{{"hostname":"h","ip":"{ip}","port":5050}},"port":5050}}'.encode()


def test_the_lowest_number_leads(ensemble: str) -> None:
    masters = KazooClient(hosts=ensemble)
    masters.start()
    told: list[str] = []
    detector = Detector(f"zk://{ensemble}/mesos", told.append)
    try:
        masters.ensure_path("/mesos/log_replicas")
        masters.create("/mesos/json.info_0000000007", info("10.0.0.7"), ephemeral=True)
        masters.create("/mesos/json.info_0000000003", info("10.0.0.3"), ephemeral=True)
        detector.start()
        _until(told, "10.0.0.3:5050")
        masters.delete("/mesos/json.info_0000000003")
        _until(told, "10.0.0.7:5050")
        masters.delete("/mesos/json.info_0000000007")
        _until(told, "")
    finally:
        detector.stop()
        masters.stop()


def test_a_session_that_expires_says_nothing_and_the_next_leader_is_heard_of(ensemble: str) -> None:
    masters = KazooClient(hosts=ensemble)
    masters.start()
    told: list[str] = []
    detector = Detector(f"zk://{ensemble}/again", told.append)
    try:
        masters.ensure_path("/again")
        masters.create("/again/json.info_0000000001", info("10.0.0.1"), ephemeral=True)
        masters.create("/again/json.info_0000000002", info("10.0.0.2"), ephemeral=True)
        detector.start()
        _until(told, "10.0.0.1:5050")
        # Whoever closes a session of the same id and password ends the detector's.
        other = KazooClient(hosts=ensemble, client_id=detector._client.client_id)
        other.start()
        other.stop()
        masters.delete("/again/json.info_0000000001")
        _until(told, "10.0.0.2:5050")
        assert told == ["10.0.0.1:5050", "10.0.0.2:5050"]
    finally:
        detector.stop()
        masters.stop()


def test_masters_that_come_later_and_begin_anew_are_heard_of(ensemble: str) -> None:
    """The masters make the path, when they start."""
    masters = KazooClient(hosts=ensemble)
    masters.start()
    told: list[str] = []
    detector = Detector(f"zk://{ensemble}/late/mesos", told.append)
    try:
        detector.start()
        _until(told, "")
        masters.ensure_path("/late/mesos")
        masters.create("/late/mesos/json.info_0000000001", info("10.0.0.1"))
        _until(told, "10.0.0.1:5050")
        masters.delete("/late", recursive=True)
        _until(told, "")
        masters.ensure_path("/late/mesos")
        masters.create("/late/mesos/json.info_0000000009", info("10.0.0.9"), ephemeral=True)
        _until(told, "10.0.0.9:5050")
    finally:
        detector.stop()
        masters.stop()


def test_a_zookeeper_that_does_not_answer_is_waited_for_without_holding_up_anything(tmp_path: Path) -> None:
    with servers.zookeeper(tmp_path / "zookeeper") as server:
        masters = KazooClient(hosts=server.address)
        masters.start()
        masters.create("/json.info_0000000001", info("10.0.0.1"))
        masters.stop()
        server.pause()
        told: list[str] = []
        detector = Detector(f"zk://{server.address}/", told.append)
        try:
            detector.start()
            assert told == []
            server.resume()
            _until(told, "10.0.0.1:5050")
        finally:
            detector.stop()


def _until(told: list[str], wanted: str) -> None:
    end = time.monotonic() + 20
    while not told or told[-1] != wanted:
        assert time.monotonic() < end, told
        time.sleep(0.02)


def test_what_is_no_master_is_passed_over() -> None:
    assert (
        lowest(["log_replicas", "info_0000000001", "json.info_12", "json.info_0000000009"])
        == "json.info_0000000009"
    )
    assert lowest([]) == ""
    deep, huge = b"[" * 100_000, b'{"address":{"ip":"10.0.0.1","port":1e999}}'
    for data in (
        deep,
        huge,
        b"",
        b"{}",
        b"[]",
        b'{"address":{"ip":"x","port":99999}}',
        b"\xff",
        b'{"address":7}',
    ):
        assert address_of(data, by_name=False) == ""
    assert address_of(info("fd00::1"), by_name=False) == "[fd00::1]:5050"
    assert address_of(info("10.0.0.1"), by_name=True) == "h:5050"


@pytest.mark.parametrize("url", ["zk://", "http://z/mesos", "zk://z1:2181", "zk://me:secret@/mesos"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(LeaderUrlError) as caught:
        Detector(url, lambda _address: None)
    assert "secret" not in str(caught.value)
