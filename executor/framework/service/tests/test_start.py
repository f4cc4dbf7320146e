"""A framework that cannot start says in a sentence which option is wrong, and leaves nothing behind."""

import asyncio
import selectors
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins.cli.framework import command
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.service.serve import Instance, Place, Stored, run
from executor.framework.service.tests.setup import settings_for


def refusal(folder: Path, place: Place) -> str:
    """Why it does not start."""
    with pytest.raises((OSError, ValueError)) as caught:
        asyncio.run(run(settings_for("127.0.0.1:1"), place, Stored(sqlite=folder / "state.db")))
    assert not (folder / "state.db").exists()
    return str(caught.value)


def test_a_port_that_somebody_has_and_an_address_that_is_no_ones_are_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refusal(tmp_path, Place(port=port))
        assert told == f"cannot listen on 127.0.0.1, port {port} (--listen): Address already in use"
    told = refusal(tmp_path, Place(host="192.0.2.1", port=port))
    assert told == f"cannot listen on 192.0.2.1, port {port} (--listen): Cannot assign requested address"


def test_an_empty_token_file_is_no_leave_to_ask_for_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert refusal(tmp_path, Place(port=0, token_file=empty)).startswith(f"--token-file {empty}: it is empty")


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("none")
    told = refusal(tmp_path, Place(port=0, certificate=text, key=text))
    assert told.startswith(f"--certificate {text}, --key {text}: expected a chain of certificates")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--master", "m1"], "'m1' is not HOST:PORT"),
        (["--master", "m1:"], "'m1:' is not HOST:PORT"),
        (["--master", "http://m1:5050"], "'http://m1:5050' is not HOST:PORT"),
        (["--master", "fd00::5"], "'fd00::5' is not HOST:PORT, such as 10.0.0.5:5050 or [fd00::5]:5050"),
        (["--listen", ":8080"], "':8080' is not HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "'127.0.0.1:99999' is not HOST:PORT"),
        (["--advertise", "me"], "'me' is not HOST:PORT"),
        (["--lease", "0"], "0.0 is not in the range"),
        (["--failover-timeout", "nan"], "nan is no number of seconds"),
        (["--failover-timeout", "-1"], "-1.0 is not in the range"),
        ([], "no master: give --master"),
    ],
)
def test_options_that_cannot_be_meant(options: list[str], told: str) -> None:
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 2 and told in result.output, result.output


class CountingSelector(selectors.EpollSelector):
    """Counts the times that it waits."""

    waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits += timeout is None or timeout > 0
        return super().select(timeout)


def test_a_framework_with_nothing_to_do_is_hardly_woken(tmp_path: Path) -> None:
    """Its web server alone looked ten times a second whether it was to end."""

    async def scenario() -> int:
        made = Instance()
        settings = settings_for("", client=ClientSettings(()), tick=1.0)
        task = asyncio.create_task(run(settings, Place(port=0), Stored(sqlite=tmp_path / "s.db"), made=made))
        await made.leading.wait()
        selector.waits = 0
        await asyncio.sleep(2)
        waits = selector.waits
        made.stop.set()
        await task
        return waits

    selector = CountingSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(scenario()) <= 12
