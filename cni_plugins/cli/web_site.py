"""What `mesokit web` answers: the page, and the node as the JSON that the commands print. Nothing writes.

    GET BASE                    the page; with BASE/web.js and BASE/web.css all that a browser loads
    GET BASE/v1/session         the token (Authorization: Bearer) for a cookie
    GET BASE/v1/attachments     `mesokit ls --json`
    GET BASE/v1/graph           `mesokit graph --svg`; ?network=NAME
    GET BASE/v1/inspect         `mesokit inspect --json`; ?name=NAME
    GET BASE/v1/explain         `mesokit policy explain --json`; ?from=A&to=B&traffic=T
    GET BASE/v1/events          the stream of web_live.py; ?since=SECONDS

Who may ask: over TCP who is on this machine and has the token, over a Unix socket root and who started it; of
a browser's requests those that our own page makes (browsers.py). A cookie goes to every port of its host, so
over TCP BASE is a path that nobody knows, and the cookie belongs to it. The page itself holds nothing, and
its policy lets it load and reach nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cni_plugins.cli.look import Place
from cni_plugins.cli.web_live import Live, TooManyError, Work, listing
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.text import printable
from cni_plugins.steps import policy_state
from cni_plugins.view import differences, find, graph, inspection, load, picture
from cni_plugins.view.explain import explain_flow
from cni_plugins.view.flow_ends import ExplainError
from cni_plugins.view.node import Node
from cni_plugins.view.plain import document
from executor.local_agent import browsers
from executor.local_agent.http_server import Request, Response

log = logging.getLogger("mesokit.web")

_FILES = {
    "": ("web.html", "text/html; charset=utf-8"),
    "web.js": ("web.js", "text/javascript; charset=utf-8"),
    "web.css": ("web.css", "text/css; charset=utf-8"),
}
_COOKIE = "mesokit"
_JSON = "application/json"
_LONGEST = 31 * 86400  # seconds of the past
_STYLE = base64.b64encode(hashlib.sha256(graph.STYLE.encode()).digest()).decode()
_FIELDS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; "
        f"style-src 'self' 'sha256-{_STYLE}'; "  # the picture's own
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Values = Mapping[str, str]


class AskedError(Exception):
    """What was asked for cannot be answered; the text is a sentence."""

    def __init__(self, status: HTTPStatus, text: str, **fields: str) -> None:
        super().__init__(text)
        self.status = status
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask. `token` is "" for a Unix socket, whose peers are known by `users`."""

    token: str = field(default="", repr=False)
    base: str = "/"
    users: frozenset[int] = frozenset()
    session: str = field(default_factory=partial(secrets.token_urlsafe, 32), repr=False)


def by_token() -> Access:
    return Access(secrets.token_urlsafe(32), f"/{secrets.token_urlsafe(12)}/")


def by_user() -> Access:
    return Access(users=frozenset((0, os.geteuid())))


