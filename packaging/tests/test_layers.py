"""Dependencies point downwards only: each layer may import itself and the layers named for it.

The tables are the layer lists of the rooms' READMEs, written as what each may know. Imports are read from the
source, those inside functions included, so a lazy import is no way around a rule.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

Rules = dict[str, frozenset[str] | None]

TOP = Path(__file__).resolve().parents[2]

EXECUTOR_ORDER = (
    "eventloop",
    "http1",
    "protocol",
    "process",
    "output",
    "task",
    "checks",
    "config",
    "logs",
    "transport",
    "app",
    "monitoring",
    "bootstrap",
    "main",
)
CNI_ORDER = (
    "spec", "kernel", "store", "policy", "dhcp", "steps", "attach", "plugins", "chain", "view", "node", "cli"
)  # fmt: skip

# What a layer may import beside itself. `None` stands for every layer before it in the order above.
EXECUTOR_RULES: Rules = {
    "eventloop": frozenset(),
    "http1": frozenset(),
    "logs": frozenset({"config", "output"}),
    "protocol": frozenset(),
    "process": frozenset({"eventloop"}),
    "output": frozenset({"eventloop", "process"}),
    "task": frozenset({"protocol"}),
    "checks": frozenset({"eventloop", "http1", "process", "task"}),
    # Progress patterns are checked where all settings are, by the layer that understands them.
    "config": frozenset({"protocol", "output"}),
    "transport": frozenset({"http1", "protocol", "config"}),
    # The one-machine agent stands on the other side of the wire: it shares the codec, and durations as text.
    "local_agent": frozenset({"http1", "protocol", "config"}),
    # A framework is a third party on the wire: it shares what bytes mean, and durations as text,
    # and libprocess' rules of TLS.
    "framework": frozenset({"http1", "protocol", "config", "local_agent", "transport"}),
}
CNI_RULES: Rules = {
    "spec": frozenset(),
    # The kernel knows errors and namespaces of spec, but never reads a configuration.
    "kernel": frozenset({"spec"}),
    "store": frozenset({"spec"}),
    "dhcp": frozenset({"spec", "kernel", "store"}),
    # Pure: files in, a table of sets out.
    "policy": frozenset({"spec"}),
}
FORBIDDEN_IN_KERNEL = ("cni_plugins.spec.config", "cni_plugins.spec.call", "cni_plugins.spec.dispatch")


@cache
def imports(path: Path) -> list[str]:
    found: list[str] = []
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.append(statement.module)
            found += [f"{statement.module}.{alias.name}" for alias in statement.names]
    return found


def sources(room: str) -> list[Path]:
    return [
        path
        for path in sorted((TOP / room).rglob("*.py"))
        if "tests" not in path.parts and path.name != "conftest.py"
    ]


def layer_of(room: str, path: Path) -> str:
    return path.relative_to(TOP / room).parts[0].removesuffix(".py")


def layers_below(name: str, order: tuple[str, ...], rules: Rules) -> frozenset[str]:
    allowed = rules.get(name)
    if allowed is not None:
        return allowed | {name}
    return frozenset(order[: order.index(name) + 1]) if name in order else frozenset(order) | {name}


@pytest.mark.parametrize(
    ("room", "order", "rules"),
    [("executor", EXECUTOR_ORDER, EXECUTOR_RULES), ("cni_plugins", CNI_ORDER, CNI_RULES)],
)
def test_layers_know_only_what_is_below(room: str, order: tuple[str, ...], rules: Rules) -> None:
    wrong = []
    for path in sources(room):
        mine = layer_of(room, path)
        allowed = layers_below(mine, order, rules)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == room and len(parts) > 1 and parts[1] not in allowed:
                wrong.append(f"{path.relative_to(TOP)} imports {name}")
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize(("room", "order"), [("executor", EXECUTOR_ORDER), ("cni_plugins", CNI_ORDER)])
def test_every_layer_is_named(room: str, order: tuple[str, ...]) -> None:
    folders = {path.parent.name for path in (TOP / room).glob("*/__init__.py")}
    assert folders - {"tests", "local_agent", "framework"} <= set(order)


def test_executor_and_plugins_meet_only_in_the_commands() -> None:
    wrong = [
        f"{path.relative_to(TOP)} imports {name}"
        for room, other in (("executor", "cni_plugins"), ("cni_plugins", "executor"))
        for path in sources(room)
        for name in imports(path)
        if name.split(".")[0] == other and layer_of(room, path) != "cli"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_kernel_never_reads_a_configuration() -> None:
    wrong = [
        f"{path.relative_to(TOP)} imports {name}"
        for path in sources("cni_plugins/kernel")
        for name in imports(path)
        if name.startswith(FORBIDDEN_IN_KERNEL)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_kernel_opens_netlink() -> None:
    wrong = [
        f"{path.relative_to(TOP)} imports {name}"
        for path in sources("cni_plugins")
        for name in imports(path)
        if name.split(".")[0] == "pyroute2" and layer_of("cni_plugins", path) != "kernel"
    ]
    assert not wrong, "\n".join(wrong)


def test_shipped_code_never_imports_tests() -> None:
    wrong = [
        f"{path.relative_to(TOP)} imports {name}"
        for room in ("executor", "cni_plugins")
        for path in sources(room)
        for name in imports(path)
        if "tests" in name.split(".") or name.split(".")[0] in ("netns_tests", "pytest", "hypothesis")
    ]
    assert not wrong, "\n".join(wrong)
