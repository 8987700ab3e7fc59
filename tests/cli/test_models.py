"""``edgekd models``: every kind of reference and every network of the zoo, told without torch."""

import json
import subprocess
import sys

from click.testing import CliRunner

from edgekd.cli.models import command
from edgekd.models.catalog import ZOO
from edgekd.models.references import KINDS


def test_every_kind_and_every_network_is_listed() -> None:
    shown = CliRunner().invoke(command).output
    for kind in KINDS.values():
        assert kind.grammar in shown
    for name, entry in ZOO.items():
        assert f"zoo:{name} " in shown
        assert entry.summary in shown
    assert "from-teacher" in shown


def test_json_tells_abilities() -> None:
    content = json.loads(CliRunner().invoke(command, ["--json"]).output)
    kinds = {each["reference"].partition(":")[0]: each for each in content["kinds"]}
    assert set(kinds) == set(KINDS)
    assert all(each["teacher"] for each in kinds.values())
    for name in ("onnx", "tflite", "pt2", "store"):
        assert not kinds[name]["student"]
        assert not kinds[name]["layers"]
        assert kinds[name]["trained"]
    assert kinds["zoo"]["student"]
    assert kinds["zoo"]["layers"]
    assert not kinds["zoo"]["trained"]
    assert [each["name"] for each in content["zoo"]] == [f"zoo:{name}" for name in ZOO]


def test_a_missing_package_is_told_with_its_pip_line() -> None:
    content = json.loads(CliRunner().invoke(command, ["--json"]).output)
    timm = next(each for each in content["kinds"] if each["reference"].startswith("timm:"))
    try:
        import timm as _  # noqa: F401
    except ImportError:
        assert timm["install"] == "pip install timm"
    else:
        assert timm["install"] is None


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from edgekd.cli.models import command; "
        "assert CliRunner().invoke(command).exit_code == 0; "
        "print([name for name in ('torch', 'tensorflow', 'onnxruntime', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
