"""A first task that nobody sent."""

import os
from pathlib import Path

import pytest

from executor.app import rehearsal
from executor.app.launch_spec import Surroundings
from executor.app.tests.by_hand import settings
from executor.protocol import Encoding, decode_call, encode_call


@pytest.mark.parametrize("encoding", Encoding)
def test_it_comes_to_its_end_and_leaves_nothing(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(rehearsal, "encode_call", lambda *given: written.append(encode_call(*given)))
    around = Surroundings.of(settings(MESOS_SANDBOX=str(tmp_path)), os.environ)
    rehearsal.rehearse(encoding, around)
    (body,) = written
    assert decode_call(body, encoding).update.status.task_id.value == "rehearsal"
    assert not list(tmp_path.iterdir())
