"""Who the framework is for a master that asks."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import serve
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.credentials import bearer
from executor.framework.service import wishes
from executor.framework.service.serve import Place, Stored, run
from executor.framework.service.tests.setup import QUICK, agent, app, running, settings_for, until

Call = scheduler_pb2.Call


JWT = ".".join(("abc", "def", "ghi"))


def token(folder: Path) -> Path:
    path = folder / "token"
    path.write_text(f"{JWT}\n")
    return path


def test_a_token_without_a_principal_is_refused_at_the_start(tmp_path: Path) -> None:
    client = ClientSettings(("127.0.0.1:1",), credentials=bearer(token(tmp_path)))
    settings = settings_for("", client=client)
    with pytest.raises(ValueError, match=r"a credential without a principal: say with --principal whom it"):
        asyncio.run(run(settings, Place(port=0), Stored(sqlite=tmp_path / "state.db")))
    assert not (tmp_path / "state.db").exists()


def test_a_token_and_its_principal_reserve_and_change_the_framework(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = replace(QUICK, principal="us", secret=JWT)
        async with serve(Master(options)) as server:
            server.master.register(agent(1, rack="r1"), server.now())
            client = ClientSettings((server.address,), credentials=bearer(token(tmp_path)), longest_delay=0.3)
            async with running(tmp_path, server, client=client, principal="us") as here:
                volumes = [{"name": "data", "size": 100, "path": "data"}]
                only = [{"field": "rack", "operator": "is", "value": "r1"}]
                await here.framework.wish(wishes.deploy(app("db", volumes=volumes)))
                await until(lambda: len(here.running("db")) == 1)
                await here.framework.wish(
                    wishes.deploy(app("far", constraints=[{**only[0], "value": "elsewhere"}]))
                )
                await until(lambda: server.calls(Call.UPDATE_FRAMEWORK))
                said = server.calls(Call.UPDATE_FRAMEWORK)[0].update_framework.framework_info
                assert said.principal == "us" and not here.framework.books.counters["constraints_refused"]

    asyncio.run(scenario())
