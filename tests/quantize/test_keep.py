"""``quantize.keep`` of the recipe: ``auto``, or names of layers."""

from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.recipe_file import dump_recipe, load_recipe, recipe_from_mapping


@pytest.mark.parametrize("keep", ["auto", (), ("node_Conv_1", "model/conv;1")])
def test_what_may_be_kept_survives_the_file(keep: object, tmp_path: Path) -> None:
    given = list(keep) if isinstance(keep, tuple) else keep
    recipe = recipe_from_mapping({"quantize": {"keep": given}})
    assert recipe.quantize.keep == keep
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("keep", ["all", 3, [""], [1], ["a", "a"], {"a": 1}, None])
def test_anything_else_is_refused(keep: object) -> None:
    with pytest.raises(UsageError, match=r"quantize\.keep"):
        recipe_from_mapping({"quantize": {"keep": keep}})
