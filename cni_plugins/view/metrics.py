"""The node's state as metrics, in Prometheus' text format: attachments by state, pools, what is stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from cni_plugins.view.node import Node
from cni_plugins.view.pools import Pool


def prometheus(node: Node, pools: Iterable[Pool]) -> str:
    return "".join(f"{line}\n" for line in (*_attachments(node), *_pools(pools)))


def _attachments(node: Node) -> Iterator[str]:
    yield "# HELP mesokit_attachments Attachments of this node, by network and state."
    yield "# TYPE mesokit_attachments gauge"
    counts = Counter((item.network, node.state(item).value) for item in node.attachments)
    for (network, state), count in sorted(counts.items()):
        yield f'mesokit_attachments{{network="{_safe(network)}",state="{state}"}} {count}'
    yield "# HELP mesokit_attachments_differing Attachments that are not as their network's file is now."
    yield "# TYPE mesokit_attachments_differing gauge"
    differing = Counter(item.network for item in node.attachments if node.difference(item) is not None)
    for network in sorted({item.network for item in node.attachments}):
        yield f'mesokit_attachments_differing{{network="{_safe(network)}"}} {differing[network]}'


def _pools(pools: Iterable[Pool]) -> Iterator[str]:
    yield "# HELP mesokit_pool_addresses Addresses of a range set, by what they are."
    yield "# TYPE mesokit_pool_addresses gauge"
    for pool in pools:
        if not pool.size:
            continue
        labels = f'network="{_safe(pool.network)}",subnet="{",".join(pool.subnets)}"'
        yield f'mesokit_pool_addresses{{{labels},state="used"}} {pool.used}'
        yield f'mesokit_pool_addresses{{{labels},state="free"}} {pool.free}'


def _safe(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
