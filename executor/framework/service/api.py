"""The REST API, the events, the page and the files, as one ASGI application.

It answers for whichever framework leads in this process; while none does, it sends on to the leader (307), so
that a client may ask any instance. `/v1/api/app` is the talk's; the rest is under `/v1`. What is wrong with a
document comes back as 422 with every fault, each by its path.
"""

import hmac
import ipaddress
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from executor.framework.service import logs, view, wishes
from executor.framework.service.apps import AppState
from executor.framework.service.core import Framework
from executor.framework.service.files import Served
from executor.framework.service.journal import BehindError, Happened
from executor.framework.service.openapi import DOCUMENT
from executor.framework.service.spec import App, read_apps
from executor.framework.service.wishes import WishError
from executor.framework.store.interface import Store, StoreError
from executor.local_agent import browsers
from executor.local_agent.validation import DescriptionError, load_json

MAX_BODY = 2 * 1024 * 1024
PAGE = Path(__file__).parent / "page.html"

Endpoint = Callable[[Request], Awaitable[Response]]
LedEndpoint = Callable[[Framework, Request], Awaitable[Response]]


@dataclass(slots=True)
class Site:
    """What the API speaks for. `token` "" lets everybody in (loopback, or a proxy in front) who asks for an
    address, or for one of `names`.
    """

    store: Store
    files: Mapping[str, Served] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    scheme: str = "http"
    names: frozenset[str] = frozenset()
    framework: Framework | None = None


@cache
def _page_fields() -> dict[str, str]:
    """The page may run its own script and style, and speak with this API; nothing else."""
    text = PAGE.read_text()
    inner = {tag: re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("script", "style")}
    hashes = {
        tag: " ".join(f"'sha256-{b64encode(sha256(part.encode()).digest()).decode()}'" for part in parts)
        for tag, parts in inner.items()
    }
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


SiteEndpoint = Callable[[Site, Request], Awaitable[Response]]


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"message": text, **more}


def _state(framework: Framework, request: Request) -> AppState:
    name = request.path_params["name"]
    found = framework.books.apps.get(name)
    if found is None:
        raise RefusedError(404, f"there is no app {name!r}")
    return found


async def deploy(framework: Framework, request: Request, *, fresh: bool) -> Response:
    apps = await _apps(request)
    name = request.path_params.get("name")
    if name is not None and [app.name for app in apps] != [name]:
        raise RefusedError(422, f"the document is of app {apps[0].name!r}, the path of {name!r}")
    force = _flag(request, "force")
    taken = [app.name for app in apps if fresh and app.name in framework.books.apps]
    if taken:
        raise RefusedError(409, f"app {taken[0]!r} is there already: PUT changes it")
    done = [await framework.wish(wishes.deploy(app, force=force, fresh=fresh)) for app in apps]
    body: dict[str, Any] = {"deployments": done}
    if len(done) == 1:
        body.update(done[0])
    body["message"] = "\n".join(item["message"] for item in done)
    return JSONResponse(body, 201 if fresh else 200)


async def create(framework: Framework, request: Request) -> Response:
    return await deploy(framework, request, fresh=True)


async def change(framework: Framework, request: Request) -> Response:
    return await deploy(framework, request, fresh=False)


async def listed(framework: Framework, request: Request) -> Response:
    return JSONResponse(
        [view.summary(framework.books, item) for _, item in sorted(framework.books.apps.items())]
    )


async def one(framework: Framework, request: Request) -> Response:
    return JSONResponse(view.app(framework.books, _state(framework, request)))


async def remove(framework: Framework, request: Request) -> Response:
    wish = wishes.delete(_state(framework, request).name, destroy=_flag(request, "destroy_volumes"))
    return JSONResponse(await framework.wish(wish), 202)


async def scale(framework: Framework, request: Request) -> Response:
    document = await _document(request)
    instances = document.get("instances") if isinstance(document, dict) else None
    if isinstance(instances, bool) or not isinstance(instances, int):
        raise RefusedError(422, f"instances: {json.dumps(instances)}: expected a whole number")
    return JSONResponse(await framework.wish(wishes.scale(_state(framework, request).name, instances)))


async def restart(framework: Framework, request: Request) -> Response:
    wish = wishes.restart(_state(framework, request).name, force=_flag(request, "force"))
    return JSONResponse(await framework.wish(wish))


async def steer(framework: Framework, request: Request) -> Response:
    what = request.path_params["what"]
    if what not in ("approve", "pause", "resume", "rollback"):
        raise RefusedError(404, f"{what!r} is none of approve, pause, resume, rollback")
    return JSONResponse(await framework.wish(wishes.steer(_state(framework, request).name, what)))


