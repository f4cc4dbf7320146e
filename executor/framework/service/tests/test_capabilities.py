"""What the framework tells the master of itself, and what it cannot be asked for without."""

import asyncio
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2

from executor.framework.service import wishes
from executor.framework.service.tests.setup import agent, app, bench
from executor.framework.service.wishes import WishError

KINDS = mesos_pb2.FrameworkInfo.Capability
ALWAYS = {KINDS.PARTITION_AWARE, KINDS.TASK_KILLING_STATE, KINDS.MULTI_ROLE, KINDS.RESERVATION_REFINEMENT}


@pytest.mark.parametrize("asked", [False, True])
def test_gpus_and_regions_are_announced_where_the_operator_asks(tmp_path: Path, asked: bool) -> None:
    wanted = app("ai", resources={"gpu": 1})

    async def scenario() -> None:
        async with bench(tmp_path, agent(1), gpus=asked, regions=asked) as here:
            (known,) = here.master.books.frameworks.values()
            announced = {item.type for item in known.info.capabilities}
            assert announced == ALWAYS | ({KINDS.GPU_RESOURCES, KINDS.REGION_AWARE} if asked else set())
            if asked:
                await here.framework.wish(wishes.deploy(wanted))
                return
            with pytest.raises(WishError, match=r"resources\.gpu: .* start it with --gpus"):
                await here.framework.wish(wishes.deploy(wanted))

    asyncio.run(scenario())
