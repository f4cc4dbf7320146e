"""The short form of a task: the application document that schedulers take from people, as the talk shows it.

`name, instances, resources{cpu,mem,disk{size}}, command{cmd,uris,environment}, container{network[{name,…}]},
healthcheck, labels`; `filters`, `retry` and `strategy` speak to a scheduler and are only checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesos.v1 import mesos_pb2

from executor.local_agent.shapes import Flag, ListOf, MapOf, Number, Object, Text, faults_of
from executor.local_agent.validation import DescriptionError, Fault, Json, fault, missing

_PORT = Number(1, 65535, whole=True)
_PROTOCOL = Text(("IPv4", "IPv6"))

APPLICATION = Object(
    {
        "name": Text(),
        "instances": Number(1, 1000, whole=True),
        "resources": Object(
            {
                "cpu": Number(),
                "mem": Number(),
                "disk": Object({"size": Number(), "source": Object({"type": Text(("path", "mount"))})}),
                "role": Text(),
            }
        ),
        "command": Object(
            {
                "cmd": Text(),
                "uris": ListOf(Object({"uri": Text(), "extract": Flag(), "execute": Flag()}, ("uri",))),
                "environment": MapOf(Text()),
            },
            ("cmd",),
        ),
        "container": Object(
            {
                "type": Text(("mesos", "docker")),
                "image": Text(),
                "tag": Text(),
                "network": ListOf(
                    Object(
                        {
                            "name": Text(),
                            "group": ListOf(Text()),
                            "labels": MapOf(Text()),
                            "ipaddress": ListOf(Object({"ip": Text(), "protocol": _PROTOCOL})),
                            "port_mapping": ListOf(
                                Object(
                                    {
                                        "host_port": _PORT,
                                        "container_port": _PORT,
                                        "protocol": Text(("tcp", "udp", "sctp")),
                                    },
                                    ("host_port", "container_port"),
                                )
                            ),
                        },
                        ("name",),
                    )
                ),
                "volume": ListOf(
                    Object(
                        {"container_path": Text(), "host_path": Text(), "mode": Text(("RW", "RO"))},
                        ("container_path", "host_path"),
                    )
                ),
            }
        ),
        "healthcheck": Object(
            {
                "type": Text(("tcp", "http", "command")),
                "delay": Number(),
                "interval": Number(),
                "timeout": Number(),
                "fails": Number(0, 2**32 - 1, whole=True),
                "graceperiod": Number(),
                "http": Object(
                    {
                        "scheme": Text(("http", "https")),
                        "port": _PORT,
                        "path": Text(),
                        "protocol": _PROTOCOL,
                        "statuses": ListOf(Number(100, 599, whole=True)),
                    },
                    ("port",),
                ),
                "tcp": Object({"port": _PORT, "protocol": _PROTOCOL}, ("port",)),
                "command": Object({"cmd": Text()}, ("cmd",)),
            },
            ("type",),
        ),
        "labels": MapOf(Text()),
        "filters": ListOf(Object({"type": Text(), "value": ListOf(Text())})),
        "retry": Object({"time": Text(), "exp_backoff": Flag(), "total_retries": Number(whole=True)}),
        "strategy": Object({"type": Text(("unique", "mux", "non-mux")), "effort": Text()}),
    },
    ("name", "command"),
)


def read_application(document: Json, source: str, key: str = "") -> list[mesos_pb2.TaskInfo]:
    """The tasks of one application, `instances` of them. Raises DescriptionError with every fault in it."""
    faults = faults_of(document, APPLICATION, key)
    if not faults:
        faults = list(_further_faults(document, f"{key}." if key else ""))
    if faults:
        raise DescriptionError(source, faults)
    instances = document.get("instances") or 1
    name = document["name"]
    names = [name] if instances == 1 else [f"{name}-{number + 1}" for number in range(instances)]
    return [_task(document, name) for name in names]


def _further_faults(document: Json, prefix: str) -> Iterator[Fault]:
    container = document.get("container") or {}
    if container.get("image"):
        yield fault(
            f"{prefix}container.image", container["image"], "no image: tasks run on this host's files"
        )
    if (container.get("type") or "mesos").lower() == "docker":
        yield fault(f"{prefix}container.type", container["type"], '"mesos"')
    check = document.get("healthcheck")
    if check and not check.get(check["type"].lower()):
        kind = check["type"].lower()
        yield missing(f"{prefix}healthcheck.{kind}", f'an object, as healthcheck.type is "{check["type"]}"')
    yield from health_check_faults(check or {}, f"{prefix}healthcheck")


def health_check_faults(check: Json, key: str) -> Iterator[Fault]:
    """What a master refuses of a health check that has its shape."""
    path = (check.get("http") or {}).get("path")
    if path is not None and not path.startswith("/"):
        yield fault(f"{key}.http.path", path, "a path that begins with /")


def _task(document: Json, name: str) -> mesos_pb2.TaskInfo:
    task = mesos_pb2.TaskInfo(name=document["name"], task_id=mesos_pb2.TaskID(value=name))
    task.resources.extend(_resources(document.get("resources") or {}))
    task.command.CopyFrom(_command(document["command"]))
    if document.get("container"):
        task.container.CopyFrom(container_info(document["container"]))
    if document.get("healthcheck"):
        task.health_check.CopyFrom(health_check(document["healthcheck"]))
    if document.get("labels"):
        task.labels.CopyFrom(_labels(document["labels"]))
    return task


def _resources(document: Json) -> Iterator[mesos_pb2.Resource]:
    disk = (document.get("disk") or {}).get("size")
    for name, amount in (("cpus", document.get("cpu")), ("mem", document.get("mem")), ("disk", disk)):
        if amount is not None:
            scalar = mesos_pb2.Value.Scalar(value=amount)
            yield mesos_pb2.Resource(name=name, type=mesos_pb2.Value.SCALAR, scalar=scalar)


def _command(document: Json) -> mesos_pb2.CommandInfo:
    command = mesos_pb2.CommandInfo(value=document["cmd"])
    for uri in document.get("uris") or ():
        command.uris.add(
            value=uri["uri"], extract=uri.get("extract") is not False, executable=bool(uri.get("execute"))
        )
    for name, value in (document.get("environment") or {}).items():
        command.environment.variables.add(name=name, value=value)
    return command


def container_info(document: Json) -> mesos_pb2.ContainerInfo:
    """The message for `container` of the short form, which has been checked."""
    container = mesos_pb2.ContainerInfo(type=mesos_pb2.ContainerInfo.MESOS)
    for network in document.get("network") or ():
        info = container.network_infos.add(name=network["name"], groups=network.get("group") or ())
        if network.get("labels"):
            info.labels.CopyFrom(_labels(network["labels"]))
        for address in network.get("ipaddress") or ():
            wanted = info.ip_addresses.add()
            if address.get("ip"):
                wanted.ip_address = address["ip"]
            if address.get("protocol"):
                wanted.protocol = _protocol(address["protocol"])
        for mapping in network.get("port_mapping") or ():
            info.port_mappings.add(**{name: value for name, value in mapping.items() if value is not None})
    for volume in document.get("volume") or ():
        read_only = (volume.get("mode") or "RW").upper() == "RO"
        container.volumes.add(
            container_path=volume["container_path"],
            host_path=volume["host_path"],
            mode=mesos_pb2.Volume.RO if read_only else mesos_pb2.Volume.RW,
        )
    return container


def health_check(document: Json) -> mesos_pb2.HealthCheck:
    """The message for `healthcheck` of the short form, which has been checked."""
    kind = document["type"].lower()
    check = mesos_pb2.HealthCheck(type=kind.upper())
    if kind == "http":
        for name, value in document["http"].items():
            if name == "statuses":
                check.http.statuses.extend(value or ())
            elif name == "protocol" and value:
                check.http.protocol = _protocol(value)
            elif name == "scheme" and value:
                check.http.scheme = value.lower()  # a master knows http and https, and no other case
            elif value is not None:
                setattr(check.http, name, value)
    elif kind == "tcp":
        check.tcp.port = document["tcp"]["port"]
        if document["tcp"].get("protocol"):
            check.tcp.protocol = _protocol(document["tcp"]["protocol"])
    else:
        check.command.value = document["command"]["cmd"]
    for ours, theirs in (
        ("delay", "delay_seconds"),
        ("interval", "interval_seconds"),
        ("timeout", "timeout_seconds"),
        ("fails", "consecutive_failures"),
        ("graceperiod", "grace_period_seconds"),
    ):
        if document.get(ours) is not None:
            setattr(check, theirs, document[ours])
    return check


def _protocol(text: str) -> mesos_pb2.NetworkInfo.Protocol:
    return mesos_pb2.NetworkInfo.IPv6 if text.lower() == "ipv6" else mesos_pb2.NetworkInfo.IPv4


def _labels(document: Json) -> mesos_pb2.Labels:
    return mesos_pb2.Labels(labels=[mesos_pb2.Label(key=key, value=value) for key, value in document.items()])
