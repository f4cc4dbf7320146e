"""A master's clocks and limits. Seconds, as in Mesos' flags; tests make them short."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`principal` and `secret` (where set) are asked of every request, in Basic authentication, or `secret`
    as a bearer token that stands for the principal (a module's, as in DC/OS). `agent_principal`,
    `agent_secret`: the same of agents' own `--authenticate_http_readonly`. `retry` is the first wait of an
    agent before it sends an update again, doubled to `longest_retry`. `operation_feedback`: whether agents
    can tell what became of an operation. `version` is the master's: one before 1.11 knows nothing of offer
    constraints, one before 1.9 no UPDATE_FRAMEWORK.
    """

    heartbeat: float = 15.0
    allocation: float = 1.0
    offer_timeout: float | None = None
    retry: float = 10.0
    longest_retry: float = 600.0
    ping_timeout: float = 75.0
    reregister: float = 600.0
    default_refusal: float = 5.0
    completed_frameworks: int = 50
    principal: str = ""
    secret: str = ""
    agent_principal: str = ""
    agent_secret: str = ""
    roles: frozenset[str] = frozenset()
    operation_feedback: bool = True
    root_submissions: bool = True
    version: str = "1.11.0"

    def knows(self, major: int, minor: int) -> bool:
        """Whether the master's version is at least this one."""
        first, second, *_ = self.version.split(".")
        return (int(first), int(second)) >= (major, minor)
