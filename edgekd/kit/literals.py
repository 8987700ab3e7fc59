"""Text and numbers as literals of the languages that kits are written in.

Names, labels and sample ids come from users and their models; in a program they must be nothing but text. Filters
return :class:`Code`, and :func:`only_code` refuses to put anything else into a template.
"""

from __future__ import annotations

import json
import pprint
import shlex
from typing import Any

_WIDTH = 110


class Code(str):
    """Text that may stand in a program as it is."""

    __slots__ = ()


def only_code(value: Any) -> Any:
    """Return ``value`` for the template.

    Raises:
        TypeError: It is text that no filter has turned into code.
    """
    if isinstance(value, str) and not isinstance(value, Code):
        raise TypeError(f"{value!r} is not escaped for the language of this template")
    return value


def python(value: Any) -> Code:
    """Return a Python literal of plain data, on several lines if it is long."""
    return Code(pprint.pformat(value, width=_WIDTH, sort_dicts=False))


def cpp(value: Any) -> Code:
    """Return a C++ literal: text as the bytes of its UTF-8, all but plain ones as three octal digits."""
    if not isinstance(value, str):
        return _number(value, "true", "false")
    return Code('"' + "".join(_octal(byte) for byte in _unicode(value).encode()) + '"')


def _octal(byte: int) -> str:
    # A question mark may begin a trigraph, and \x takes as many digits as follow.
    return chr(byte) if 0x20 <= byte < 0x7F and chr(byte) not in '"\\?' else f"\\{byte:03o}"


def kotlin(value: Any) -> Code:
    """Return a Kotlin literal: text in UTF-16 units, without templates (``$``)."""
    if not isinstance(value, str):
        return _number(value, "true", "false")
    units = _unicode(value).encode("utf-16-be")
    codes = (units[index] << 8 | units[index + 1] for index in range(0, len(units), 2))
    plain = (chr(code) if 0x20 <= code < 0x7F and chr(code) not in '"\\$' else f"\\u{code:04x}" for code in codes)
    return Code('"' + "".join(plain) + '"')


def swift(value: Any) -> Code:
    """Return a Swift literal: text as Unicode scalars, without interpolation."""
    if not isinstance(value, str):
        return _number(value, "true", "false")
    characters = (each if " " <= each <= "~" and each not in '"\\' else f"\\u{{{ord(each):x}}}" for each in _unicode(value))
    return Code('"' + "".join(characters) + '"')


def _number(value: Any, true: str, false: str) -> Code:
    if isinstance(value, bool):
        return Code(true if value else false)
    if isinstance(value, (int, float)):
        return Code(repr(value))
    raise TypeError(f"{value!r} is neither text nor number")


def _unicode(text: str) -> str:
    """Return text without halves of surrogate pairs, which no encoding of Unicode has."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def markdown(value: Any) -> Code:
    """Return text as inline code of Markdown, on one line, whatever is in it."""
    text = _unicode(json.dumps(str(value), ensure_ascii=False)[1:-1] if _needs_quotes(str(value)) else str(value))
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return Code(f"{fence}{space}{text}{space}{fence}")


def _needs_quotes(text: str) -> bool:
    return not text.isprintable()


def shell(value: Any) -> Code:
    """Return a word of a shell's command line."""
    return Code(shlex.quote(str(value)))


FILTERS = {"python": python, "cpp": cpp, "kotlin": kotlin, "swift": swift, "markdown": markdown, "shell": shell}
"""By the name that templates call them."""
