"""Short plays of the hostile task; longer ones by `python -m executor.tests.attacks --races 10000`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from executor.protocol import Encoding
from executor.tests.attacks import play as plays
from executor.tests.attacks.forms import FORMS, build, laid
from executor.tests.attacks.races import race
from executor.tests.scenarios import scene as scenes
from executor.tests.scenarios.events import launch, launch_group, shutdown, task
from executor.tests.scenarios.scene import Scene
from executor.tests.scenarios.strangers import as_user

pytestmark = pytest.mark.timeout(900)  # the first of them builds

TOKEN = "eyJhbGciOiJIUzI1NiJ9." + "ZXhlY3V0b3I" * 9


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, plays.ALL_OPTIONS], ids=["default", "all-options"])
def test_a_hostile_task_changes_nothing_outside(form: str, options: dict[str, str]) -> None:
    scenes.play(lambda scene: plays.play(scene, form, options), Encoding.PROTOBUF)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_the_program_is_opened_once_another_users_task_runs(form: str) -> None:
    scenes.play(lambda scene: plays.quiet(scene, form), Encoding.PROTOBUF)


def test_a_one_file_bundle_where_others_may_rename_runs_no_task_of_theirs() -> None:
    """The boot loader empties, as root and by name, what it has unpacked: nobody may exchange it."""

    def act(scene: Scene) -> None:
        scene.directory.chmod(0o777)
        agent = scene.agent()
        with laid("one-file", scene.sandbox) as variables:
            executor = scene.start(agent, {**variables, "MESOKIT_STAY": "true"})
            agent.send(launch_group(plays.of_user("nobody", "other", "exit 0")))
            message = agent.wait_state("other", "FAILED").message
            assert "runs no task of user 'nobody' here" in message
            assert str(scene.directory) in message
            agent.send(launch_group(plays.of_user("root", "own", "exit 0")))
            agent.wait_state("own", "FINISHED")
            agent.send(shutdown())
            assert executor.wait_exit() == 0

    scenes.play(act, Encoding.PROTOBUF)


def test_a_thousand_exchanged_names(tmp_path: Path) -> None:
    # The user nobody has to come to his program; packaging/test's folder is root's alone.
    for place in (tmp_path, *tmp_path.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(0o755)
    race(tmp_path, 1000)


_SEARCH = """
import json, os, sys
from pathlib import Path
needle, found, looked = bytes.fromhex(sys.argv[1]), [], 0
for entry in Path("/proc").iterdir():
    try:
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        fields = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
        if int(fields["Uid"].split()[0]) != os.getuid():
            continue
    except OSError:
        continue
    looked += 1
    try:
        if needle in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
            found.append(str(entry) + " environ")
    except OSError:
        pass
    try:
        with open(entry / "mem", "rb", 0) as memory:
            for line in (entry / "maps").read_text().splitlines():
                words = line.split()
                if words[1].startswith("rw"):
                    start, end = (int(word, 16) for word in words[0].split("-"))
                    try:
                        memory.seek(start)
                        if needle in memory.read(end - start):
                            found.append(str(entry) + " " + words[-1])
                    except OSError:
                        pass
    except OSError:
        pass
print(json.dumps([looked, found]))
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_task_of_the_same_user_finds_the_token_nowhere(form: str) -> None:
    def act(scene: Scene) -> None:
        scene.path("search.py").write_text(_SEARCH)
        agent = scene.agent(token=TOKEN)
        interpreter = Path(sys.executable).resolve()
        search = f"{interpreter} -I -S search.py {TOKEN[:60].encode().hex()} >found.new; mv found.new found"
        with laid("checkout" if form == "checkout" else form, scene.sandbox) as variables:
            executor = scene.start(agent, variables, wrap=as_user(54321))
            agent.send(launch(task("t", search)))
            agent.wait_state("t", "FINISHED")
            assert executor.wait_exit() == 0
        looked, found = json.loads(scene.text("found"))
        assert looked >= 2
        assert found == []

    scenes.play(act, Encoding.PROTOBUF)
