"""The user's own code: found without running it, imported with its neighbours, and every mistake one clear line."""

import sys
from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.safe.user_code import code_digest, code_file, load_function


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())


def _write(path: str, text: str = "def make():\n    return 'made'\n") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("file", "reference"),
    [
        ("net.py", "net.py:make"),
        ("some/where/net.py", "some/where/net.py:make"),
        ("net_a.py", "net_a:make"),
        ("pack_a/__init__.py", "pack_a:make"),
        ("pack_b/nets.py", "pack_b.nets:make"),  # a package without __init__.py
        ("pack_c/deep/er/__init__.py", "pack_c.deep.er:make"),
    ],
)
def test_files_modules_and_packages_are_found_and_imported(file: str, reference: str) -> None:
    path = _write(file)
    assert code_file(reference).resolve() == path.resolve()
    assert load_function(reference)() == "made"


def test_finding_and_hashing_runs_nothing(tmp_path: Path) -> None:
    evil = "import pathlib\npathlib.Path('canary').touch()\n"
    _write("bad.py", evil)
    _write("badpack/__init__.py", evil)
    _write("badpack/inner.py", evil)
    before = list(sys.path)
    for reference in ("bad.py:make", "bad:make", "badpack.inner:make"):
        code_file(reference)
        code_digest(reference)
    assert not Path("canary").exists()
    assert sys.path == before


def test_a_file_imports_its_neighbours_even_when_it_is_called_later() -> None:
    _write(
        "elsewhere/net.py", "from blocks_x import VALUE\ndef make():\n    import later_x\n    return VALUE + later_x.VALUE\n"
    )
    _write("elsewhere/blocks_x.py", "VALUE = 40\n")
    _write("elsewhere/later_x.py", "VALUE = 2\n")
    assert load_function("elsewhere/net.py:make")() == 42


def test_paths_that_the_code_adds_itself_stay() -> None:
    _write("lib_y/inside_y.py", "VALUE = 7\n")
    _write("net.py", "import sys\nsys.path.append('lib_y')\ndef make():\n    import inside_y\n    return inside_y.VALUE\n")
    assert load_function("net.py:make")() == 7


def test_a_file_is_imported_once_and_two_of_one_name_are_two() -> None:
    _write("a/net.py", "COUNT = []\ndef make():\n    COUNT.append(1)\n    return len(COUNT)\n")
    _write("b/net.py", "def make():\n    return 'b'\n")
    load_function("a/net.py:make")()
    assert load_function("a/net.py:make")() == 2
    assert load_function("b/net.py:make")() == "b"


def test_the_digest_sees_the_file_its_neighbours_and_its_package_and_nothing_else() -> None:
    _write("one/net.py")
    _write("one/helper.py", "A = 1\n")
    _write("pack/__init__.py", "")
    _write("pack/nets/a.py")
    _write("pack/blocks.py", "A = 1\n")
    _write("top.py")
    _write("deep/down/unrelated.py", "A = 1\n")
    references = ("one/net.py:make", "pack.nets.a:make", "top:make")
    first = {each: code_digest(each) for each in references}
    assert {each: code_digest(each) for each in references} == first
    _write("deep/down/unrelated.py", "A = 2\n")
    assert {each: code_digest(each) for each in references} == first
    _write("one/helper.py", "A = 2\n")
    _write("pack/blocks.py", "A = 2\n")
    assert {each: code_digest(each) == first[each] for each in references} == dict(
        zip(references, (False, False, True), strict=True)
    )
    _write("top.py", "def make():\n    return 'other'\n")
    assert code_digest("top:make") != first["top:make"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nofile.py:make", "there is no file nofile.py"),
        ("folder.py:make", "there is no file folder.py"),
        ("nomodule_xyz:make", "there is no module 'nomodule_xyz'"),
        ("goodpack.missing:make", "there is no module 'goodpack.missing'"),
        ("not a module:make", "there is no module 'not a module'"),
        ("__main__:make", "there is no module '__main__'|has no 'make'"),
        ("sys:exit", "there is no module 'sys'"),
        ("good.py:mkae", "good.py has no 'mkae'; did you mean 'make'"),
        ("good.py:VALUE", "'VALUE' is a int, not a function"),
        ("~nobody_at_all/x.py:make", "there is no file ~nobody_at_all/x.py"),
    ],
)
def test_mistakes_are_one_clear_line(reference: str, message: str) -> None:
    _write("good.py", "VALUE = 1\ndef make():\n    return 1\n")
    _write("goodpack/__init__.py", "")
    Path("folder.py").mkdir()
    with pytest.raises(UsageError, match=message) as error:
        load_function(reference)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_what_the_code_itself_raises_keeps_its_traceback() -> None:
    _write("broken.py", "raise RuntimeError('mine')\n")
    for _ in range(2):  # and leaves nothing half imported
        with pytest.raises(RuntimeError, match="mine"):
            load_function("broken.py:make")
