"""Modules imported from one file, beside PyInstaller's."""

from __future__ import annotations

import marshal
import subprocess
import sys
import zlib
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
NAME = "modules.bin"

SOURCES = {
    "box": (True, "'''A package.'''\nfrom box import inner\n"),
    "box.inner": (False, "VALUE = 7\ndef fail():\n    raise ValueError\n"),
    "alone": (False, "import dataclasses\n"),
}


TOGETHER = (("box", "box.inner"), ("alone",))
COMPRESSED = (("alone",),)


def write(path: Path) -> None:
    table, content = {}, b""
    for names in TOGETHER:
        codes = {name: compile(SOURCES[name][1], name, "exec") for name in names}
        methods = {f"text of {names[0]}": compile("1", names[0], "exec")}
        entry = marshal.dumps((codes, methods, {("a+", 0): (32, [1], 0, {}, ())}))
        entry = zlib.compress(entry) if names in COMPRESSED else entry
        for name in names:
            table[name] = SOURCES[name][0], len(content), len(entry), names in COMPRESSED
        content += entry
    contents = marshal.dumps(table)
    path.write_bytes(len(contents).to_bytes(4, "little") + contents + content)


def run(folder: Path, script: str) -> str:
    """A fresh interpreter whose bundle is `folder`."""
    begin = f"import sys; sys.path.insert(0, {str(BUNDLE)!r}); sys._MEIPASS = {str(folder)!r}\n"
    argv = [sys.executable, "-I", "-c", f"{begin}import packed; packed.install()\n{script}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_modules_and_packages(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    script = (
        "import box, box.inner, alone\n"
        "print(box.__doc__, box.inner.VALUE, box.__path__, box.__package__, box.inner.__package__)\n"
        "print(*packed.METHODS)"
    )
    first, second = run(tmp_path, script).splitlines()
    assert first == f"A package. 7 ['{tmp_path}/box'] box box"
    assert second == "text of box text of alone"


def test_what_is_not_in_there_comes_from_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    (tmp_path / "box").mkdir()
    (tmp_path / "box/outer.py").write_text("from box.inner import VALUE\n")
    script = "import box.outer, colorsys\nprint(box.outer.VALUE, colorsys.ONE_THIRD > 0)"
    assert run(tmp_path, f"sys.path.append({str(tmp_path)!r})\n{script}") == "7 True"


def test_descriptors_may_be_closed_at_any_time(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    assert run(tmp_path, "import os; os.closerange(3, 100)\nimport box\nprint(box.inner.VALUE)") == "7"


def test_a_traceback_names_the_module(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    script = "import traceback, box\ntry: box.inner.fail()\nexcept ValueError: print(traceback.format_exc())"
    assert 'File "box.inner", line 3, in fail' in run(tmp_path, script)


def test_what_is_imported_together_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    script = (
        "import os\nimport box\n"
        f"os.unlink({str(tmp_path / NAME)!r})\n"
        "import box.inner\nprint(packed.PATTERNS)\n"
        "try: import alone\nexcept FileNotFoundError: print('read when it is wanted')"
    )
    first, second = run(tmp_path, script).splitlines()
    assert first == "{('a+', 0): (32, [1], 0, {}, ())}"
    assert second == "read when it is wanted"


def test_data_files_of_a_package(tmp_path: Path) -> None:
    """They lie in the folder that the package would have, and `__file__` says so."""
    write(tmp_path / NAME)
    (tmp_path / "box").mkdir()
    (tmp_path / "box/page.html").write_text("<p>")
    script = (
        "import box, box.inner, importlib.resources\nprint(box.__file__, box.inner.__file__)\n"
        "print(importlib.resources.files('box').joinpath('page.html').read_text())"
    )
    expected = f"{tmp_path}/box/__init__.py {tmp_path}/box/inner.py\n<p>"
    assert run(tmp_path, script) == expected


def test_a_module_may_be_loaded_again(tmp_path: Path) -> None:
    write(tmp_path / NAME)
    script = "import importlib, box\nprint(importlib.reload(box) is box, importlib.reload(box.inner).VALUE)"
    assert run(tmp_path, script) == "True 7"


def test_a_checkout_has_no_such_file() -> None:
    begin = f"import sys; sys.path.insert(0, {str(BUNDLE)!r})\nimport packed\n"
    script = f"{begin}before = list(sys.meta_path)\npacked.install()\nprint(sys.meta_path == before)"
    answer = subprocess.run([sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "True"
