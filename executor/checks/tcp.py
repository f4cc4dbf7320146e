"""TCP checks: a connection that is accepted is a success."""

from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.checks import fields
from executor.checks.conversation import SocketProbe, Steps, Talk, connect, failure, reason
from executor.checks.result import Probe, Result
from executor.process.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection to the task."""

    host: str
    port: int

    @classmethod
    def of_health(cls, field: str, message: mesos_pb2.HealthCheck.TCPCheckInfo) -> "TcpCheck":
        """Read `field` of a health check. Raises InvalidCheckError."""
        return cls(fields.loopback(message.protocol), fields.port(f"{field}.port", message.port))

    @classmethod
    def of_check(cls, field: str, message: mesos_pb2.CheckInfo.Tcp) -> "TcpCheck":
        """Read `field` of a check, which has no protocol to choose. Raises InvalidCheckError."""
        return cls("127.0.0.1", fields.port(f"{field}.port", message.port))

    def probe(self, _: Supervisor) -> Probe:
        """A new run."""
        return SocketProbe(lambda talk: tcp_steps(talk, self.host, self.port))

    def status(self, result: Result | None) -> mesos_pb2.CheckStatusInfo:
        """What a CheckInfo reports of a result, or of none."""
        status = mesos_pb2.CheckStatusInfo(type=mesos_pb2.CheckInfo.TCP)
        status.tcp.SetInParent()
        if result is not None and result.connected is not None:
            status.tcp.succeeded = result.connected
        return status


def tcp_steps(talk: Talk, host: str, port: int) -> Steps:
    """Connect and hang up."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        yield from connect(talk, host, port)
    except OSError as error:
        return failure(f"TCP connection to {shown} failed: {reason(error)}", error, connected=False)
    return Result(True, f"TCP connection to {shown} was accepted", connected=True)
