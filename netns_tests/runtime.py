"""A container runtime's side of CNI, as libcni does it, for lists of plugins and for single ones.

    config = network([{"type": "bridge", ...}, {"type": "portmap", ...}])
    attachment = Attachment(node, "/opt/cni/bin", config, "c1", box)
    answer = attachment.add()          # forward, each plugin given the result before it
    attachment.check()
    attachment.delete()                # backward, each given the final result

The first failing plugin's answer is returned, as libcni does; nothing is rolled back by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netns_tests.node import Answer, Netns, Node, NodeError


def network(
    plugins: Sequence[Mapping[str, Any]], *, name: str = "net", version: str | None = "1.0.0"
) -> dict[str, Any]:
    """A network configuration list; `version` None leaves `cniVersion` out."""
    document: dict[str, Any] = {"name": name, "plugins": [dict(plugin) for plugin in plugins]}
    if version is not None:
        document["cniVersion"] = version
    return document


@dataclass(slots=True)
class Attachment:
    """One container's interface on one network. `capabilities` are the runtime's arguments (portMappings,
    ips, mac, …): a plugin receives those that its configuration declares under `capabilities`. `result` is
    the final ADD result."""

    node: Node
    folder: str
    config: Mapping[str, Any]
    cid: str
    box: Netns | None
    ifname: str = "eth0"
    args: str | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None

    def _document(self, plugin: Mapping[str, Any], previous: dict[str, Any] | None) -> dict[str, Any]:
        document = {key: value for key, value in plugin.items() if key != "capabilities"}
        document["name"] = self.config["name"]
        if "cniVersion" in self.config:
            document["cniVersion"] = self.config["cniVersion"]
        declared = plugin.get("capabilities", {})
        runtime = {key: value for key, value in self.capabilities.items() if declared.get(key)}
        if runtime:
            document["runtimeConfig"] = runtime
        if previous is not None:
            document["prevResult"] = previous
        return document

    def _call(self, verb: str, plugin: Mapping[str, Any], previous: dict[str, Any] | None) -> Answer:
        return self.node.cni(
            verb,
            f"{self.folder}/{plugin['type']}",
            self._document(plugin, previous),
            self.cid,
            self.box,
            ifname=self.ifname,
            args=self.args,
        )

    def _plugins(self) -> list[Mapping[str, Any]]:
        plugins: list[Mapping[str, Any]] = self.config["plugins"]
        return plugins

    def add(self) -> Answer:
        result: dict[str, Any] | None = None
        for plugin in self._plugins():
            answer = self._call("ADD", plugin, result)
            if answer.error is not None:
                return answer
            result = answer.ok()
        self.result = result
        return answer

    def check(self) -> Answer:
        for plugin in self._plugins():
            answer = self._call("CHECK", plugin, self.result)
            if answer.error is not None:
                break
        return answer

    def delete(self, *, previous: bool = True) -> Answer:
        """`previous` false leaves prevResult out, as Mesos does."""
        for plugin in reversed(self._plugins()):
            answer = self._call("DEL", plugin, self.result if previous else None)
            if answer.error is not None:
                break
        return answer

    def collect(self, valid: Sequence[tuple[str, str]]) -> Answer:
        """GC: every attachment of the network but `valid` ones (container id, interface) is to be removed."""
        for plugin in self._plugins():
            document = self._document(plugin, None)
            document["cni.dev/valid-attachments"] = [
                {"containerID": cid, "ifname": name} for cid, name in valid
            ]
            folder = f"{self.folder}/{plugin['type']}"
            answer = self.node.cni("GC", folder, document, ifname="")
            if answer.error is not None:
                break
        return answer


def attach(
    node: Node, folder: str, config: Mapping[str, Any], cid: str, box: Netns, **more: Any
) -> Attachment:
    """Adds; raises NodeError when that fails."""
    attachment = Attachment(node, folder, config, cid, box, **more)
    answer = attachment.add()
    if answer.error is not None:
        raise NodeError(f"ADD of {cid}: {answer.error} {answer.finished.stderr.decode()[-2000:]}")
    return attachment
