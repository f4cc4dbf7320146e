"""All that the framework knows, in memory: core.py owns it, everything else reads and changes it in a turn.

Tables of instances by id: `ready_since`, `silent_since` (launched, not heard of), `away_since` (unreachable),
`kill_at` (when the next KILL is due), `ask_away_at` (when an unreachable one is asked for again); their times
are the event loop's seconds. `missing_of`: how many instances, of which version, an app waits for offers for.
`killed`: instances that are to end. `unplanned`: apps that something happened to since their last plan;
`plan_at`: when a large one may be planned next.
`constraints`: what the master keeps to of agents not to be offered, `constraining`: whether it can;
`undoing`: claims that were asked to be undone; `no_feedback`: agents that cannot tell what becomes of an
operation; `inverse`: agents by inverse offer.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.credentials import Credentials
from executor.framework.sdk.reconcile import Pace, Reconciler
from executor.framework.service.apps import AppState, deletes_of, writes_of
from executor.framework.service.claim import Claim
from executor.framework.service.instance import Instance
from executor.framework.service.journal import Journal
from executor.framework.service.matching import OfferPool
from executor.framework.service.offer_constraints import OfferConstraints
from executor.framework.service.rollout import Seen
from executor.framework.service.taskinfo import Delivery
from executor.framework.service.turn import Turn


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds. `name`, `user`, `roles`, `principal` go into FrameworkInfo, `gpus` and `regions` as the
    capabilities GPU_RESOURCES and REGION_AWARE; `agent_credentials`: who reads a task's output, for agents
    that ask; `avoid_before_maintenance`: how
    long before a machine's maintenance nothing is placed there; `give_up_store`: how long the store may be
    out of reach before this instance leads no more; `resume_after`: how long one waits that another took the
    subscription from.
    """

    client: ClientSettings
    name: str = "mesokit"
    user: str = "root"
    roles: tuple[str, ...] = ("*",)
    principal: str = ""
    agent_credentials: Credentials = field(default_factory=Credentials)
    webui_url: str = ""
    failover_timeout: float = 7 * 86400.0
    delivery: Delivery = field(default_factory=Delivery)
    secrets: Path | None = None
    gpus: bool = False
    regions: bool = False
    reconcile: Pace = field(default_factory=Pace)
    resume_after: float = 30.0
    kill_again: float = 10.0
    revive_every: float = 5.0
    constrain_every: float = 1.0
    refuse_idle: float = 3600.0
    refuse_busy: float = 5.0
    avoid_before_maintenance: float = 3600.0
    give_up_store: float = 60.0
    tick: float = 1.0


@dataclass(slots=True)
class Books:
    """See the module."""

    settings: Settings
    reconciler: Reconciler
    apps: dict[str, AppState] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    undoing: set[str] = field(default_factory=set)
    no_feedback: set[str] = field(default_factory=set)
    by_app: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    journal: Journal = field(default_factory=Journal)
    pool: OfferPool = field(default_factory=OfferPool)
    framework_id: str = ""
    connected: bool = False
    problem: str = ""
    counters: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    ready_since: dict[str, float] = field(default_factory=dict)
    silent_since: dict[str, float] = field(default_factory=dict)
    kill_at: dict[str, float] = field(default_factory=dict)
    away_since: dict[str, float] = field(default_factory=dict)
    ask_away_at: dict[str, float] = field(default_factory=dict)
    leaving_agents: set[str] = field(default_factory=set)
    inverse: dict[str, str] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    unplanned: set[str] = field(default_factory=set)
    plan_at: dict[str, float] = field(default_factory=dict)
    missing_of: dict[str, tuple[int, str]] = field(default_factory=dict)
    suppressed: bool = False
    revive_at: float = 0.0
    constraints: OfferConstraints = field(default_factory=OfferConstraints)
    constraining: bool = False
    constrain_at: float = 0.0
    ask_operations_at: float = 0.0

    def now(self) -> float:
        """The clock that everything here goes by, in seconds; it never jumps."""
        return asyncio.get_running_loop().time()

    def wanted(self, state: AppState) -> int:
        if state.app.kind == "service":
            return state.wanted
        if state.app.kind == "cron" and not state.runs:
            return 0
        return max(state.wanted - state.finished, 0)

    def seen(self, instances: Iterable[Instance], now: float) -> list[Seen]:
        """What a plan sees of instances."""
        # One that is not ready is -1: later than any time by more than a second.
        since = self.ready_since
        found = [Seen(item, now - since.get(item.id, now + 1.0)) for item in instances]
        if not self.leaving_agents:
            return found
        return [
            # Like an old version: replaced elsewhere first, never below the floor.
            Seen(replace(item, version=f"{item.version} on a machine that leaves"), ready_for)
            if item.agent_id in self.leaving_agents
            else Seen(item, ready_for)
            for item, ready_for in found
        ]

    def living(self, name: str) -> list[Instance]:
        return [
            self.instances[instance_id]
            for instance_id in self.by_app[name]
            if not self.instances[instance_id].replaced
        ]

    def keep(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self.by_app[instance.app].add(instance.id)
        if instance.killed_for:
            self.killed.add(instance.id)

    def forget(self, instance: Instance) -> None:
        self.instances.pop(instance.id, None)
        self.by_app[instance.app].discard(instance.id)
        self.killed.discard(instance.id)
        for table in (self.ready_since, self.silent_since, self.kill_at, self.away_since, self.ask_away_at):
            table.pop(instance.id, None)

    def write_app(self, state: AppState, turn: Turn) -> None:
        for write in writes_of(state):
            turn.writes[write.key] = write

    def drop_app(self, state: AppState, turn: Turn) -> None:
        for write in deletes_of(state):
            turn.writes[write.key] = write
        del self.apps[state.name]
        self.say("app.gone", state.name, {})

    def prune_versions(self, state: AppState, turn: Turn) -> None:
        """Forget documents that nothing runs of and nothing could be rolled back to."""
        used = {state.app.version, state.deployment.version, state.deployment.previous}
        used |= {self.instances[instance_id].version for instance_id in self.by_app[state.name]}
        for version in [version for version in state.versions if version not in used]:
            del state.versions[version]
            turn.delete(f"versions/{state.name}/{version}")

    def say(self, kind: str, app: str, body: dict[str, Any]) -> None:
        self.journal.add(kind, app, time.time(), body)

    def missing(self, name: str) -> int:
        """How many instances of an app wait for offers."""
        return self.missing_of.get(name, (0, ""))[0]

    def is_ready(self, instance: Instance) -> bool:
        """Whether an instance runs and is healthy, its watch time aside."""
        return instance.id in self.ready_since
