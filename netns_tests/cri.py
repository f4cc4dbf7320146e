"""A kubelet's side of the Container Runtime Interface, as far as networks go: containerd's sandboxes.

    with containerd(node, plugins) as cri:
        pod = cri.run("web", ports=[(8080, 80)])
        cri.address(pod)
        cri.stop(pod)
        cri.remove(pod)

Requests are gRPC frames that curl posts (HTTP/2 over the socket), their fields written by hand; numbers are
those of runtime.v1 (k8s.io/cri-api).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netns_tests.node import Node, NodeError, started, until

SOCKET = "/run/containerd/containerd.sock"
_IMAGE = "docker.io/library/pause:1"
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(data)) + data


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            one = data[at]
            at += 1
            value |= (one & 0x7F) << shift
            shift += 7
            if one < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        else:
            size = number()
            at += size
            yield tag >> 3, data[at - size : at]


def _within(data: bytes, *path: int) -> bytes | None:
    """The first field at `path`; None where there is none."""
    for number in path:
        found = next((value for name, value in _fields(data) if name == number), None)
        if not isinstance(found, bytes):
            return None
        data = found
    return data


@dataclass(frozen=True, slots=True)
class Cri:
    node: Node

    def call(self, method: str, request: bytes) -> bytes:
        """The answer to one call of the runtime service; NodeError with the status' message."""
        frame = b"\0" + struct.pack(">I", len(request)) + request
        argv = ["curl", "--silent", "--http2-prior-knowledge", "--unix-socket", SOCKET, "--dump-header"]
        argv += ["/tmp/cri.headers", "--header", "content-type: application/grpc", "--header", "te: trailers"]
        argv += ["--data-binary", "@-", f"http://localhost/runtime.v1.RuntimeService/{method}"]
        done = self.node.run(argv, input=frame)
        headers = self.node.path("/tmp/cri.headers").read_text().lower()
        if "grpc-status: 0" not in headers:
            raise NodeError(f"{method}: {headers}")
        return done.stdout[5:]

    def run(
        self,
        name: str,
        ports: Sequence[tuple[int, int]] = (),
        attempt: int = 0,
        annotations: Mapping[str, str] | None = None,
    ) -> str:
        """The id of a new pod's sandbox; `ports` are pairs of the host's and the pod's."""
        metadata = _field(1, name) + _field(2, f"uid-{name}") + _field(3, "default") + _field(4, attempt)
        config = _field(1, metadata) + _field(2, name) + _field(3, f"/tmp/{name}")
        for host, pod in ports:
            config += _field(5, _field(2, pod) + _field(3, host))
        for key, value in (annotations or {}).items():
            config += _field(7, _field(1, key) + _field(2, value))
        answer = _within(self.call("RunPodSandbox", _field(1, config)), 1)
        assert answer is not None
        return answer.decode()

    def address(self, sandbox: str) -> str:
        answer = _within(self.call("PodSandboxStatus", _field(1, sandbox)), 1, 5, 1)
        return (answer or b"").decode()

    def stop(self, sandbox: str) -> None:
        self.call("StopPodSandbox", _field(1, sandbox))

    def remove(self, sandbox: str) -> None:
        self.call("RemovePodSandbox", _field(1, sandbox))

    def ready(self) -> bool:
        """Whether it says that both itself and its network are ready."""
        status = _within(self.call("Status", b""), 1) or b""
        conditions = [dict(_fields(item)) for number, item in _fields(status) if isinstance(item, bytes)]
        return len(conditions) == 2 and all(condition.get(2) for condition in conditions)


def _archive() -> bytes:
    """An image of one program, as `docker save` writes it."""

    def packed(files: dict[str, tuple[bytes, int]]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, (content, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), mode
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()

    layer = packed({"bin/busybox": (Path("/bin/busybox").read_bytes(), 0o755)})
    config = {
        "architecture": _PROCESSORS.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [_IMAGE], "Layers": ["layer.tar"]}]
    return packed(
        {
            "layer.tar": (layer, 0o644),
            "config.json": (json.dumps(config).encode(), 0o644),
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
        }
    )


@contextmanager
def containerd(node: Node, folder: str, more: str = "") -> Iterator[Cri]:
    """containerd on one node, with the plugins of `folder` in /opt/cni/bin; `more` are tables of its
    configuration.
    """
    for path in Path(folder).iterdir():
        there = node.path(f"/opt/cni/bin/{path.name}")
        if not there.exists():
            there.symlink_to(path)
    node.path("/etc/containerd").mkdir(parents=True, exist_ok=True)
    node.path("/etc/containerd/config.toml").write_text(
        'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n'
        f'sandbox_image = "{_IMAGE}"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n'
        'disable_cgroup = false\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"\n'
        f"{more}"
    )
    node.path("/tmp/pause.tar").write_bytes(_archive())
    with started(node.popen(["containerd"])):
        until(node.path(SOCKET).is_socket, what="containerd listens")
        node.run(
            ["ctr", "--namespace", "k8s.io", "images", "import", "--snapshotter", "native", "/tmp/pause.tar"]
        )
        yield Cri(node)
