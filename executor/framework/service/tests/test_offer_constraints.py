"""Offer constraints: what is told to the master is never more than apps refuse themselves."""

import asyncio
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master import subscription
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.offer_constraints import excluded, fault_of
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import Fault, serve
from executor.framework.service import view, wishes
from executor.framework.service.constraints import broken, parse_constraint, place_of
from executor.framework.service.offer_constraints import constraints_for, understood_by
from executor.framework.service.tests.setup import Bench, agent, app, bench, running, until

Call = scheduler_pb2.Call
ON_B = [{"field": "rack", "operator": "is", "value": "b"}]

CASES = [
    ("rack", "is", "b"),
    ("rack", "is", "1"),
    ("rack", "cluster", "b"),
    ("rack", "cluster", ""),
    ("rack", "unique", ""),
    ("rack", "group_by", "2"),
    ("rack", "max_per", "1"),
    ("rack", "like", "a|b"),
    ("rack", "like", r"r[0-9]+\.x"),
    ("rack", "like", "(?i)B"),
    ("rack", "like", r"\d"),
    ("rack", "like", "b{1}"),
    ("rack", "like", ".".join("abcdefghijklmnopqrstuvwxyz")),
    ("rack", "unlike", "a.*"),
    ("rack", "unlike", r"\w"),
    ("@hostname", "like", "host1|host2"),
    ("@hostname", "unique", ""),
    ("@hostname", "is", "host1"),
    ("@zone", "is", "z"),
    ("@region", "unlike", "east"),
    ("*", "any", "b"),
]
AGENTS: list[dict[str, str]] = [
    {},
    {"rack": "a"},
    {"rack": "b"},
    {"rack": "B"},
    {"rack": "1"},
    {"rack": "1.0"},
    {"rack": "r7.x"},
]


def _offer(info: mesos_pb2.AgentInfo) -> offers_pb2.Offer:
    offer = offers_pb2.Offer(hostname=info.hostname)
    offer.agent_id.CopyFrom(info.id)
    offer.attributes.extend(info.attributes)
    offer.domain.CopyFrom(info.domain)
    return offer


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case)[:30])
def test_no_agent_is_kept_back_that_an_app_would_take(case: tuple[str, str, str]) -> None:
    field, operator, value = case
    one = app(constraints=[{"field": field, "operator": operator, "value": value}])
    told = constraints_for([one], ["web"])
    assert fault_of(told) == ""
    constraint = parse_constraint(field, operator, value)
    for number, attributes in enumerate(AGENTS):
        for zone in ("", "z"):
            info = agent(number).info
            for name, text in attributes.items():
                info.attributes.add(name=name, type=mesos_pb2.Value.TEXT).text.value = text
            if zone:
                info.domain.fault_domain.zone.name = zone
                info.domain.fault_domain.region.name = "east"
            taken = broken([constraint], place_of(_offer(info)), []) is None
            assert not (taken and excluded(told, "web", info)), (case, attributes, zone)


def test_what_is_told_is_by_role_and_nothing_where_one_app_takes_any_agent() -> None:
    bound, free = app("bound", constraints=ON_B), app("free")
    other = app("other", role="db", constraints=ON_B)
    assert not constraints_for([bound, free], ["web"]).role_constraints
    assert not constraints_for([], ["web"]).role_constraints
    assert list(constraints_for([bound, other], ["web", "db"]).role_constraints) != []
    both = constraints_for([bound, other], ["web", "db"]).role_constraints
    assert {role: len(both[role].groups) for role in both} == {"web": 1, "db": 1}
    only = constraints_for([other, free], ["web", "db"]).role_constraints
    assert list(only) == []
    volume = app("v", volumes=[{"name": "d", "size": 1, "path": "d"}], constraints=ON_B)
    assert not constraints_for([volume], ["web"]).role_constraints


def test_versions_of_masters() -> None:
    known = ("1.11.0", "1.12.0-rc1", "2.0.0", "1.11")
    assert all(understood_by(version) for version in known)
    assert not any(understood_by(version) for version in ("", "1.10.1", "1.8.0", "x"))


def _said(here: Bench) -> bool:
    """Whether the master has taken constraints, and the framework has heard it."""
    client = here.framework._client
    return client is not None and client.session.constraints is not None


def kept(here: Bench) -> list[str]:
    """The roles that the master keeps agents back from."""
    found = here.master.books.frameworks[here.framework.books.framework_id].constraints
    return sorted(found.role_constraints) if found is not None else []


