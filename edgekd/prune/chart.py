"""A chart of how sensitive layers are: for each, the loss over the share of it that is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.svg import svg_of

_MOST = 30
_COLUMNS = (6, 5, 4)
_LONGEST = 24
_LINE, _CUT, _WHOLE = "#2563eb", "#d97706", "#6b7280"
_TOP = 1.4


def sensitivity_chart(sensitivity: Mapping[str, Any], cuts: Mapping[str, float]) -> str:
    """Return an SVG, the same bytes for the same numbers: a small diagram for every layer, all on one scale.

    Args:
        sensitivity: Of :meth:`edgekd.prune.sensitivity.Curves.to_json`; it has layers.
        cuts: Which share of a layer was cut in the end; layers that are left out, and those of 0, stayed whole.
    """
    from matplotlib.figure import Figure

    layers, loss, guess = shown_layers(sensitivity), sensitivity["loss"], sensitivity["guess"]
    fewest_empty = min(_COLUMNS, key=lambda each: -len(layers) % each)
    columns = min(len(layers), _COLUMNS[0] if len(layers) > 2 * _COLUMNS[0] else fewest_empty)
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(9.6 if len(layers) > columns else 1.9 * columns, 1.5 * rows + 0.3), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    highest = max(loss, *(max(each["losses"]) for each in layers))
    for axis, each in zip(axes, layers, strict=False):
        shares = [0.0, *(100 * cut / each["units"] for cut in each["cut"])]
        axis.axhline(loss, color=_WHOLE, linewidth=0.8, linestyle="--")
        axis.axhline(guess, color=_WHOLE, linewidth=0.8, linestyle=":")
        share = 100 * cuts.get(each["layer"], 0.0)
        if share:
            axis.axvline(share, color=_CUT, linewidth=1.6)
        axis.plot(shares, [loss, *each["losses"]], "o-", color=_LINE, markersize=2.5, linewidth=1.2)
        what = f"{share:.0f} % of {each['units']} cut" if share else f"all {each['units']} stay"
        axis.set_title(f"{_short(each['layer'])}\n{what}", fontsize=7, color="black" if share else _WHOLE)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, labelbottom=True)
    for axis in axes[len(layers) :]:
        axis.set_visible(False)
    axes[0].set(ylim=(0, 1.05 * min(highest, _TOP * guess)), xlim=(0, 80), xticks=(0, 25, 50, 75))
    figure.supxlabel("share of the layer's channels or heads that is cut, in %", fontsize=8)
    figure.supylabel("loss", fontsize=8)
    return svg_of(figure)


def shown_layers(sensitivity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the layers of a chart: all, or where there are many the thirty most sensitive, in order of execution."""
    layers = list(sensitivity["layers"])
    most = sorted(layers, key=lambda each: -each["losses"][0])[:_MOST]
    kept = {each["layer"] for each in most}
    return [each for each in layers if each["layer"] in kept]


def _short(name: str) -> str:
    plain = "".join(each if each.isprintable() else "?" for each in name).replace("$", "\\$")
    return plain if len(plain) <= _LONGEST else f"…{plain[-_LONGEST + 1 :]}"
