"""Plans for what only the container sees: sysctls, resolv.conf, what a task is called by."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.plans.plan import Operation, Plan, documents, lacking, of_type, put
from cni_plugins.attach.policing import LABELS
from cni_plugins.kernel import sysctl
from cni_plugins.spec.mesos import merge
from cni_plugins.spec.result import Dns
from cni_plugins.spec.values import fold, parse_ip
from cni_plugins.steps import dns_file
from cni_plugins.steps.addresses import MINIMUM_MTU_OF_IPV6
from cni_plugins.steps.context import Context
from cni_plugins.steps.dns_file import DnsFile
from cni_plugins.steps.policy import PolicyChange, PolicyEndpoint
from cni_plugins.steps.sysctl import Sysctl

_LEAST = MINIMUM_MTU_OF_IPV6
#: Where a Mesos agent keeps the files that it mounts over /etc of a container, below MESOKIT_ROOT.
MESOS_FILES = ("/var/run/mesos/isolators/network/cni", "/run/mesos/isolators/network/cni")


def change_sysctls(made: Plan, changes: Changes, context: Context) -> None:
    document = of_type(made.config, "tuning")
    if document is None:
        made.problems.append(lacking("sysctl", "sets sysctls", "tuning"))
        return
    listed = dict(fold(document, "sysctl") or {})
    for name, value in changes.sysctls.items():
        path = name.replace("IFNAME", context.call.ifname, 1).translate(str.maketrans("./", "/."))
        if "/" in name:
            path = name.replace("IFNAME", context.call.ifname, 1)
        path = path.lstrip("/")
        if not path.startswith("net/") or any(part in {"", ".", ".."} for part in path.split("/")):
            made.problems.append(f"sysctl {name!r} is not one of the network's")
            continue
        path = path.removeprefix("net/")
        ours = [str(entry.address.ip) for entry in made.result.ips if entry.address.version == 6]
        if ours and value != "0" and path in _without_ipv6(context.call.ifname):
            made.problems.append(f"sysctl {name}={value}: it takes {', '.join(ours)} away: see addresses-=")
            continue
        if path == f"ipv6/conf/{context.call.ifname}/mtu" and value.isdigit() and int(value) < _LEAST:
            made.problems.append(f"sysctl {name}={value}: IPv6 has no packets below {_LEAST} (RFC 8200)")
            continue
        found = sysctl.read(context.inside, path)
        if found is None:
            made.problems.append(f"this kernel has no sysctl net/{path} in the container")
            continue
        old = next((item for item in made.steps if isinstance(item, Sysctl) and item.name == path), None)
        listed[name] = value
        if found.split() != value.split():
            made.switches.append(
                Operation(Sysctl(path, found, value), f"net/{path} {found.strip()} → {value}")
            )
        if old is not None:
            made.swap(old, replace(old, after=value))
        elif found.split() != value.split():
            made.add(Sysctl(path, found, value))
    put(document, "sysctl", listed)


def _without_ipv6(ifname: str) -> set[str]:
    return {f"ipv6/conf/{where}/disable_ipv6" for where in ("all", ifname)}


def change_dns(made: Plan, changes: Changes, context: Context) -> None:
    old = made.result.dns
    new = Dns(
        changes.dns.get("nameservers", old.nameservers),
        " ".join(changes.dns.get("domain", (old.domain,) if old.domain else ())),
        changes.dns.get("search", old.search),
        changes.dns.get("options", old.options),
    )
    made.problems += _unfit(new)
    if made.problems:
        return
    call = context.call
    for place in MESOS_FILES:
        path = str(call.roots.relocate(f"{place}/{call.container_id}/resolv.conf"))
        text = dns_file.read(path) if Path(path).exists() else None
        if text is None:
            continue
        after = resolv_conf(new)
        if after != text:
            step = DnsFile(path, text, after)
            effect = "no packet is lost; Java, nscd and glibc before 2.26 read it at their start only"
            made.switches.append(Operation(step, f"{path} written in place", effect))
        break
    else:
        made.problems.append(
            f"dns: no agent wrote a resolv.conf for container {call.container_id}: it uses the host's, or "
            "one of its runtime's, which are not ours to change"
        )
    made.result = replace(made.result, dns=new)
    document = next((item for item in documents(made.config) if fold(item, "ipam") is not None), made.config)
    listed = {
        "nameservers": list(new.nameservers),
        "search": list(new.search),
        "options": list(new.options),
    } | ({"domain": new.domain} if new.domain else {})
    put(document, "dns", {key: value for key, value in listed.items() if value})


def _unfit(dns: Dns) -> Iterator[str]:
    """What no resolver could read in its file."""
    if not dns.nameservers:
        yield "dns.nameservers names nobody: the container's resolver would ask 127.0.0.1"
    for item in dns.nameservers:
        try:
            parse_ip(item)
        except ValueError:
            yield f"dns.nameservers has {item!r}, which is not an address"
    words = {"domain": (dns.domain,) if dns.domain else (), "search": dns.search, "options": dns.options}
    for key, listed in words.items():
        for item in listed:
            if not item or any(not "!" <= char <= "~" for char in item):
                yield f"dns.{key} has {item!r}: a word of ASCII, other names in their xn-- form"


def resolv_conf(dns: Dns) -> str:
    """As a Mesos agent writes it."""
    lines = [f"domain {dns.domain}"] if dns.domain else []
    lines += [f"search {' '.join(dns.search)}"] if dns.search else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    lines += [f"nameserver {item}" for item in dns.nameservers]
    return "".join(f"{line}\n" for line in lines)


def change_labels(made: Plan, changes: Changes, context: Context) -> None:
    """Groups and labels of a Mesos task, in the record and, on a network with policy, for the policy. Of
    other runtimes' containers policy alone knows any.
    """
    args = fold(made.config, "args")
    own = args.get("org.apache.mesos") if isinstance(args, dict) else None
    info = fold(own, "network_info") if isinstance(own, dict) else None
    if not isinstance(info, dict):
        _tell_policy(made, changes)
        return
    if changes.groups is not None:
        put(info, "groups", list(changes.groups))
    if changes.labels:
        labels = fold(info, "labels")
        there = fold(labels, "labels") if isinstance(labels, dict) else None
        listed = [
            item
            for item in (there if isinstance(there, list) else [])
            if isinstance(item, dict) and fold(item, "key") not in changes.labels
        ]
        listed += [{"key": key, "value": value} for key, value in changes.labels.items()]
        put(info, "labels", {"labels": listed})
    _judge(made)


def _tell_policy(made: Plan, changes: Changes) -> None:
    """What a policy selects a container by that no Mesos agent attached."""
    endpoint = made.first(PolicyEndpoint)
    if endpoint is None:
        made.problems.append(
            "groups and labels: no Mesos agent attached this container, and its network has no `policy`, "
            "which alone would look at them"
        )
        return
    allowed = _allowed(made)
    for key in changes.labels.keys() - set(allowed):
        made.problems.append(f"labels.{key}: policyLabels of the network is {list(allowed)}: edit its file")
    groups = endpoint.groups if changes.groups is None else tuple(sorted(set(changes.groups)))
    labels = tuple(sorted({**dict(endpoint.labels), **changes.labels}.items()))
    _swap(made, endpoint, replace(endpoint, groups=groups, labels=labels))


def _allowed(made: Plan) -> tuple[str, ...]:
    """The labels that the operator lets policies select by."""
    document = next((item for item in documents(made.config) if fold(item, "policyLabels")), {})
    return tuple(LABELS.at(fold(document, "policyLabels") or [], "policyLabels"))


def _judge(made: Plan) -> None:
    """The endpoint with its new groups and labels; of those only what the operator lets a task set."""
    endpoint = made.first(PolicyEndpoint)
    _, info = merge(made.config)
    if endpoint is None or info is None:
        return
    groups = tuple(sorted(set(info.groups)))
    labels = tuple(sorted((key, info.labels[key]) for key in _allowed(made) if key in info.labels))
    _swap(made, endpoint, replace(endpoint, groups=groups, labels=labels))


def _swap(made: Plan, endpoint: PolicyEndpoint, new: PolicyEndpoint) -> None:
    if new != endpoint:
        effect = "flows that the policy does not allow any more end with it, no other"
        made.switches.append(Operation(PolicyChange(endpoint, new), "groups and labels of policy", effect))
        made.swap(endpoint, new)