async def why(framework: Framework, request: Request) -> Response:
    return JSONResponse(view.why(framework.books, _state(framework, request)))


async def history(framework: Framework, request: Request) -> Response:
    return JSONResponse([view.instance(item) for item in reversed(_state(framework, request).history)])


async def instances(framework: Framework, request: Request) -> Response:
    found = framework.books.instances.values()
    return JSONResponse(
        [view.instance(item, framework.books.is_ready(item)) for item in sorted(found, key=lambda it: it.id)]
    )


async def volumes(framework: Framework, request: Request) -> Response:
    if request.method == "DELETE":
        wish = wishes.destroy_volume(request.path_params["id"])
        return JSONResponse(await framework.wish(wish), 202)
    return JSONResponse(view.volumes(framework.books))


async def one_instance(framework: Framework, request: Request) -> Response:
    found = framework.books.instances.get(request.path_params["id"])
    if found is None:
        raise RefusedError(404, f"no instance {request.path_params['id']!r} lives")
    if request.method == "DELETE":
        wish = wishes.kill(found.id, scale_down=_flag(request, "scale"))
        return JSONResponse(await framework.wish(wish), 202)
    return JSONResponse(view.instance(found, framework.books.is_ready(found)))


async def output(framework: Framework, request: Request) -> Response:
    """What an instance printed; one that has ended lately is asked for too."""
    wanted, name = request.path_params["id"], request.path_params["name"]
    ended = (item for state in framework.books.apps.values() for item in state.history if item.id == wanted)
    found = framework.books.instances.get(wanted) or next(ended, None)
    if name not in ("stdout", "stderr"):
        raise RefusedError(404, f"{name!r} is none of stdout, stderr")
    if found is None:
        raise RefusedError(404, f"there is no instance {wanted!r}, nor was there one lately")
    offset = request.query_params.get("offset", "0")
    if not offset.isdecimal():
        raise RefusedError(422, f"offset: {offset!r}: expected a number of bytes")
    settings = framework.books.settings
    agents = logs.Access(settings.client.tls, settings.agent_credentials)
    return JSONResponse(await logs.read(found, name, int(offset), agents))