@dataclass(slots=True)
class Site:
    """The answers, for HttpServer. `work` does what blocks."""

    place: Place
    access: Access
    work: Work
    live: Live

    def admit(self, request: Request) -> Response | None:
        """The refusal of who may not ask, before anything of a body is read."""
        try:
            self._judge(request)
        except AskedError as error:
            return _failed(error)
        return None

    def _judge(self, request: Request) -> None:
        access, headers = self.access, request.headers
        if request.transport == "unix" and request.uid not in access.users:
            raise AskedError(HTTPStatus.FORBIDDEN, f"user {request.uid} may not ask here")
        if request.transport == "tcp" and not browsers.is_loopback(request.peer):
            raise AskedError(HTTPStatus.FORBIDDEN, f"{request.peer} is not on this machine")
        if reason := browsers.foreign(headers):
            raise AskedError(HTTPStatus.FORBIDDEN, reason)
        if request.method != "GET":
            raise AskedError(HTTPStatus.METHOD_NOT_ALLOWED, "there is only GET here", Allow="GET")
        if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
            raise AskedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "nothing is read here: ask without a body")
        name = self._name(request)
        if name.startswith("v1/") and access.token and not self._is_known(request):
            text = "open the link that `mesokit web` printed, or send its token: Authorization: Bearer"
            raise AskedError(HTTPStatus.UNAUTHORIZED, text, WWW_Authenticate="Bearer")

    def _name(self, request: Request) -> str:
        base = self.access.base
        if not hmac.compare_digest(request.path[: len(base)].encode(), base.encode()):
            raise AskedError(HTTPStatus.NOT_FOUND, "there is nothing here: open the link that was printed")
        return request.path[len(base) :]

    def _is_known(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        known = kind.lower() == "bearer" and _same(given.strip(), self.access.token)
        for part in request.headers.get("cookie", "").replace(",", ";").split(";"):
            name, _, value = part.strip().partition("=")
            known |= name == _COOKIE and _same(value, self.access.session)
        return known

    async def handle(self, request: Request) -> Response:
        """Answer one request that was let in."""
        try:
            return await self._answer(request, self._name(request))
        except Exception as error:
            return _failed(_reason(error))

    async def _answer(self, request: Request, name: str) -> Response:
        if name in _FILES:
            return _file(*_FILES[name])
        if name == "v1/session":
            return self._session()
        if name == "v1/events":
            return self._events(_values(request, since="3600"))
        answer = _ANSWERS.get(name)
        if answer is None:
            raise AskedError(HTTPStatus.NOT_FOUND, "there is nothing of that name here")
        wanted, make = answer
        values = _values(request, **wanted)
        return await self.work(lambda: make(self.place, values))

    def _session(self) -> Response:
        done = _answer(b"{}", _JSON)
        if not self.access.token:
            return done
        cookie = f"{_COOKIE}={self.access.session}; Path={self.access.base}; HttpOnly; SameSite=Strict"
        return replace(done, headers={**done.headers, "Set-Cookie": cookie})

    def _events(self, values: Values) -> Response:
        since = values["since"]
        if not (since.isascii() and since.isdigit() and int(since) <= _LONGEST):
            text = f"since: {since!r}: expected seconds, {_LONGEST} at most"
            raise AskedError(HTTPStatus.UNPROCESSABLE_ENTITY, text)
        try:
            body = self.live.stream(float(since))
        except TooManyError:
            text = "too many pages are open: close one"
            raise AskedError(HTTPStatus.SERVICE_UNAVAILABLE, text) from None
        return Response(HTTPStatus.OK, body, {**_FIELDS, "Content-Type": "text/event-stream"})


def _attachments(place: Place, _values: Values) -> Response:
    return _as_json(listing(_seen(place)))


def _seen(place: Place) -> Node:
    return differences.look(load.node(place.roots, place.host), place.roots)


def _graph(place: Place, values: Values) -> Response:
    found = load.node(place.roots, place.host)
    parts = picture.parts(found, place.host, values["network"] or None)
    return _answer(graph.svg(parts, picture.title(found)).encode(), "image/svg+xml; charset=utf-8")


def _inspect(place: Place, values: Values) -> Response:
    found = _seen(place)
    told = inspection.inspect(find.find(found, values["name"]), place.roots, place.host)
    items = (inspection.as_json(found, each) for each in told)
    return _as_json(document("inspection", items, hidden=found.seen.hidden))


def _explain(place: Place, values: Values) -> Response:
    state = policy_state.load(place.roots, place.host)
    return _as_json(explain_flow(state, place.host, values["from"], values["to"], values["traffic"]))


_ANSWERS: Mapping[str, tuple[dict[str, str], Callable[[Place, Values], Response]]] = {
    "v1/attachments": ({}, _attachments),
    "v1/graph": ({"network": ""}, _graph),
    "v1/inspect": ({"name": ""}, _inspect),
    "v1/explain": ({"from": "", "to": "", "traffic": ""}, _explain),
}
"""Parameters with their defaults, and what makes the answer (not on the event loop's thread)."""


def _reason(error: Exception) -> AskedError:
    if isinstance(error, AskedError):
        return error
    if isinstance(error, find.NotFoundError):
        return AskedError(HTTPStatus.NOT_FOUND, str(error.args[0]))
    if isinstance(error, ExplainError):
        return AskedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    if isinstance(error, CniError | OSError):
        return AskedError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    log.error("cannot answer", exc_info=error)
    return AskedError(HTTPStatus.INTERNAL_SERVER_ERROR, "see standard error of `mesokit web`")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _values(request: Request, **defaults: str) -> Values:
    try:
        given = parse_qs(request.query, keep_blank_values=True, max_num_fields=16, errors="strict")
    except ValueError as error:
        raise AskedError(HTTPStatus.BAD_REQUEST, f"the query cannot be read: {error}") from None
    if unknown := given.keys() - defaults.keys():
        expected = ", ".join(defaults) or "none"
        text = f"{min(unknown)}: unknown parameter: expected {expected}"
        raise AskedError(HTTPStatus.UNPROCESSABLE_ENTITY, printable(text))
    return defaults | {name: values[-1] for name, values in given.items()}


def _file(name: str, kind: str) -> Response:
    return _answer((Path(__file__).parent / name).read_bytes(), kind)


def _as_json(body: Any) -> Response:
    return _answer(json.dumps(body).encode(), _JSON)


def _failed(error: AskedError) -> Response:
    body = json.dumps({"message": printable(str(error))}).encode()
    return Response(error.status, body, {**_FIELDS, "Content-Type": _JSON, **error.fields})


def _answer(body: bytes, kind: str) -> Response:
    return Response(HTTPStatus.OK, body, {**_FIELDS, "Content-Type": kind})
