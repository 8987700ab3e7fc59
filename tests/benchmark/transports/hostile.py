"""Strings that go wrong where a shell reads them as anything but one word."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import strategies as st

from edgekd.benchmark.transports import Transport

FIXED = (
    "", " ", "  two  spaces  ", "'", '"', "''", '""', "\\", "\\\\", "\\'", '\\"', "it's", "$HOME", "${HOME}", "$(id)", "`id`", "$$",
    "$((1+1))", ";", "; reboot", "&", "&&", "|", "||", "> /tmp/x", "< /dev/null", ">>", "2>&1", "(", ")", "{", "}", "{a,b}", "[a-z]*",
    "*", "?", "~", "~root", "!", "!!", "#", "# comment", "-", "--", "-e", "-n", "--help", "-oProxyCommand=id", "-rf", "=", "a=b", "%s",
    "%n%n", "\n", "a\nb", "\n\n", "trailing\n", "\r", "\r\n", "\t", "\a\b\v\f", "\x1b[31m", "\x7f", "\x01", "ü", "日本語", "🦊", "\u202e",
    "\u2028", "e\u0301", "\ud7ff", "/", "..", "../../etc/passwd", "C:\\x", "a b/c d", "$'\\n'", "$\"x\"", "EOF", "done", "fi", "<<EOF",
    "x" * 3000, "'\"'\"'", "'$(id)'", "\"$(id)\"", "';id;'", "`", "$", "$@", "$*", "$0", "^", "a^b", ":", "@", ",", "+",
)  # fmt: skip
STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
"""Whatever else Unicode has; a null character ends an argument on every system."""
BATCHES = st.lists(STRINGS, min_size=50, max_size=50)
_ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"


def echoed(device: Transport, strings: Sequence[str]) -> list[str]:
    """Return the arguments as a program on the device got them."""
    ended = device.run(["python3", "-c", _ECHO, *strings], timeout_s=60)
    assert ended.code == 0, ended
    got: list[str] = json.loads(ended.stdout)
    return got
