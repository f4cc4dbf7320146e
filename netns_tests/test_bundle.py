"""What packaging/build makes runs where nothing else is: in an empty root file system, read-only, noexec,
without HOME and locale, for a user that nobody knows.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.protocol import Encoding
from executor.tests.scenarios.events import kill, launch, task
from executor.tests.scenarios.processes import alive, wait_until
from executor.tests.scenarios.scene import Scene
from netns_tests.load import bridge
from netns_tests.node import Finished, Node, answer, started, until
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_crash import DHCP_SERVER, LEASE, NET, PREFIX_SERVER, SCENARIOS, SETUP, make_box

pytestmark = pytest.mark.timeout(900)  # the first of them builds
TOP = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Dist:
    """The products, and the archives unpacked: `executor` is the directory form's program, `plugins` a plugin
    directory."""

    folder: Path
    one_file: Path
    executor: Path
    plugins: Path
    package: Path


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Dist:
    folder = tmp_path_factory.mktemp("dist")
    unpack(built / "mesokit-executor.tar.gz", folder)
    unpack(built / "mesokit-cni.tar.gz", folder / "plugins")
    shutil.copy(built / "mesokit-executor", folder / "one-file")
    (package,) = built.glob("*.deb")
    executor = folder / "mesokit-executor/mesokit-executor"
    return Dist(folder, folder / "one-file", executor, folder / "plugins", package)


def unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(archive) as opened:
        opened.extractall(folder)


@pytest.fixture
def empty_root(node: Node, dist: Dist) -> str:
    """A root file system of a static busybox and our two directories, read-only; /run and /sandbox can be
    written, /tmp is noexec."""
    node.shell(
        "mkdir /run/root && mount -t tmpfs none /run/root && cd /run/root\n"
        "mkdir -p bin opt/cni/bin opt/executor proc run var/lib/cni var/lib/mesokit tmp sandbox\n"
        "cp /usr/bin/busybox bin/busybox && ln -s busybox bin/sh\n"
        f"cp -a {dist.plugins}/. opt/cni/bin && cp -a {dist.executor.parent}/. opt/executor\n"
        "for at in run var/lib/cni var/lib/mesokit sandbox; do mount -t tmpfs none $at || exit 1; done\n"
        "mount -t tmpfs -o noexec none tmp\n"
        "chmod 1777 sandbox\n"
        "mount -o remount,ro,bind /run/root 2>/dev/null || mount -o remount,ro /run/root\n"
    )
    return "/run/root"


def inside(root: str, *argv: str, user: int = 0) -> list[str]:
    return ["/usr/sbin/chroot", f"--userspec={user}:{user}", root, *argv]


def bare(node: Node, argv: Sequence[str], **more: Any) -> Finished:
    """With an empty environment, except for what is given."""
    return node.run(argv, bare=True, check=False, **more)


@pytest.mark.parametrize("user", [0, 54321])
def test_commands_in_an_empty_root(node: Node, empty_root: str, user: int) -> None:
    """Without /proc, without variables."""
    for argv in (
        ["/opt/executor/mesokit-executor", "--version"],
        ["/opt/executor/mesokit-executor", "--help"],
        ["/opt/cni/bin/mesokit", "--version"],
        ["/opt/cni/bin/mesokit", "--help"],
        ["/opt/cni/bin/mesokit", "cni", "--help"],
    ):
        finished = bare(node, inside(empty_root, *argv, user=user))
        assert finished.status == 0, finished
        assert finished.stdout, finished
        assert not finished.stderr, finished
    finished = bare(
        node, inside(empty_root, "/opt/cni/bin/bridge", user=user), env={"CNI_COMMAND": "VERSION"}
    )
    assert "1.1.0" in answer(finished).ok()["supportedVersions"]


FRAMEWORK = "--fake-master --store /run/framework.db --listen 127.0.0.1:8080"


def test_policy_files_and_the_framework_need_no_python_of_the_host(node: Node, empty_root: str) -> None:
    """YAML, SQLite, the web server and the master are in the bundle too."""
    policy = node.path(f"{empty_root}/run/policy.d")
    policy.mkdir()
    (policy / "web.yaml").write_text("policies:\n- name: web\n  colour: red\n")
    told = bare(node, inside(empty_root, "/opt/cni/bin/mesokit", "policy", "check", "/run/policy.d"))
    assert told.status and "web.yaml:3" in told.stderr.decode() and "colour" in told.stderr.decode()
    words = ["/opt/cni/bin/mesokit", "framework", *FRAMEWORK.split()]
    with started(node.popen(inside(empty_root, *words), bare=True)) as running:
        env = {"MESOKIT_FRAMEWORK": "http://127.0.0.1:8080"}
        listing = inside(empty_root, "/opt/cni/bin/mesokit", "app", "ls", "--json")
        until(lambda: running.ended() or not bare(node, listing, env=env).status, what="an answer")
        assert not running.ended(), running.errors()


CONF = bridge(ipam={"type": "host-local", "subnet": "10.9.0.0/24"})


@pytest.mark.parametrize("way", ["one-shot", "service"])
def test_plugins_in_an_empty_root(node: Node, empty_root: str, way: str) -> None:
    """A whole attachment with masquerade: libnftables is in the bundle."""
    node.shell(f"mount -t proc none {empty_root}/proc; mkdir {empty_root}/run/netns")
    box = node.netns("c1")
    node.shell(f"touch {empty_root}/run/netns/c1; mount --bind /run/netns/c1 {empty_root}/run/netns/c1")
    variables = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
    variables["CNI_PATH"] = "/opt/cni/bin"

    def call(verb: str, **more: Any) -> dict[str, Any]:
        argv = inside(empty_root, "/opt/cni/bin/bridge")
        env = {**variables, "CNI_COMMAND": verb}
        return answer(bare(node, argv, input=json.dumps({**CONF, **more}), env=env)).ok()

    def attach_and_detach() -> None:
        result = call("ADD")
        assert result["ips"][0]["address"] == "10.9.0.2/24"
        assert box.json("ip", "-j", "-4", "addr", "show", "eth0")[0]["addr_info"][0]["local"] == "10.9.0.2"
        assert "masquerade" in node.run(["nft", "list", "ruleset"]).text
        call("CHECK", prevResult=result)
        call("DEL")
        assert node.run(["ip", "link", "show", "br0"], check=False).status != 0

    if way == "one-shot":
        attach_and_detach()
        return
    with started(node.popen(inside(empty_root, "/opt/cni/bin/mesokit", "node"), bare=True)) as running:
        socket = node.path(f"{empty_root}/run/mesokit/node.sock")
        until(lambda: running.errors() or socket.is_socket(), what="the service listens")
        assert not running.errors()
        attach_and_detach()
        shown = bare(node, inside(empty_root, "/opt/cni/bin/mesokit", "node", "status", "--json"))
        assert {row["verb"] for row in json.loads(shown.stdout)["calls"]} == {"ADD", "CHECK", "DEL"}


#: The service's own process for leases, which the first of them starts, and what says which it is.
LEASES = (
    r"process \d+ \S*/mesokit-cni\.d/.*mesokit node = ",
    r"file /var/lib/mesokit/leases/default/\.daemon ",
)


@pytest.mark.parametrize("way", ["one-shot", "service"])
def test_everything_that_plugins_can_do(node: Node, dist: Dist, way: str) -> None:
    """The fullest configuration of every plugin finds all its modules in the bundle."""
    node.uplink()
    node.path("/etc/subnet.env").write_text(LEASE)
    node.shell(SETUP["host-device"])
    node.shell(DHCP_SERVER)
    _live(node, dist, way, sorted(SCENARIOS.keys() - {"prefix"}))


@pytest.mark.parametrize("way", ["one-shot", "service"])
def test_a_prefix_that_a_router_delegates(node: Node, dist: Dist, way: str) -> None:
    node.uplink()
    node.shell(PREFIX_SERVER)
    _live(node, dist, way, ["prefix"])


def _live(node: Node, dist: Dist, way: str, scenarios: Sequence[str]) -> None:
    """Every verb in each, and nothing left."""
    box = make_box(node)
    words = ["node"] if way == "service" else ["dhcp"]
    with started(node.popen([str(dist.plugins / "mesokit"), *words])):
        name = "node.sock" if way == "service" else "dhcp.sock"
        until(node.path(f"/run/mesokit/{name}").is_socket, what="it listens")
        before = snapshot(node, [box])
        for name in scenarios:
            conf = {**NET, **SCENARIOS[name]}
            plugin = dist.plugins / conf["type"]
            result = node.cni("ADD", plugin, conf, "c1", box).ok()
            node.cni("CHECK", plugin, {**conf, "prevResult": result}, "c1", box).ok()
            node.cni("DEL", plugin, conf, "c1", box).ok()
            node.cni("GC", plugin, {**conf, "cni.dev/valid-attachments": []}).ok()
            assert_clean(node, before, name, boxes=[box], allowed=LEASES)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    stage = Scene(Encoding.PROTOBUF)
    yield stage
    stage.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["one_file", "executor"])
def test_the_executor_and_the_environment_of_its_task(
    scene: Scene, dist: Dist, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scenario 86, from the bundle: nothing of PyInstaller, our fronts or their loader reaches a task."""
    monkeypatch.setenv("MESOKIT_EXECUTOR", str(getattr(dist, form)))
    agent = scene.agent()
    executor = scene.start(agent, {"LD_LIBRARY_PATH": "/mine", "MARK": "a b"})
    agent.send(launch(task("t", "env -0 >env; ls -a >ls; cat /proc/self/maps >maps")))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0
    pairs = [pair.partition("=") for pair in scene.path("env").read_text().split("\0")[:-1]]
    environment = {name: value for name, _, value in pairs}
    assert environment["LD_LIBRARY_PATH"] == "/mine"
    assert environment["MARK"] == "a b"
    assert environment["MESOS_SANDBOX"] == str(scene.sandbox)
    strange = [name for name in environment if "MEI" in name or "PYI" in name or name.endswith("_ORIG")]
    assert not strange
    assert "_MEI" not in scene.path("maps").read_text()
    assert not [name for name in names(scene.sandbox) if name.startswith("_MEI")]


