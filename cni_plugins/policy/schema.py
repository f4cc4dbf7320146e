"""The JSON Schema (draft 2020-12) of a policy file, as `mesokit policy schema` prints it."""

from typing import Any

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_SELECTING: dict[str, Any] = {
    "network": _TEXT,
    "group": _TEXT,
    "groups": _TEXTS,
    "labels": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    "container": _TEXT,
}
_CIDRS = {"type": "array", "items": _TEXT}
_PEERS = {
    "type": "array",
    "items": {
        "oneOf": [
            {"enum": ["any", "host", "world"]},
            {"type": "object", "properties": _SELECTING, "additionalProperties": False},
            {
                "type": "object",
                "properties": {"cidr": _TEXT, "except": _CIDRS},
                "required": ["cidr"],
                "additionalProperties": False,
            },
        ]
    },
}
_TRAFFIC = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "string",
        "pattern": r"^(any|(tcp|udp|sctp)(/\d+(-\d+)?)?|icmp(/(echo|timestamp)-request)?"
        r"|icmpv[46](/\d+(-\d+)?)?)$",
    },
}


def _rules(peers: str) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"allow": _TRAFFIC, "deny": _TRAFFIC, peers: _PEERS},
            "required": [peers],
            "oneOf": [{"required": ["allow"]}, {"required": ["deny"]}],
            "additionalProperties": False,
        },
    }


SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "mesokit network policies",
    "type": "object",
    "properties": {
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "for": {"type": "object", "properties": _SELECTING, "additionalProperties": False},
                    "default": {"enum": ["deny", "keep"]},
                    "audit": {"type": "boolean"},
                    "untracked": {"enum": ["deny", "both"]},
                    "ingress": _rules("from"),
                    "egress": _rules("to"),
                },
                "required": ["name", "for"],
                "anyOf": [{"required": ["ingress"]}, {"required": ["egress"]}],
                "additionalProperties": False,
            },
        }
    },
    "additionalProperties": False,
}
