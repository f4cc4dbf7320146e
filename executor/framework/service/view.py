"""The framework as JSON, for the API, the command and the page."""

import time
from typing import Any

from executor.framework.service.apps import AppState
from executor.framework.service.books import Books
from executor.framework.service.instance import Instance


def instance(item: Instance, ready: bool = False) -> dict[str, Any]:
    """One instance; `ready`: requests may be sent to it."""
    return {
        "id": item.id,
        "app": item.app,
        "version": item.version,
        "state": item.state.value,
        "healthy": item.healthy,
        "ready": ready,
        "host": item.hostname,
        "agent": item.agent_id,
        "ports": dict(item.ports),
        "addresses": sorted({ip for task in item.tasks for ip in task.ips}),
        "launched": item.wall_launched,
        "ended": item.wall_ended or None,
        "killed_for": item.killed_for or None,
        "message": item.message or None,
        "tasks": [
            {
                "id": item.task_id(task.name),
                "name": task.name,
                "state": task.state.value,
                "healthy": task.healthy,
            }
            for task in item.tasks
        ],
    }


def app(books: Books, state: AppState) -> dict[str, Any]:
    """One app, its instances included."""
    living = sorted(
        (books.instances[key] for key in books.by_app[state.name]),
        key=lambda item: item.wall_launched,
    )
    return {
        **summary(books, state),
        "spec": state.app.document,
        "live": [instance(item, books.is_ready(item)) for item in living],
    }


def summary(books: Books, state: AppState) -> dict[str, Any]:
    """One app in a line."""
    living = [books.instances[key] for key in books.by_app[state.name]]
    deployment = state.deployment
    return {
        "name": state.name,
        "kind": state.app.kind,
        "version": state.app.version,
        "instances": state.wanted,
        "running": sum(item.state.value == "running" for item in living),
        "ready": sum(books.is_ready(item) for item in living),
        "finished": state.finished,
        "deleting": state.deleting,
        "deployment": {
            "id": deployment.id,
            "status": deployment.status.value,
            "version": deployment.version,
            "previous": deployment.previous or None,
            "failures": deployment.failures,
            "message": deployment.message or None,
            "started": deployment.wall_started,
        },
        "back_off_seconds": max(round(state.retry_at - books.now(), 1), 0.0) if state.retry_at else 0.0,
        "next_run": state.next_run,
    }


def volumes(books: Books) -> list[dict[str, Any]]:
    """What apps hold on agents beyond the end of an instance."""
    holders = {item.claim: item.id for item in books.instances.values() if item.claim}
    return [
        {
            "id": claim.id,
            "app": claim.app,
            "state": claim.state.value,
            "host": claim.hostname,
            "agent": claim.agent_id,
            "instance": holders.get(claim.id),
            "made": claim.wall_made,
            "volumes": [
                {"name": name, "size": size / 1000, "path": path, "persistence_id": claim.persistence(name)}
                for name, size, path in claim.volumes
            ],
        }
        for claim in sorted(books.claims.values(), key=lambda item: item.id)
    ]


def why(books: Books, state: AppState) -> dict[str, Any]:
    """Why what is missing is not placed."""
    log = state.why_not
    missing = books.missing(state.name)
    if not missing:
        sentence = "nothing is missing"
    elif not books.connected:
        sentence = f"not subscribed with a master: {books.problem or 'connecting'}"
    elif books.now() < state.retry_at:
        wait = state.retry_at - books.now()
        sentence = f"waiting {wait:.1f} s after {state.failures_in_row} failures in a row"
    elif not log.looked_at:
        sentence = "no offer has come yet"
        if _kept_back(books, state):
            texts = ", ".join(constraint.text() for constraint in state.app.constraints)
            sentence = f"no agent has been offered that it may run on ({texts}): the master keeps back others"
    else:
        reason, number = log.counts.most_common(1)[0] if log.counts else ("nothing", 0)
        why = {"role": "of another role", "volume": "no free volume of it"}.get(reason, reason)
        why = why if " " in why else f"not enough {why}"
        sentence = f"{number} of {log.looked_at} offers: {why} ({log.examples.get(reason, '')})"
    reasons = [
        {"reason": reason, "offers": number, "example": log.examples.get(reason, "")}
        for reason, number in log.counts.most_common()
    ]
    return {
        "app": state.name,
        "missing": missing,
        "why": sentence,
        "offers_looked_at": log.looked_at,
        "reasons": reasons,
    }


def _kept_back(books: Books, state: AppState) -> bool:
    """Whether the master was told not to offer agents that this app does not take."""
    roles = (state.app.role,) if state.app.role else books.settings.roles
    return bool(state.app.constraints) and any(role in books.constraints.role_constraints for role in roles)


def status(books: Books, phase: str) -> dict[str, Any]:
    """The framework itself."""
    living = books.instances.values()
    states: dict[str, int] = {}
    for item in living:
        states[item.state.value] = states.get(item.state.value, 0) + 1
    return {
        "framework_id": books.framework_id or None,
        "connected": books.connected,
        "phase": phase,
        "problem": books.problem or None,
        "apps": len(books.apps),
        "instances": states,
        "counters": dict(books.counters),
        "constrained_roles": sorted(books.constraints.role_constraints),
        "unreconciled": books.reconciler.remaining,
        "last_event": books.journal.last,
        "time": time.time(),
    }


def metrics(books: Books, phase: str) -> str:
    """Prometheus' text format."""
    found = status(books, phase)
    lines = [
        "# TYPE mesokit_framework_connected gauge",
        f"mesokit_framework_connected {int(found['connected'])}",
        "# TYPE mesokit_framework_apps gauge",
        f"mesokit_framework_apps {found['apps']}",
        "# TYPE mesokit_framework_instances gauge",
    ]
    lines += [
        f'mesokit_framework_instances{{state="{name}"}} {number}'
        for name, number in found["instances"].items()
    ]
    lines.append("# TYPE mesokit_framework_missing gauge")
    lines += [
        f'mesokit_framework_missing{{app="{name}"}} {books.missing(name)}' for name in sorted(books.apps)
    ]
    for name, number in sorted(found["counters"].items()):
        lines += [
            f"# TYPE mesokit_framework_{name}_total counter",
            f"mesokit_framework_{name}_total {number}",
        ]
    return "\n".join(lines) + "\n"
