"""A chart of a measurement: how the times of each file spread, and how they went over time."""

from __future__ import annotations

from edgekd.benchmark.measurements import DeviceBenchmark
from edgekd.svg import svg_of

_COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2")
_LONGEST = 32


def chart(result: DeviceBenchmark) -> str:
    """Return an SVG, the same bytes for the same samples: a box per file, and the median of every turn over the seconds."""
    import numpy as np
    from matplotlib.figure import Figure

    rows = result.measurements
    figure = Figure(figsize=(9.6, max(2.6, 0.5 * len(rows) + 1.8)), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [f"{_short(each.name)}, {each.threads} thr." for each in rows]
    colors = [_COLORS[index % len(_COLORS)] for index in range(len(rows))]
    times = [np.concatenate([np.asarray(turn.ms) for turn in each.turns]) for each in rows]
    boxes = left.boxplot(times, orientation="horizontal", whis=(10, 90), showfliers=False, widths=0.6, patch_artist=True)
    for box, color in zip(boxes["boxes"], colors, strict=True):
        box.set(facecolor=color, alpha=0.5)
    left.set_yticks(range(1, len(names) + 1), names, fontsize=8)
    left.invert_yaxis()
    left.set(xlabel="ms: median, quartiles, 10 to 90 %", title=f"{result.target} via {_short(result.via)}")
    for each, name, color in zip(rows, names, colors, strict=True):
        turns = sorted(each.turns, key=lambda turn: turn.t_s)
        right.plot([turn.t_s for turn in turns], [turn.median for turn in turns], ".-", color=color, label=name, linewidth=0.8)
    right.set(xlabel="seconds", ylabel="ms, median of a turn", title="over time")
    right.set_ylim(bottom=0)
    right.legend(fontsize=7, frameon=False)
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return svg_of(figure)


def _short(name: str) -> str:
    # Names are the user's: "$" must not start mathematics.
    plain = "".join(each if each.isprintable() else "?" for each in name).replace("$", "\\$")
    return plain if len(plain) <= _LONGEST else f"…{plain[-_LONGEST + 1 :]}"
