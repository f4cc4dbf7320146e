"""What a policy file may say, and the sentence for what it may not: file, line, key, value."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cni_plugins.policy.model import PeerKind, Traffic
from cni_plugins.policy.read import LARGEST, Parsed, Refused, parse, read_directory
from cni_plugins.policy.schema import SCHEMA

RULE = """policies:
  - name: n
    for: {{}}
    ingress:
      - {}
"""


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("{allow: [tcp/0], from: [any]}", ":5: policies[0].ingress[0].allow[0]: 'tcp/0': port 0"),
        ("{allow: [tcp/9-8], from: [any]}", "'tcp/9-8': the range ends before it begins"),
        ("{allow: [http], from: [any]}", "'http': not any, tcp, udp"),
        ("{allow: [icmp/8], from: [any]}", "'icmp/8': not one of echo-request"),
        (
            "{allow: [any], from: [{cidr: 10.0.0.1/8}]}",
            ":5: policies[0].ingress[0].from[0].cidr: '10.0.0.1/8'",
        ),
        ("{allow: [any], from: [{cidr: 10.0.0.0/8, except: ['::/0']}]}", "of another family"),
        ("{allow: [any], from: [all]}", "'all': not any, host, world, or an object"),
        ("{allow: [any], deny: [any], from: [any]}", "a rule has either allow or deny"),
        ("{allow: [any]}", "policies[0].ingress[0].from: missing"),
        ("{allow: [any], from: [{labels: {a: 1}}]}", "from[0].labels.a: 1: not a string (put it in quotes)"),
        ("{allow: [any], to: [any]}", "to: unknown key"),
        ("{allow: [any], allow: [tcp], from: [any]}", "the key 'allow' stands there twice"),
        ("&a {allow: [any], from: [any]}\n      - *a", ":6: aliases (*name) are not taken"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),  # each token costs as much as there are levels
        ("{allow: [any", "p.yaml:6:"),
    ],
)
def test_what_is_refused(rule: str, told: str) -> None:
    found, problems = parse(RULE.format(rule), "p.yaml")
    assert not found and told in str(problems[0]), problems


def test_json_has_lines_too() -> None:
    text = '{\n\t"policies": [\n\t\t{"name": "a\\/b\\ud83d\\ude00", "for": {},\n\t\t "ingress": [{}]}]}'
    _, problems = parse(text, "p.json")
    assert str(problems[0]).startswith("p.json:4: policies[0].ingress[0]: a rule has")


def test_a_label_without_a_value_is_any_value() -> None:
    (policy,), _ = parse("policies: [{name: n, for: {labels: {a: , b: ''}}, egress: []}]", "p.yaml")
    assert policy.selector.labels == (("a", None), ("b", ""))
    assert policy.egress == () and policy.ingress is None


def test_names_of_icmp_types_mean_both_families() -> None:
    (policy,), _ = parse(RULE.format("{allow: [icmp/echo-request], from: [world]}"), "p.yaml")
    (rule,) = policy.ingress or ()
    assert rule.traffic == (Traffic("icmpv4", 8, 8), Traffic("icmpv6", 128, 128))
    assert rule.peers[0].kind is PeerKind.WORLD and rule.where == "p.yaml:5"


def test_a_directory_is_read_as_a_whole(tmp_path: Path) -> None:
    assert read_directory(tmp_path / "none") == [] == read_directory(tmp_path)
    document = json.dumps({"policies": [{"name": "n", "for": {}, "egress": []}]})
    (tmp_path / "a.json").write_text(document)
    (tmp_path / "notes.txt").write_text("{")
    assert [policy.name for policy in read_directory(tmp_path)] == ["n"]
    (tmp_path / "b.json").write_text(document)
    (tmp_path / "c.yaml").write_bytes(b"x" * (LARGEST + 1))
    (tmp_path / "d.yaml").symlink_to("d.yaml")
    (tmp_path / "e.yaml").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "f.yaml")
    with pytest.raises(Refused) as refused:
        read_directory(tmp_path)
    told = "\n".join(map(str, refused.value.problems))
    for sentence in (
        "is also at",
        "c.yaml: larger than",
        "d.yaml: Too many levels",
        "e.yaml",
        "f.yaml: not a reg",
    ):
        assert sentence in told


def test_the_schema_is_json() -> None:
    assert json.loads(json.dumps(SCHEMA))["properties"].keys() == {"policies"}


def test_a_file_that_is_read_again_is_believed_only_while_it_is_the_same(tmp_path: Path) -> None:
    """Text of the same length, in the same file, with the time of the old one; at once, and after a while."""
    path, parsed = tmp_path / "a.json", Parsed()
    for pause in (0.0, 0.15):
        for name in ("n", "m"):
            path.write_text(json.dumps({"policies": [{"name": name, "for": {}, "egress": []}]}))
            os.utime(path, (1, 1))
            time.sleep(pause)
            (policy,) = read_directory(tmp_path, parsed)
            assert policy.name == name
            assert read_directory(tmp_path, parsed)[0] is policy