def test_a_master_is_told_whom_nobody_takes_and_told_otherwise_when_somebody_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), agent(2, rack="b"), constrain_every=0.05) as here:
            await until(lambda: here.framework.books.suppressed)
            await here.framework.wish(wishes.deploy(app("bound", 20, constraints=ON_B)))
            await until(lambda: len(here.running("bound")) == 20)
            log = [item.call.type for item in here.server.log]
            assert log.index(Call.UPDATE_FRAMEWORK) < log.index(Call.REVIVE)
            # Nothing fits there any more, and what would take the other one says so.
            await here.framework.wish(wishes.scale("bound", 200))
            await until(lambda: kept(here) == ["web"])
            await until(lambda: len(here.living("bound")) > 30)
            assert {item.hostname for item in here.living("bound")} == {"host2"}
            await here.framework.wish(wishes.deploy(app("free", 2)))
            await until(lambda: len(here.running("free")) == 2)
            assert {item.hostname for item in here.running("free")} <= {"host1", "host2"}

    asyncio.run(scenario())


def test_a_new_subscription_says_them_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), constrain_every=0.05) as here:
            await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
            await until(lambda: kept(here) == ["web"])
            await until(lambda: _said(here))
            here.server.break_streams()
            await until(lambda: len(here.server.calls(Call.SUBSCRIBE)) == 2)
            again = here.server.calls(Call.SUBSCRIBE)[1].subscribe
            assert list(again.offer_constraints.role_constraints) == ["web"]
            here.add(agent(2, rack="b"))
            await until(lambda: here.running("bound"))

    asyncio.run(scenario())


def test_a_master_that_knows_nothing_of_them_is_not_disturbed(tmp_path: Path) -> None:
    async def scenario() -> None:
        old = Options(heartbeat=0.5, allocation=0.05, version="1.8.1")
        async with serve(Master(old)) as server:
            for item in (agent(1, rack="a"), agent(2, rack="b")):
                server.master.register(item, server.now())
            async with running(tmp_path, server) as here:
                await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
                await until(lambda: here.running("bound"))
                assert not server.calls(Call.UPDATE_FRAMEWORK)
                assert not server.calls(Call.SUBSCRIBE)[0].subscribe.HasField("offer_constraints")

    asyncio.run(scenario())


def test_a_master_that_refuses_them_offers_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), agent(2, rack="b"), constrain_every=0.05) as here:
            here.server.faults.append(Fault(Call.UPDATE_FRAMEWORK, status=400, text="too complex"))
            await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
            await until(lambda: here.running("bound"))
            assert here.framework.books.counters["constraints_refused"] == 1
            assert kept(here) == []
            await here.framework.wish(wishes.deploy(app("free", 2)))
            await until(lambda: len(here.running("free")) == 2)
            assert len(here.server.calls(Call.UPDATE_FRAMEWORK)) == 1

    asyncio.run(scenario())


def test_a_subscription_that_is_refused_for_them_is_made_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), constrain_every=0.05) as here:
            await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
            await until(lambda: _said(here))
            monkeypatch.setattr(
                subscription, "fault_of", lambda given: "no" if given.role_constraints else ""
            )
            here.server.break_streams()
            await until(lambda: len(here.server.calls(Call.SUBSCRIBE)) == 3)
            await until(lambda: here.framework.books.connected)
            assert not here.server.calls(Call.SUBSCRIBE)[2].subscribe.HasField("offer_constraints")
            here.add(agent(2, rack="b"))
            await until(lambda: here.running("bound"))

    asyncio.run(scenario())


def test_constraints_lose_to_those_the_master_kept_before(tmp_path: Path) -> None:
    """The second is refused: what the first kept back comes again too."""

    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), constrain_every=0.05) as here:
            await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
            await until(lambda: _said(here))
            here.server.faults.append(Fault(Call.UPDATE_FRAMEWORK, status=400, text="too complex"))
            await here.framework.wish(wishes.deploy(app("free", 1)))
            await until(lambda: here.running("free"))
            assert kept(here) == []

    asyncio.run(scenario())


def test_why_an_app_whose_agents_are_kept_back_waits_is_said(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent(1, rack="a"), constrain_every=0.05) as here:
            await until(lambda: here.framework.books.suppressed)
            await here.framework.wish(wishes.deploy(app("bound", constraints=ON_B)))
            await until(lambda: kept(here) == ["web"])
            books = here.framework.books
            said = view.why(books, books.apps["bound"])["why"]
            assert said == (
                "no agent has been offered that it may run on (rack is b): the master keeps back others"
            )
            assert view.status(books, "subscribed")["constrained_roles"] == ["web"]

    asyncio.run(scenario())
