"""What runtimes call their containers, by what libcni keeps of each ADD."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.view import runtimes

POD = Identity("pods", "3381e1c9", "eth0")


def _keep(root: Path, identity: Identity, document: object) -> Roots:
    place = root / "var/lib/cni/results"
    place.mkdir(parents=True, exist_ok=True)
    name = f"{identity.network}-{identity.container_id}-{identity.ifname}"
    (place / name).write_text(json.dumps(document))
    return roots_from({"MESOKIT_ROOT": str(root)})


def test_a_pod_has_its_namespace_before_its_name(tmp_path: Path) -> None:
    args = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"]]
    found = runtimes.tasks(_keep(tmp_path, POD, {"cniArgs": args}), [POD])
    assert [(task.names, task.short, task.runtime) for task in found.values()] == [
        (("shop/web-0",), "web-0", "pod")
    ]


def test_a_container_of_podman_has_no_namespace(tmp_path: Path) -> None:
    args = [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]]
    found = runtimes.tasks(_keep(tmp_path, POD, {"cniArgs": args}), [POD])
    assert [task.names for task in found.values()] == [("web",)]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"cniArgs": None},
        {"cniArgs": [["K8S_POD_NAME"]]},
        {"cniArgs": [[["K8S_POD_NAME"], "web"]]},
        {"cniArgs": [["K8S_POD_NAME", 7]]},
        {"cniArgs": [["K8S_POD_NAME", ""]]},
    ],
)
def test_what_says_no_name_is_passed_over(tmp_path: Path, document: object) -> None:
    assert runtimes.tasks(_keep(tmp_path, POD, document), [POD]) == {}
