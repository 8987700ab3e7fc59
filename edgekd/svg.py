"""Figures of matplotlib as SVG for pages: the same bytes for the same numbers."""

from __future__ import annotations

import io
from typing import Any


def svg_of(figure: Any) -> str:
    """Return a figure as an ``<svg>`` element. Text stays text, in the page's font."""
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date: the same numbers draw the same bytes.
    settings: dict[str, Any] = {"svg.hashsalt": "edgekd", "svg.fonttype": "none", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
