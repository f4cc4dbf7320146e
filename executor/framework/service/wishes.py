"""What people ask of the framework: deploy, scale, kill, restart, approve, pause, roll back, delete.

Each is a function of the framework and a turn (`Framework.wish` runs it); what it returns is JSON for the
answer. An app has one deployment at a time: a second one while the first is under way is refused with its id,
unless `force`.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from executor.framework.service import apps as records
from executor.framework.service import killing, volumes
from executor.framework.service.apps import AppState
from executor.framework.service.books import Books
from executor.framework.service.form import MAX_INSTANCES
from executor.framework.service.instance import Instance, State, encode
from executor.framework.service.rollout import Deployment, Status
from executor.framework.service.spec import App, read_app
from executor.framework.service.turn import Turn

_UNDER_WAY = (Status.DEPLOYING, Status.CANARY, Status.ROLLING_BACK)


class WishError(Exception):
    """A wish that cannot be met; `status` as in HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def deploy(app: App, *, force: bool = False, fresh: bool = False) -> Callable[[Books, Turn], Any]:
    """A new app, or a new version or size of one. `fresh`: only if there is none of that name."""

    def do(books: Books, turn: Turn) -> Any:
        state = books.apps.get(app.name)
        _require_roles(books, app)
        _require_gpus(books, app)
        done = f"deploying {app.name}"
        if state is None:
            deployment = _new_deployment(app.version, "")
            state = AppState(app, app.instances, deployment, {app.version: app}, started_at=books.now())
            books.apps[app.name] = state
            turn.put_write(records.write_version(app))
        elif fresh:
            raise WishError(409, f"app {app.name!r} is there already: PUT changes it")
        else:
            _require_free(state, force)
            if state.app.volumes != app.volumes and volumes.of_app(books, app.name):
                raise WishError(
                    422,
                    "volumes: they are other than those that the app has, which cannot be changed: deploy it "
                    "under another name, or delete it with its volumes first",
                )
            done = _changes(state, app)
            state.wanted = app.instances
            state.finished = 0
            _turn_to(books, state, app, turn)
        books.write_app(state, turn)
        turn.dirty.add(app.name)
        books.say("app.deployed", app.name, {"deployment": state.deployment.id, "version": app.version})
        return {
            "app": app.name,
            "version": app.version,
            "deployment": state.deployment.id,
            "message": done,
        }

    return do


def _changes(state: AppState, app: App) -> str:
    """What a document changes of an app that is there, for people."""
    if state.target.version != app.version:
        return f"updating {app.name} from {state.target.version} to {app.version}"
    if state.wanted != app.instances:
        return f"scaling {app.name} from {state.wanted} to {app.instances}"
    return f"{app.name} is like that already"


def scale(name: str, instances: int) -> Callable[[Books, Turn], Any]:
    """Another number of instances; nothing is replaced."""

    def do(books: Books, turn: Turn) -> Any:
        state = _app(books, name)
        if not 0 <= instances <= MAX_INSTANCES:
            raise WishError(422, f"instances: {instances}: expected a whole number from 0 to {MAX_INSTANCES}")
        state.wanted = instances
        if state.deployment.status is Status.DONE:
            state.deployment = replace(state.deployment, status=Status.DEPLOYING, previous="")
            state.started_at = books.now()
        books.write_app(state, turn)
        turn.dirty.add(name)
        return {"app": name, "instances": instances, "deployment": state.deployment.id}

    return do


def restart(name: str, *, force: bool = False) -> Callable[[Books, Turn], Any]:
    """Every instance replaced by a new one of the same content, as an update does it."""

    def do(books: Books, turn: Turn) -> Any:
        state = _app(books, name)
        _require_free(state, force)
        document = {**state.app.document, "restarted": secrets.token_hex(4)}
        _turn_to(books, state, read_app(document, name), turn)
        books.write_app(state, turn)
        turn.dirty.add(name)
        return {"app": name, "version": state.app.version, "deployment": state.deployment.id}

    return do


