"""Suggestions for misspelt names."""

from hypothesis import given
from hypothesis import strategies as st

from edgekd.names import did_you_mean
from edgekd.recipe import Recipe

KNOWN = ["temperature", "alpha", "beta", "train"]


def test_the_closest_name_is_suggested() -> None:
    assert did_you_mean("temprature", KNOWN) == "; did you mean 'temperature'?"
    assert did_you_mean("TRAIN", KNOWN) == "; did you mean 'train'?"
    assert did_you_mean("alpa", iter(KNOWN)) == "; did you mean 'alpha'?"


def test_nothing_is_suggested_for_what_is_far_off() -> None:
    assert did_you_mean("zebra crossing", KNOWN) == ""
    assert did_you_mean("", KNOWN) == ""
    assert did_you_mean("alpha", []) == ""


@given(st.text(st.characters(), max_size=60))
def test_any_name_gives_nothing_or_a_known_name(name: str) -> None:
    known = list(Recipe.model_fields)
    assert did_you_mean(name, known) in {"", *(f"; did you mean '{each}'?" for each in known)}
