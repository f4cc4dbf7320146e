"""What a master remembers: agents, frameworks, offers."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.subscription import roles_of
from executor.framework.sdk.resources import Resources

Event = scheduler_pb2.Event


@dataclass(slots=True)
class Stream:
    """One subscription's stream: `send` puts an event on it, `close` ends it."""

    id: str
    send: Callable[[Event], None]
    close: Callable[[], None]
    heartbeat_at: float = 0.0


@dataclass(slots=True)
class Filter:
    """Resources of an agent that a role does not want until `until`."""

    refused: Resources
    until: float


@dataclass(slots=True)
class Framework:
    """A framework: subscribed while it has a stream."""

    info: mesos_pb2.FrameworkInfo
    stream: Stream | None = None
    suppressed: set[str] = field(default_factory=set)
    constraints: scheduler_pb2.OfferConstraints | None = None
    filters: dict[tuple[str, str], list[Filter]] = field(default_factory=dict)
    gone_at: float | None = None

    @property
    def id(self) -> str:
        return self.info.id.value

    @property
    def roles(self) -> list[str]:
        return roles_of(self.info)

    def can(self, kind: mesos_pb2.FrameworkInfo.Capability.Type) -> bool:
        """Whether it has a capability."""
        return any(item.type == kind for item in self.info.capabilities)


@dataclass(slots=True)
class Offer:
    """What was offered, to whom, and since when."""

    message: offers_pb2.Offer
    framework_id: str
    agent_id: str
    role: str
    resources: Resources
    made: float


@dataclass(slots=True)
class AgentEntry:
    """An agent in the master's books. `recovered`: in the registry, but not back yet after a failover.
    `asked_back`: when each framework is asked again for an agent whose machine is to be maintained.
    """

    agent: FakeAgent
    connected: bool = True
    recovered: bool = False
    unreachable: float | None = None
    deactivated: bool = False
    gone: bool = False
    unavailability: offers_pb2.Unavailability | None = None
    asked_back: dict[str, float] = field(default_factory=dict)

    @property
    def offered(self) -> bool:
        """Whether it takes part in offers."""
        return self.connected and not (
            self.recovered or self.deactivated or self.gone or self.unreachable is not None
        )

    @property
    def total(self) -> Resources:
        """What the agent has, as reservations have changed it."""
        return self.agent.total - self.agent.taken + self.agent.extra


@dataclass(slots=True)
class Books:
    """All of it. `unreachable`: tasks of agents that are away, by task id: (framework, agent)."""

    agents: dict[str, AgentEntry] = field(default_factory=dict)
    frameworks: dict[str, Framework] = field(default_factory=dict)
    completed: "OrderedDict[str, None]" = field(default_factory=OrderedDict)
    offers: dict[str, Offer] = field(default_factory=dict)
    inverse: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: int = 0
