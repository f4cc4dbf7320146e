"""Policies and endpoints as JSON, for the state that attachments of this node work from."""

from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from cni_plugins.policy.model import Default, Endpoint, Peer, PeerKind, Policy, Rule, Selector, Traffic
from cni_plugins.spec.values import JsonObject


def of_policy(policy: Policy) -> JsonObject:
    document: JsonObject = {
        "name": policy.name,
        "for": _of_selector(policy.selector),
        "ingress": _of_rules(policy.ingress),
        "egress": _of_rules(policy.egress),
        "keep": policy.keep,
        "audit": policy.audit,
        "where": policy.where,
    }
    return document | {"untracked": policy.untracked} if policy.untracked else document


def _of_rules(rules: tuple[Rule, ...] | None) -> list[JsonObject] | None:
    if rules is None:
        return None
    return [
        {
            "allow": rule.allow,
            "traffic": [[item.protocol, item.low, item.high] for item in rule.traffic],
            "peers": [_of_peer(peer) for peer in rule.peers],
            "where": rule.where,
        }
        for rule in rules
    ]


def _of_peer(peer: Peer) -> JsonObject:
    document: JsonObject = {"kind": peer.kind.value}
    if peer.kind is PeerKind.ENDPOINTS:
        document["selector"] = _of_selector(peer.selector)
    if peer.cidr is not None:
        document |= {"cidr": str(peer.cidr), "except": [str(item) for item in peer.excepted]}
    return document


def _of_selector(selector: Selector) -> JsonObject:
    return {
        "network": selector.network,
        "groups": list(selector.groups),
        "labels": [list(item) for item in selector.labels],
        "container": selector.container,
    }


def policy(document: JsonObject) -> Policy:
    """KeyError, TypeError or ValueError for what `of_policy` did not write."""
    return Policy(
        document["name"],
        _selector(document["for"]),
        _rules(document["ingress"]),
        _rules(document["egress"]),
        document["keep"],
        document["audit"],
        document["where"],
        document.get("untracked", False),
    )


def _rules(listed: list[JsonObject] | None) -> tuple[Rule, ...] | None:
    if listed is None:
        return None
    return tuple(
        Rule(
            item["allow"],
            tuple(Traffic(*each) for each in item["traffic"]),
            tuple(_peer(each) for each in item["peers"]),
            item["where"],
        )
        for item in listed
    )


def _peer(document: JsonObject) -> Peer:
    kind = PeerKind(document["kind"])
    if kind is PeerKind.ENDPOINTS:
        return Peer(kind, _selector(document["selector"]))
    if kind is PeerKind.CIDR:
        excepted = tuple(ip_network(item) for item in document["except"])
        return Peer(kind, cidr=ip_network(document["cidr"]), excepted=excepted)
    return Peer(kind)


def _selector(document: JsonObject) -> Selector:
    labels: list[Any] = document["labels"]
    return Selector(
        document["network"],
        tuple(document["groups"]),
        tuple((key, value) for key, value in labels),
        document["container"],
    )


def of_endpoint(endpoint: Endpoint) -> JsonObject:
    document: JsonObject = {
        "network": endpoint.network,
        "container": endpoint.container,
        "ifname": endpoint.ifname,
        "addresses": [str(item) for item in endpoint.addresses],
        "subnets": [str(item) for item in endpoint.subnets],
        "groups": sorted(endpoint.groups),
        "labels": [list(item) for item in endpoint.labels],
        "default": endpoint.default.value,
        "link": endpoint.link,
        "port": endpoint.port,
        "bridged": endpoint.bridged,
    }
    if endpoint.inside:
        document |= {"netns": endpoint.netns, "netns_id": list(endpoint.netns_id)}
    return document


_subnet = lru_cache(256)(ip_network)  # hardly any endpoint has one of its own


def endpoint(document: JsonObject) -> Endpoint:
    """KeyError, TypeError or ValueError for what `of_endpoint` did not write."""
    return Endpoint(
        document["network"],
        document["container"],
        document["ifname"],
        tuple(ip_address(item) for item in document["addresses"]),
        tuple(_subnet(item) for item in document["subnets"]),
        frozenset(document["groups"]),
        tuple((key, value) for key, value in document["labels"]),
        Default(document["default"]),
        document["link"],
        document["port"],
        document["bridged"],
        document.get("netns", ""),
        tuple(document.get("netns_id", ())),
    )
