"""The API's description (OpenAPI 3.1), made from the table of keys that documents are checked against."""

import sys
from typing import Any

from executor.framework.service.form import FORM
from executor.local_agent.shapes import Flag, Kind, ListOf, MapOf, Number, Object, Text
from executor.local_agent.shortform import APPLICATION


def schema(kind: Kind) -> dict[str, Any]:
    """JSON Schema of a shape."""
    match kind:
        case Text(choices):
            return {"type": "string", "enum": list(choices)} if choices else {"type": "string"}
        case Number(low, high, whole):
            found: dict[str, Any] = {"type": "integer" if whole else "number", "minimum": low}
            return found if high == sys.float_info.max else {**found, "maximum": high}
        case Flag():
            return {"type": "boolean"}
        case ListOf(item):
            return {"type": "array", "items": schema(item)}
        case MapOf(value):
            return {"type": "object", "additionalProperties": schema(value)}
        case Object(keys, required):
            properties = {name: schema(item) for name, item in keys.items()}
            return {
                "type": "object",
                "properties": properties,
                "required": list(required),
                "additionalProperties": False,
            }


def _operation(summary: str, *, body: bool = False, success: str = "200") -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            success: {"description": "done", "content": {"application/json": {}}},
            "default": {"description": "why not", "content": {"application/json": {}}},
        },
    }
    if body:
        reference = {
            "anyOf": [{"$ref": "#/components/schemas/App"}, {"$ref": "#/components/schemas/TalkApp"}]
        }
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return found


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "mesokit framework", "version": "1"},
    "paths": {
        "/v1/api/app": {
            "post": _operation("Deploy apps (the talk's route)", body=True, success="201"),
            "put": _operation("Update apps", body=True),
            "get": _operation("One app, by ?name="),
            "delete": _operation("Delete an app, by ?name= or a body with its name", success="202"),
        },
        "/v1/api/app/all": {"get": _operation("Every app with its instances")},
        "/v1/apps": {
            "get": _operation("Every app, a line each"),
            "post": _operation("Deploy a new app", body=True, success="201"),
        },
        "/v1/apps/{name}": {
            "get": _operation("One app with its instances"),
            "put": _operation("Deploy or update an app; ?force=true over a deployment", body=True),
            "delete": _operation(
                "Delete an app and all that runs of it; ?destroy_volumes=true its volumes too", success="202"
            ),
        },
        "/v1/apps/{name}/scale": {"post": _operation("Another number of instances")},
        "/v1/apps/{name}/restart": {"post": _operation("Replace every instance")},
        "/v1/apps/{name}/deployment/{what}": {"post": _operation("approve, pause, resume or rollback")},
        "/v1/apps/{name}/why": {"get": _operation("Why instances are not placed")},
        "/v1/apps/{name}/history": {"get": _operation("Instances that ended")},
        "/v1/instances": {"get": _operation("Every instance")},
        "/v1/instances/{id}": {
            "get": _operation("One instance"),
            "delete": _operation("Kill an instance; ?scale=true makes the app smaller", success="202"),
        },
        "/v1/volumes": {"get": _operation("Volumes, and who uses them")},
        "/v1/volumes/{id}": {
            "delete": _operation("Destroy volumes that no instance uses, and what is in them", success="202")
        },
        "/v1/events": {"get": _operation("What happens, as server-sent events; Last-Event-ID resumes")},
        "/v1/status": {"get": _operation("The framework itself")},
    },
    "components": {"schemas": {"App": schema(FORM), "TalkApp": schema(APPLICATION)}},
}
