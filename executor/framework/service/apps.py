"""What the framework knows of each app, and how it is stored.

    framework            the framework's id, as text
    apps/NAME            the target: version, number of instances, the deployment, finished runs
    versions/NAME/V      an app's document, for as long as a version is the target, the one before, or runs
    claims/ID            what an app's instances hold on an agent beyond their end (volumes.py)
    instances/ID         an instance that has not ended (instance.py)
    history/NAME/N       the last ended instances of an app, a ring

Every object is a record of its own: what grows with the history of a cluster is in no value that has a limit.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from executor.framework.service.instance import Instance
from executor.framework.service.matching import WhyNot
from executor.framework.service.rollout import Deployment, Status
from executor.framework.service.spec import App, read_app
from executor.framework.store.interface import Delete, Entry, Put, Write

HISTORY = 50
"""Ended instances that are remembered of each app."""


@dataclass(slots=True)
class AppState:
    """One app. Times ending in `_at` are monotonic and not stored: after a restart they begin anew."""

    app: App
    wanted: int
    deployment: Deployment
    versions: dict[str, App]
    deleting: bool = False
    destroy: bool = False
    finished: int = 0
    runs: int = 0
    failures_in_row: int = 0
    retry_at: float = 0.0
    started_at: float = 0.0
    next_run: float | None = None
    history: deque[Instance] = field(default_factory=lambda: deque(maxlen=HISTORY))
    history_number: int = 0
    why_not: WhyNot = field(default_factory=WhyNot)

    @property
    def name(self) -> str:
        return self.app.name

    @property
    def target(self) -> App:
        """The app at the version that is deployed now: a rollback's is not the newest document's."""
        return self.versions.get(self.deployment.version, self.app)


def writes_of(state: AppState) -> list[Write]:
    """The record of the app itself."""
    deployment = asdict(state.deployment)
    deployment["status"] = state.deployment.status.value
    document: dict[str, Any] = {
        "version": state.app.version,
        "wanted": state.wanted,
        "deployment": deployment,
        "deleting": state.deleting,
        "destroy": state.destroy,
        "finished": state.finished,
        "runs": state.runs,
        "history_number": state.history_number,
    }
    return [Put(f"apps/{state.name}", _json(document))]


def write_version(app: App) -> Put:
    """The record of one version's document."""
    return Put(f"versions/{app.name}/{app.version}", _json(app.document))


def deletes_of(state: AppState) -> list[Write]:
    """Every record of an app that is gone."""
    found: list[Write] = [Delete(f"apps/{state.name}")]
    found += [Delete(f"versions/{state.name}/{version}") for version in state.versions]
    found += [Delete(f"history/{state.name}/{number}") for number in range(HISTORY)]
    return found


def read_state(apps: Iterable[Entry], versions: Iterable[Entry]) -> dict[str, AppState]:
    """What was stored. Raises ValueError or KeyError where that is not what we wrote."""
    documents: dict[str, dict[str, App]] = {}
    for entry in versions:
        _, name, version = entry.key.split("/", 2)
        documents.setdefault(name, {})[version] = read_app(json.loads(entry.value), entry.key)
    found: dict[str, AppState] = {}
    for entry in apps:
        name = entry.key.split("/", 1)[1]
        document = json.loads(entry.value)
        given = document["deployment"]
        deployment = Deployment(**{**given, "status": Status(given["status"])})
        known = documents[name]
        found[name] = AppState(
            known[document["version"]],
            document["wanted"],
            deployment,
            known,
            document["deleting"],
            finished=document["finished"],
            runs=document["runs"],
            destroy=document.get("destroy", False),
            history_number=document["history_number"],
        )
    return found


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