async def events(framework: Framework, request: Request) -> Response:
    last = request.headers.get("last-event-id") or request.query_params.get("since")
    if last is not None and not last.isdecimal():
        raise RefusedError(422, f"since: {last!r}: expected the number of an event")
    number = int(last) if last is not None else None
    return StreamingResponse(
        _stream(framework, number),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def status(framework: Framework, request: Request) -> Response:
    return JSONResponse(view.status(framework.books, framework.phase.value))


async def talk(framework: Framework, request: Request) -> Response:
    """The talk's routes: POST, PUT, DELETE and GET of one path."""
    if request.method == "POST":
        return await create(framework, request)
    if request.method == "PUT":
        return await change(framework, request)
    name = request.query_params.get("name")
    if request.method == "DELETE" and name is None:
        document = await _document(request)
        name = document.get("name") if isinstance(document, dict) else None
    if not isinstance(name, str):
        raise RefusedError(
            422, "name: missing: expected ?name=APP" + (" or a body" * (request.method == "DELETE"))
        )
    request.path_params["name"] = name
    return await (remove if request.method == "DELETE" else one)(framework, request)


async def all_apps(framework: Framework, request: Request) -> Response:
    return JSONResponse([view.app(framework.books, item) for _, item in sorted(framework.books.apps.items())])


async def metrics(site: Site, _request: Request) -> Response:
    found = site.framework
    leading = f"# TYPE mesokit_framework_leading gauge\nmesokit_framework_leading {int(found is not None)}\n"
    return Response(
        leading + (view.metrics(found.books, found.phase.value) if found is not None else ""),
        media_type="text/plain",
    )


async def health(site: Site, _request: Request) -> Response:
    """200 from the leader, 503 from the others: for load balancers."""
    leading = site.framework is not None
    return JSONResponse({"leading": leading}, 200 if leading else 503)


async def file(site: Site, request: Request) -> Response:
    served = site.files.get(request.url.path)
    if served is None:
        return Response("not found\n", 404, media_type="text/plain")
    return FileResponse(served.path, media_type="application/octet-stream")


async def openapi(site: Site, _request: Request) -> Response:
    return JSONResponse(DOCUMENT)


async def page(site: Site, _request: Request) -> Response:
    return FileResponse(PAGE, media_type="text/html", headers=_page_fields())


_LED: tuple[tuple[str, LedEndpoint, tuple[str, ...]], ...] = (
    ("/v1/api/app/all", all_apps, ("GET",)),
    ("/v1/api/app", talk, ("GET", "POST", "PUT", "DELETE")),
    ("/v1/apps", listed, ("GET",)),
    ("/v1/apps", create, ("POST",)),
    ("/v1/apps/{name}", one, ("GET",)),
    ("/v1/apps/{name}", change, ("PUT",)),
    ("/v1/apps/{name}", remove, ("DELETE",)),
    ("/v1/apps/{name}/scale", scale, ("POST",)),
    ("/v1/apps/{name}/restart", restart, ("POST",)),
    ("/v1/apps/{name}/deployment/{what}", steer, ("POST",)),
    ("/v1/apps/{name}/why", why, ("GET",)),
    ("/v1/apps/{name}/history", history, ("GET",)),
    ("/v1/instances", instances, ("GET",)),
    ("/v1/instances/{id}", one_instance, ("GET", "DELETE")),
    ("/v1/instances/{id}/logs/{name}", output, ("GET",)),
    ("/v1/volumes", volumes, ("GET",)),
    ("/v1/volumes/{id}", volumes, ("DELETE",)),
    ("/v1/events", events, ("GET",)),
    ("/v1/status", status, ("GET",)),
)

_ANYWHERE: tuple[tuple[str, SiteEndpoint], ...] = (
    ("/files/{digest}/{name}", file),
    ("/openapi.json", openapi),
    ("/metrics", metrics),
    ("/health", health),
    ("/", page),
)


def application(site: Site) -> Starlette:
    """The ASGI application."""

    def led(endpoint: LedEndpoint) -> Endpoint:
        async def asked(request: Request) -> Response:
            _authorize(site, request)
            framework = site.framework
            if framework is None:
                return await _to_the_leader(site, request)
            return await endpoint(framework, request)

        return asked

    def anywhere(endpoint: SiteEndpoint) -> Endpoint:
        async def asked(request: Request) -> Response:
            return await endpoint(site, request)

        return asked

    routes = [Route(path, led(endpoint), methods=list(methods)) for path, endpoint, methods in _LED]
    routes += [Route(path, anywhere(endpoint)) for path, endpoint in _ANYWHERE]
    handlers: Mapping[Any, Any] = {
        RefusedError: _refused,
        WishError: _wish_refused,
        DescriptionError: _described,
        StoreError: _store_failed,
        404: _not_found,
        405: _not_allowed,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


def _authorize(site: Site, request: Request) -> None:
    if not site.token:
        # Any page that somebody on this host visits could send a deployment here, or read what is here by a
        # name of its own. An address is nobody's name.
        host = browsers.host_name(request.headers.get("host", ""))
        names = {*site.names, host} if _is_address(host) else site.names
        reason = browsers.foreign(request.headers, names)
        if reason:
            raise RefusedError(403, f"{reason} (--advertise NAME:PORT makes a name mine; or use a token)")
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {site.token}".encode()):
        raise RefusedError(401, "this API wants Authorization: Bearer with the token")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _to_the_leader(site: Site, request: Request) -> Response:
    leader = await site.store.leader()
    if not leader:
        raise RefusedError(503, "no instance leads at the moment")
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{site.scheme}://{leader}{request.url.path}{query}", 307)


async def _document(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RefusedError(413, f"the body has more than {MAX_BODY // 1024} kB")
    return load_json(bytes(body), "the body")


async def _apps(request: Request) -> list[App]:
    return read_apps(await _document(request), "the body")


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0", ""):
        raise RefusedError(422, f"{name}: {value!r}: expected true or false")
    return value in ("true", "1", "")


async def _stream(framework: Framework, number: int | None) -> AsyncIterator[str]:
    yield ": mesokit\n\n"
    try:
        async for event in framework.books.journal.since(number):
            yield _line(event)
    except BehindError as error:
        yield f"event: behind\ndata: {json.dumps({'message': str(error)})}\n\n"


def _line(event: Happened) -> str:
    body = {"time": event.wall, "kind": event.kind, "app": event.app, **event.body}
    return f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(body)}\n\n"


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(error.body, error.status, headers)


async def _wish_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, WishError)
    return JSONResponse({"message": str(error)}, error.status)


async def _described(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DescriptionError)
    status = 400 if any("JSON document" in fault.expected for fault in error.faults) else 422
    faults = [{"path": fault.key, "found": fault.found, "expected": fault.expected} for fault in error.faults]
    return JSONResponse({"message": str(error), "faults": faults}, status)


async def _store_failed(_request: Request, error: Exception) -> Response:
    return JSONResponse({"message": str(error)}, 503)


async def _not_found(request: Request, _error: Exception) -> Response:
    return JSONResponse({"message": f"there is nothing at {request.url.path}"}, 404)


async def _not_allowed(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    return JSONResponse({"message": f"{request.method} is not for {request.url.path}"}, 405, headers)
