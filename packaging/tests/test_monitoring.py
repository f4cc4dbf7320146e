"""The dashboard and the alert rules ask for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from cni_plugins.node.metrics import Metrics
from cni_plugins.view.metrics import prometheus
from cni_plugins.view.node import Seen, node_of

PLACE = Path(__file__).resolve().parents[1] / "monitoring"
_NAME = re.compile(r"\bmesokit_[a-z_]+")


def _known() -> set[str]:
    made = Metrics("1")
    made.add("bridge", "ADD", 0.1, 7)
    text = made.prometheus(1, (1,)) + prometheus(node_of(Seen((), (), {}, (0, 0), "", {})), ())
    names = set(re.findall(r"# TYPE (\S+)", text))
    return names | {f"{name}{end}" for name in names for end in ("_bucket", "_count", "_sum")}


def test_alerts() -> None:
    document = yaml.safe_load((PLACE / "alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert len(rules) >= 5
    for rule in rules:
        assert set(_NAME.findall(rule["expr"])) <= _known(), rule["alert"]
        assert rule["annotations"]["runbook"].startswith("mesokit "), rule["alert"]


def test_dashboard() -> None:
    document = json.loads((PLACE / "dashboard.json").read_text())
    asked = {
        name
        for panel in document["panels"]
        for each in panel["targets"]
        for name in _NAME.findall(each["expr"])
    }
    assert asked <= _known() and len(asked) >= 5