def test_one_file_killed_at_once_leaves_nothing_running(
    scene: Scene, dist: Dist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that the agent knows is the boot loader's: killed with -9, executor and task end with it,
    and what it unpacked lies in the sandbox, nowhere else."""
    monkeypatch.setenv("MESOKIT_EXECUTOR", str(dist.one_file))
    before = names(Path("/tmp")) | names(Path("/var/tmp"))
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "echo $$ >pid.new; mv pid.new pid; exec sleep 1000")))
    agent.wait_state("t", "RUNNING")
    wait_until(scene.path("pid").exists, "the task runs")
    pid, child = int(scene.path("pid").read_text()), executor.pid
    assert child != executor.process.pid
    executor.process.kill()
    executor.process.wait()
    wait_until(lambda: not alive(pid) and not alive(child), "executor and task have ended")
    left = (names(Path("/tmp")) | names(Path("/var/tmp"))) - before
    assert not [name for name in left if name.startswith("_MEI")]
    assert [name for name in names(scene.sandbox) if name.startswith("_MEI")]


def test_one_file_is_stopped_by_the_signal_an_agent_sends(
    scene: Scene, dist: Dist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to the whole group reaches the executor once from the kernel and once from the boot loader."""
    monkeypatch.setenv("MESOKIT_EXECUTOR", str(dist.one_file))
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 1000")))
    agent.wait_state("t", "RUNNING")
    agent.send(kill("t"))
    agent.wait_final("t")
    assert executor.wait_exit() == 0
    assert not [name for name in names(scene.sandbox) if name.startswith("_MEI")]


@pytest.mark.parametrize("form", ["one_file", "executor"])
def test_hostile_surroundings(node: Node, dist: Dist, form: str) -> None:
    """Scenario 85: /tmp read-only and noexec, the root read-only, no HOME, no LANG, an unknown user."""
    node.shell("mkdir /run/box && chmod 777 /run/box && mount -t tmpfs -o noexec,ro none /tmp")
    program = f"/run/{form}"
    node.shell(f"mkdir {program}")
    source = getattr(dist, form)
    copied = node.path(program)
    if form == "one_file":
        shutil.copy(source, copied / "program")
        program += "/program"
    else:
        shutil.copytree(source.parent, copied, dirs_exist_ok=True)
        program += "/mesokit-executor"
    node.shell("mount --bind / /mnt && mount -o remount,ro,bind / 2>/dev/null || mount -o remount,ro /")
    argv = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", program, "--version"]
    finished = node.run(argv, bare=True, check=False, cwd="/run/box")
    assert finished.status == 0, finished
    assert finished.stdout.startswith(b"mesokit-executor ")
    assert not node.shell("ls -A /run/box")


def test_nothing_of_the_build_machine_is_in_the_bundles(dist: Dist) -> None:
    """No path of the checkout, no test, no part of Python that nothing uses."""
    unwanted = ("tkinter", "idlelib", "lib2to3", "unittest", "pydoc", "pytest", "hypothesis", "setuptools")
    for bundle in (dist.plugins / "mesokit-cni.d", dist.executor.parent / "mesokit-executor.d"):
        for path in bundle.rglob("*"):
            assert not any(word in path.name.lower() for word in unwanted), path
            if path.is_file() and path.stat().st_size < 4 << 20:
                assert str(TOP).encode() not in path.read_bytes(), path


def test_the_archive_has_one_launcher_under_every_name(dist: Dist) -> None:
    from cni_plugins.plugins.registry import MODULES  # noqa: PLC0415

    inodes = {(dist.plugins / name).stat().st_ino for name in MODULES}
    assert len(inodes) == 1


def test_the_package_has_everything(node: Node, dist: Dist) -> None:
    """Unpacked into a root of its own: files, units, manual pages, completions."""
    node.shell(f"mkdir /run/deb && cp {dist.package} /run/mesokit.deb")
    node.shell("dpkg-deb -x /run/mesokit.deb /run/deb")
    root = node.path("/run/deb")
    for name in ("usr/bin/mesokit", "usr/bin/mesokit-executor", "usr/lib/mesokit/plugins/bridge"):
        assert (root / name).stat().st_mode & 0o111
    unit = (root / "usr/lib/systemd/system/mesokit-node.service").read_text()
    assert "ExecStart=/usr/bin/mesokit node" in unit
    assert (root / "usr/share/bash-completion/completions/mesokit").read_text()
    manual = ["usr/share/man/man1/mesokit.1.gz", "usr/share/man/man1/mesokit-node-status.1.gz"]
    assert all((root / page).exists() for page in manual)
    fields = node.run(["dpkg-deb", "-f", "/run/mesokit.deb", "Package", "Architecture"]).text
    assert "Package: mesokit" in fields
    assert node.run(["/run/deb/usr/bin/mesokit", "--version"]).text.startswith("mesokit")
    assert node.run(["/run/deb/usr/bin/mesokit-executor", "--version"]).text.startswith("mesokit-executor")
    env = {"CNI_COMMAND": "VERSION"}
    assert answer(node.run(["/run/deb/usr/lib/mesokit/plugins/host-local"], env=env)).ok()
