"""TCP checks: a connection that is accepted is a success."""

from executor.checks.conversation import Steps, Talk, connect, failure, reason
from executor.checks.result import Result


def tcp_steps(talk: Talk, host: str, port: int) -> Steps:
    """Connect and hang up."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        yield from connect(talk, host, port)
    except OSError as error:
        return failure(f"TCP connection to {shown} failed: {reason(error)}", error, connected=False)
    return Result(True, f"TCP connection to {shown} was accepted", connected=True)
