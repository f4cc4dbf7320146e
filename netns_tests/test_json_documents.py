"""What `--json` prints beside the view's own schema has the keys that the README of cli/ lists."""

from __future__ import annotations

import json

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.test_view import POINT, attach

POLICY = """
policies:
  - name: web
    for: {}
    audit: true
    ingress: [{allow: [tcp/80], from: [any]}]
"""


def listed(command: str) -> set[str]:
    """The keys in the README's row."""
    rows = (TOP / "cni_plugins/cli/README.md").read_text().splitlines()
    (row,) = [line for line in rows if line.startswith(f"| `{command}` |")]
    return set(row.split("|")[3].partition("(")[0].split())


def test_the_other_documents_have_the_keys_that_the_readme_lists(node: Node, ours: str) -> None:
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    node.path("/etc/cni/net.d/p.json").write_text(json.dumps(POINT))
    node.path("/etc/mesokit/policy.d").mkdir(parents=True)
    node.path("/etc/mesokit/policy.d/web.yaml").write_text(POLICY)
    attach(node, ours, POINT | {"policy": "open"}, "c1")
    node.cni("ADD", f"{ours}/ptp", POINT | {"mtu": -1}, "c2", node.netns("c2"))  # is refused
    address = node.run([MESOKIT, "ls", "c1", "--json"]).json()["items"][0]["addresses"][0].split("/")[0]
    asks = {
        "node failures": [], "policy show": [], "policy check": [], "policy apply": [], "policy audit": [],
        "policy explain": [address, "192.0.2.1", "tcp/80"], "update": ["c1", "mtu=1400", "--dry-run"],
        "reload": [], "cni validate": ["/etc/cni/net.d"],
    }  # fmt: skip
    for command, words in asks.items():
        told = node.run([MESOKIT, *command.split(), *words, "--json"], check=False)
        text = told.text.splitlines()[0] if command == "node failures" else told.text
        document = json.loads(text)
        first = document[0] if isinstance(document, list) else document
        assert set(first) == listed(command), command
