"""What a task printed: read from its agent, which has the sandbox, in pieces of a bounded size.

The agent's `/state` says where an executor's sandbox is, `/files/read` gives its files. Executors of ours
write a task's output to the sandbox's own `stdout` and `stderr`, or to `tasks/ID/` with `--output-size`.
"""

import asyncio
import json
from typing import Any
from urllib.parse import quote

from executor.framework.sdk.connection import dial
from executor.framework.sdk.tls import Tls
from executor.framework.service.constraints import ADDRESS
from executor.framework.service.instance import Instance
from executor.framework.service.wishes import WishError

LENGTH = 64 * 1024
_TIMEOUT = 10.0


async def read(instance: Instance, name: str, offset: int, tls: Tls | None = None) -> dict[str, Any]:
    """From `offset` bytes on a piece of `stdout` or `stderr`, and where the next begins. Raises WishError."""
    address = instance.place.get(ADDRESS)
    if not address:
        raise WishError(404, f"the agent of {instance.id} did not say where it answers")
    state = await _get(address, "/state", tls)
    folder = _sandbox(state, instance.executor_id)
    if folder is None:
        raise WishError(404, f"the agent at {address} does not know executor {instance.executor_id} any more")
    path = quote(f"{folder}/{name}", safe="")
    found = await _get(address, f"/files/read?path={path}&offset={offset}&length={LENGTH}", tls)
    data = str(found.get("data", "")).encode("utf-8", "surrogateescape")
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


async def _get(address: str, target: str, tls: Tls | None) -> Any:
    try:
        async with asyncio.timeout(_TIMEOUT), await dial(address, tls, _TIMEOUT) as connection:
            head = await connection.request("GET", target, [("Host", address)])
            body = await connection.body()
    except (OSError, TimeoutError) as error:
        raise WishError(
            502, f"the agent at {address} does not answer: {error or type(error).__name__}"
        ) from None
    if head.status != 200:
        raise WishError(502, f"the agent at {address} answered {head.status}")
    try:
        return json.loads(body.decode("utf-8", "surrogateescape"))
    except ValueError:
        raise WishError(502, f"the agent at {address} did not answer in JSON") from None
