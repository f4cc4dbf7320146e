"""GC takes what nobody holds, and nothing that an ADD is making meanwhile."""

import threading
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel.nft import elements

BRIDGE: dict[str, Any] = {
    "cniVersion": "1.1.0",
    "name": "n",
    "type": "bridge",
    "bridge": "br0",
    "isDefaultGateway": True,
    "ipMasq": True,
    "macspoofchk": True,
    "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
}
MAPPINGS = [{"hostPort": 8080, "containerPort": 80}]
PORTMAP = {
    **{key: BRIDGE[key] for key in ("cniVersion", "name")},
    "type": "portmap",
    "runtimeConfig": {"portMappings": MAPPINGS},
    "delegate": BRIDGE,
}
NOBODY: dict[str, Any] = {"cni.dev/valid-attachments": []}


@pytest.mark.parametrize("conf", [BRIDGE, PORTMAP], ids=["bridge", "portmap"])
def test_gc_spares_what_an_add_makes_meanwhile(
    world: World, conf: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C5. Another container is attached while GC looks at the elements: it is on no list of GC's."""
    world.add(conf | NOBODY, "c1")
    world.box("c2")
    listed, results = elements.listed, []

    def add() -> None:
        results.append(world.call("ADD", conf | {"runtimeConfig": {}}, "c2"))

    thread = threading.Thread(target=add)

    def late(*args: Any) -> Any:
        if not thread.ident:
            thread.start()
            thread.join(1)  # it comes through, or waits for GC
        return listed(*args)

    monkeypatch.setattr(elements, "listed", late)
    assert world.call("GC", conf | NOBODY).status == 0
    thread.join(30)
    (answer,) = results
    assert answer.status == 0, answer.document
    checked = world.call("CHECK", conf | {"runtimeConfig": {}, "prevResult": answer.document}, "c2")
    assert checked.status == 0, checked.document
    assert len(world.records()) == 1
    assert world.call("GC", conf | NOBODY).status == 0
    assert world.links() == ["lo"]


def test_gc_beside_adds_and_deletes_loses_nothing(world: World) -> None:
    """C5. GC in a loop, its list empty, beside containers that come, are checked, and go."""
    wrong: list[Any] = []
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            answer = world.call("GC", BRIDGE | {"cni.dev/valid-attachments": kept})
            if answer.status:
                wrong.append(answer.document)

    def attach(number: int) -> None:
        for turn in range(8):
            name = f"b{number}-{turn}"
            kept.append({"containerID": name, "ifname": "eth0"})
            result = world.add(BRIDGE, name)
            answer = world.call("CHECK", BRIDGE | {"prevResult": result}, name)
            if answer.status:
                wrong.append((name, answer.document))
            world.delete(BRIDGE, name)

    kept: list[dict[str, str]] = []
    collector = threading.Thread(target=collect)
    workers = [threading.Thread(target=attach, args=(number,)) for number in range(4)]
    collector.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    collector.join()
    assert not wrong
    assert world.links() == ["lo"]
    assert not world.reserved("n")
