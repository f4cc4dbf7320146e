"""What a task printed: read from its agent, which has the sandbox, in pieces of a bounded size.

The agent's `/state` says where an executor's sandbox is, `/files/read` gives its files. Executors of ours
write a task's output to the sandbox's own `stdout` and `stderr`, or to `tasks/ID/` with `--output-size`.

An agent with `--authenticate_http_readonly` asks who reads. It is told with a credential of its own, never
with the one for masters: whatever listens at an agent's port while that is away, a task's program say, hears
it.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from executor.framework.sdk.connection import dial
from executor.framework.sdk.credentials import CredentialError, Credentials
from executor.framework.sdk.tls import Tls
from executor.framework.service.constraints import ADDRESS
from executor.framework.service.instance import Instance
from executor.framework.service.wishes import WishError

LENGTH = 64 * 1024
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Access:
    """How agents are spoken with, and as whom."""

    tls: Tls | None = None
    credentials: Credentials = field(default_factory=Credentials)


async def read(instance: Instance, name: str, offset: int, access: Access) -> dict[str, Any]:
    """From `offset` bytes on a piece of `stdout` or `stderr`, and where the next begins. Raises WishError."""
    address = instance.place.get(ADDRESS)
    if not address:
        raise WishError(404, f"the agent of {instance.id} did not say where it answers")
    state = await _get(address, "/state", access)
    try:
        folder = _sandbox(state, instance.executor_id)
    except (AttributeError, TypeError):
        raise WishError(502, f"the agent at {address} answered /state with no state of an agent") from None
    if folder is None:
        raise WishError(404, f"the agent at {address} does not know executor {instance.executor_id} any more")
    path = quote(f"{folder}/{name}", safe="")
    found = await _get(address, f"/files/read?path={path}&offset={offset}&length={LENGTH}", access)
    try:
        data = str(found.get("data", "")).encode("utf-8", "surrogateescape")
    except (AttributeError, UnicodeEncodeError):
        raise WishError(502, f"the agent at {address} answered {path} with no text of a file") from None
    # What is no UTF-8, or was cut in the middle of a character, is shown as such and counted as it is.
    return {"data": data.decode("utf-8", "replace"), "offset": offset + len(data)}


def _sandbox(state: Any, executor_id: str) -> str | None:
    for kind in ("frameworks", "completed_frameworks"):
        for framework in state.get(kind, ()):
            for which in ("executors", "completed_executors"):
                for executor in framework.get(which, ()):
                    if executor.get("id") == executor_id:
                        return str(executor.get("directory"))
    return None


async def _get(address: str, target: str, access: Access) -> Any:
    status, body = await _ask(address, target, access)
    if status == 401 and access.credentials.read is not None:
        access.credentials.refresh()  # somebody may have renewed the file
        status, body = await _ask(address, target, access)
    if status in (401, 403):
        raise WishError(502, _not_permitted(address, target, status, access))
    if status != 200:
        raise WishError(502, f"the agent at {address} answered {status} to GET {target.partition('?')[0]}")
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise WishError(502, f"the agent at {address} did not answer in JSON") from None


async def _ask(address: str, target: str, access: Access) -> tuple[int, bytes]:
    try:
        headers = [("Host", address), *access.credentials.header()]
        async with (
            asyncio.timeout(_TIMEOUT),
            await dial(address, access.tls, _TIMEOUT) as connection,
        ):
            head = await connection.request("GET", target, headers)
            return head.status, await connection.body()
    except CredentialError as error:
        raise WishError(502, f"the agent at {address} is not asked: {error}") from None
    except (OSError, TimeoutError) as error:
        raise WishError(
            502, f"the agent at {address} does not answer: {error or type(error).__name__}"
        ) from None


def _not_permitted(address: str, target: str, status: int, access: Access) -> str:
    who = f"the agent at {address} answered {status} to GET {target.partition('?')[0]}"
    if status == 403:
        return (
            f"{who}: its ACLs do not let this framework's principal see it (access_sandboxes, view_executors)"
        )
    if access.credentials.read is None:
        return (
            f"{who}: it asks who reads (--authenticate_http_readonly): start the framework with "
            "--agent-principal and --agent-secret-file"
        )
    return f"{who}: it does not take the credential of --agent-secret-file or --agent-token-file"
