"""Targets of a recipe: which files are for which device, and what is refused before anything runs."""

import json

import pytest

from edgekd.abilities import why_not
from edgekd.cli.arguments import target_override
from edgekd.devices.profiles import load_profile, profile_names
from edgekd.devices.targets import runnable, target_files, with_target_files
from edgekd.errors import RecipeError, UsageError
from edgekd.flavours import ARTIFACT_NAMES, DEFAULT_ARTIFACTS
from edgekd.planning import plan, resolve_recipe
from edgekd.recipe import Recipe
from edgekd.recipe_file import dump_recipe, load_recipe, recipe_from_mapping

BOARDS = [name for name in profile_names() if name != "host"]


def recipe(*targets: object, **more: object) -> Recipe:
    return recipe_from_mapping({"targets": list(targets), **more})


@pytest.mark.parametrize("device", BOARDS)
def test_the_best_file_of_a_device_is_made_and_is_first(device: str) -> None:
    made = with_target_files(recipe(device))
    (found,) = target_files(made)
    assert set(DEFAULT_ARTIFACTS) <= set(made.export.artifacts)
    assert found.files[0] == load_profile(device).artifacts[0]
    assert all(why_not(name, found.profile.kind) is None for name in found.files)


def test_artifacts_that_the_recipe_names_are_left_as_they_are() -> None:
    asked = recipe("jetson_orin_nano", export={"artifacts": ["onnx-fp32"]})
    assert with_target_files(asked) == asked
    assert [each.files for each in target_files(asked)] == [("onnx-fp32",)]


def test_a_device_without_a_file_is_refused_with_the_reasons() -> None:
    with pytest.raises(UsageError, match=r"no file of export.artifacts runs on .*Jetson.*tflite-int8: LiteRT would") as error:
        plan(recipe("jetson_orin_nano", export={"artifacts": ["tflite-int8"]}))
    assert "onnx-int8-tensorrt" in str(error.value.hint)


def test_files_are_in_the_order_of_the_profile() -> None:
    profile = load_profile("pi4")
    found = runnable(ARTIFACT_NAMES, profile)
    assert found[: len(profile.artifacts)] == profile.artifacts


def test_threads_and_place() -> None:
    one, two = target_files(recipe("pi4", {"device": "pi5", "threads": 2}))
    assert (one.threads, one.place) == (4, "pi4:4")
    assert (two.threads, two.place) == (2, "pi5:2")


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no device profile 'pi44'.*pi4"):
        plan(recipe("pi44"))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[host]", "host is always measured"),
        ("[pi4, pi4]", "names one device twice"),
        ("[{device: pi4, threads: 0}]", "threads"),
        ("[{device: pi4, max_latency_ms: -1}]", "max_latency_ms"),
        ("[{device: pi4, latency: 3}]", "latency"),
        ("[{via: adb}]", "device"),
        ("pi4", "targets"),
    ],
)
def test_bad_targets_are_one_line_each(targets: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        resolve_recipe("digits", [f"targets={targets}"])
    assert said in error.value.message
    assert "override" in error.value.message


@pytest.mark.parametrize("via", ["telnet://pi", "ssh://", "adb:", "local:3"])
def test_a_way_that_is_none_is_refused_by_the_plan(via: str) -> None:
    with pytest.raises(UsageError):
        plan(recipe({"device": "pixel6", "via": via}))


def test_the_plan_names_every_target() -> None:
    stages = {each.name: each.what for each in plan(recipe("pi4", {"device": "pi5", "via": "ssh://pi@pi5"})).stages}
    assert "latency predicted" in stages["target-pi4"]
    assert "measured by ssh://pi@pi5; golden vectors there" in stages["target-pi5"]


def test_a_written_recipe_with_targets_reads_the_same(tmp_path: object) -> None:
    from pathlib import Path

    asked = resolve_recipe({"targets": ["jetson_orin_nano", {"device": "pi4", "via": "ssh://pi@pi4", "max_latency_ms": 3}]})
    path = Path(str(tmp_path), "recipe.yaml")
    path.write_text(dump_recipe(asked))
    assert load_recipe(path) == asked
    assert with_target_files(load_recipe(path)).export.artifacts == asked.export.artifacts


def test_targets_of_the_command_line() -> None:
    (override,) = target_override(("pi4", "pi5=ssh://pi@pi5:22"))
    key, _, text = override.partition("=")
    assert key == "targets"
    assert json.loads(text) == [{"device": "pi4"}, {"device": "pi5", "via": "ssh://pi@pi5:22"}]
    assert [each.device for each in resolve_recipe("digits", [override]).targets] == ["pi4", "pi5"]
    assert target_override(()) == ()
