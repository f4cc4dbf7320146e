"""Real etcd and ZooKeeper servers on loopback, for a test's duration."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: where, and as which process."""

    address: str
    process: "subprocess.Popen[bytes]"

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers any more when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        while any(_state(task) not in "TZX" for task in tasks.iterdir()):
            time.sleep(0.01)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


def _state(task: Path) -> str:
    """proc(5), the third field of `stat`; the second may hold anything."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextmanager
def _running(argv: list[str], port: int, folder: Path, environment: dict[str, str]) -> Iterator[Server]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
        )
    try:
        _until_listening(port, process, folder / "log")
        yield Server(f"127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _until_listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens on {port}: {log.read_text()[-2000:]}")


@contextmanager
def etcd(folder: Path) -> Iterator[Server]:
    """One etcd with an empty store in `folder`."""
    folder.mkdir(parents=True)
    client, peer = free_port(), free_port()
    argv = ["etcd", "--name", "one", "--data-dir", str(folder / "data")]
    argv += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
    argv += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
    argv += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
    argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
    argv += ["--initial-cluster", f"one=http://127.0.0.1:{peer}", "--logger", "zap"]
    with _running(argv, client, folder, {"ETCD_UNSUPPORTED_ARCH": ""}) as server:
        yield server


_JARS = "/usr/share/java"
_NOT_WANTED = ("slf4j-jcl", "log4j-over-slf4j", "slf4j-log4j12", "slf4j-nop", "jcl-over-slf4j")


@contextmanager
def zookeeper(folder: Path) -> Iterator[Server]:
    """One ZooKeeper with an empty store in `folder`; sessions may be as short as one second."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "zoo.cfg").write_text(
        f"tickTime=500\ndataDir={folder}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n"
    )
    names = ("zookeeper*", "slf4j-api*", "slf4j-simple*", "netty*", "snappy*", "metrics-core*", "commons-*")
    jars = sorted(
        {
            str(path)
            for name in names
            for path in Path(_JARS).glob(f"{name}.jar")
            if not path.name.startswith(_NOT_WANTED)
        }
    )
    argv = ["java", "-Xmx256m", "-cp", ":".join(jars)]
    argv += ["org.apache.zookeeper.server.ZooKeeperServerMain", str(folder / "zoo.cfg")]
    with _running(argv, port, folder, {}) as server:
        _until_serving(port)
        yield server


def _until_serving(port: int) -> None:
    """A session that is asked for between listening and serving may get no answer at all."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"srvr")
            if b"Mode:" in connection.makefile("rb").read():
                return
        time.sleep(0.05)
    raise AssertionError(f"ZooKeeper on {port} listens, and does not serve")
