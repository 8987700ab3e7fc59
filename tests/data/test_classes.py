"""Class names: what labels.txt can hold, and what is refused before anything is trained."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.data.classes import check_class_names, labels_text
from edgekd.errors import DataError


@pytest.mark.parametrize("name", ["two\nlines", "end\n", "\r", "a\r\nb", "a\x0bb", "a\x85b", "a\u2028b", "a\x1cb"])
def test_a_line_break_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"csv:x has the class name '.*', with a line break in it") as raised:
        check_class_names(["fine", name], "csv:x")
    assert "\n" not in raised.value.message
    assert raised.value.exit_code == 2


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="no UTF-8"):
        check_class_names([b"caf\xe9".decode("utf-8", "surrogateescape")], "folder:x")


@given(st.lists(st.text()))
def test_what_is_let_through_comes_back_line_by_line(names: list[str]) -> None:
    try:
        check_class_names(names, "x")
    except DataError:
        return
    text = labels_text(names).encode().decode()
    assert text.splitlines() == names
    assert text.split("\n") == [*names, ""]