def steer(name: str, what: str) -> Callable[[Books, Turn], Any]:
    """`approve`, `pause`, `resume` or `rollback` the deployment of an app."""

    def do(books: Books, turn: Turn) -> Any:
        state = _app(books, name)
        deployment = state.deployment
        match what:
            case "approve" if deployment.status is Status.CANARY:
                deployment = replace(deployment, approved=True)
            case "pause" if deployment.status in _UNDER_WAY:
                deployment = replace(deployment, status=Status.PAUSED, message="paused by request")
            case "resume" if deployment.status in (Status.PAUSED, Status.FAILED):
                deployment = replace(deployment, status=Status.DEPLOYING, failures=0, message="")
                state.failures_in_row, state.retry_at, state.started_at = 0, 0.0, books.now()
            case "rollback" if deployment.previous:
                deployment = replace(
                    deployment,
                    status=Status.ROLLING_BACK,
                    version=deployment.previous,
                    previous="",
                    message="rolled back by request",
                )
            case "rollback":
                raise WishError(409, f"cannot roll {name!r} back: no version before it is kept")
            case _:
                raise WishError(
                    409, f"cannot {what}: the deployment of {name!r} is {deployment.status.value}"
                )
        state.deployment = deployment
        if what == "rollback":
            state.app = state.target
        books.write_app(state, turn)
        turn.dirty.add(name)
        return {"app": name, "deployment": deployment.id, "status": deployment.status.value}

    return do


def kill(instance_id: str, *, scale_down: bool = False) -> Callable[[Books, Turn], Any]:
    """Kill one instance; another takes its place, unless the app is made smaller by one with it."""

    def do(books: Books, turn: Turn) -> Any:
        instance: Instance | None = books.instances.get(instance_id)
        if instance is None:
            raise WishError(404, f"no instance {instance_id!r} lives")
        state = books.apps.get(instance.app)
        if scale_down and state is not None:
            state.wanted = max(state.wanted - 1, 0)
            books.write_app(state, turn)
        killing.kill(books, instance, "killed by request", turn)
        turn.dirty.add(instance.app)
        return {"instance": instance_id}

    return do


def delete(name: str, *, destroy: bool = False) -> Callable[[Books, Turn], Any]:
    """The app and all that runs of it go; its volumes stay, unless they shall be destroyed too."""

    def do(books: Books, turn: Turn) -> Any:
        state = _app(books, name)
        state.deleting = True
        state.destroy = state.destroy or destroy
        books.write_app(state, turn)
        turn.dirty.add(name)
        return {"app": name, "instances": len(books.by_app[name])}

    return do


def destroy_volume(claim_id: str) -> Callable[[Books, Turn], Any]:
    """The volumes of one claim, and what is in them, go. One whose instance lives is refused, unless its
    agent is away: the instance is given up with it.
    """

    def do(books: Books, turn: Turn) -> Any:
        claim = books.claims.get(claim_id)
        if claim is None:
            raise WishError(404, f"there is no volume {claim_id!r}")
        holder = volumes.holders(books, claim.app).get(claim_id)
        if holder is not None and holder.state is not State.UNREACHABLE:
            raise WishError(409, f"volume {claim_id!r} is in use by instance {holder.id!r}")
        if holder is not None:
            books.keep(replace(holder, replaced=True))
            turn.put(f"instances/{holder.id}", encode(replace(holder, replaced=True)))
        volumes.leave(books, claim, "destroyed by request", turn)
        return {"volume": claim_id, "app": claim.app, "host": claim.hostname}

    return do


def _require_roles(books: Books, app: App) -> None:
    roles = books.settings.roles
    if app.role and app.role not in roles:
        raise WishError(422, f"role: {app.role!r}: this framework has {', '.join(roles)}")
    if app.volumes and (app.role or next((role for role in roles if role != "*"), "*")) == "*":
        raise WishError(
            422, "volumes: nothing can be reserved to the role *: start the framework with --role NAME"
        )


def _require_gpus(books: Books, app: App) -> None:
    if not books.settings.gpus and dict(app.scalars).get("gpus", 0):
        raise WishError(
            422,
            "resources.gpu: a master offers no agent that has GPUs to this framework: start it with --gpus",
        )


def _app(books: Books, name: str) -> AppState:
    state = books.apps.get(name)
    if state is None:
        raise WishError(404, f"there is no app {name!r}")
    return state


def _require_free(state: AppState, force: bool) -> None:
    if state.deleting:
        raise WishError(409, f"app {state.name!r} is being deleted")
    if state.deployment.status in _UNDER_WAY and not force:
        raise WishError(
            409,
            f"deployment {state.deployment.id} of {state.name!r} is {state.deployment.status.value}: "
            "wait, or roll it back, or use force",
        )


def _turn_to(books: Books, state: AppState, app: App, turn: Turn) -> None:
    """Make `app` the target. The same version again keeps what runs."""
    before = state.target.version
    state.app = app
    state.versions[app.version] = app
    turn.put_write(records.write_version(app))
    previous = before if before != app.version else state.deployment.previous
    state.deployment = _new_deployment(app.version, previous)
    state.failures_in_row, state.retry_at, state.started_at = 0, 0.0, books.now()
    state.next_run = None


def _new_deployment(version: str, previous: str) -> Deployment:
    return Deployment(secrets.token_hex(6), version, previous, wall_started=time.time())
