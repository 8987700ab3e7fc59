"""``edgekd inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekd.abilities import check_device
from edgekd.inspect.integer import DEQUANTIZERS, QUANTIZERS
from edgekd.inspect.labels import labels

if TYPE_CHECKING:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    from edgekd.inspect.delegates import Refusal, Verdict
    from edgekd.inspect.graph import OperatorDescription, TensorDescription
    from edgekd.inspect.inspection import Inspection

_LARGEST = 10
_PIPE_WIDTH = 80
_NAMES = 2
_REASON_WIDTH = 24
_METADATA_WIDTH = 160
_LAYER_WIDTH = 18


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--layers", "all_layers", is_flag=True, help="Show every operator, not the largest ten alone.")
@click.option("--names", "all_names", is_flag=True, help="Name every operator that a runtime does not take.")
@click.option("--target", metavar="NAME", help="Show the runtimes of one device alone: android, ios, raspberry-pi, jetson.")
@click.option("--json", "as_json", is_flag=True, help='Print everything as JSON: {"files": [...]}, in the order given.')
def command(files: tuple[Path, ...], all_layers: bool, all_names: bool, target: str | None, as_json: bool) -> None:
    """Say what is inside an ONNX or TFLite file, what it costs, and which runtimes take it.

    \b
    MACs       multiply-accumulates of convolutions, matrix products, attention; batch of 1
    memory     the most bytes of activations alive at once, in order of execution, without weights
    parts      pieces a graph falls into where a runtime takes some operators and the CPU runs others
    unknown    an operator that the runtime's table does not name: do not count on it
    """
    from edgekd.inspect.inspection import inspect_file, on_device, to_json

    runtimes = check_device(target).runtimes if target is not None else None

    def inspected(path: Path) -> Inspection:
        return inspect_file(path) if runtimes is None else on_device(inspect_file(path), runtimes)

    if as_json:
        click.echo(json.dumps({"files": [to_json(inspected(path)) for path in files]}, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH)
    for index, path in enumerate(files):
        inspection = inspected(path)
        if index:
            console.print()
        _show(console, inspection, all_layers, all_names)


def _show(console: Console, inspection: Inspection, all_layers: bool, all_names: bool) -> None:
    graph = inspection.graph
    kind = {"tflite": "TFLite", "onnx": "ONNX"}[graph.format]
    title = f"{_plain(str(inspection.path))}  {kind}, {_bytes(inspection.size_bytes)}"
    console.print(title, style="bold", soft_wrap=True)
    _section(console, "Inputs and outputs")
    table = _table("", "name", "shape", "dtype", "scale", "zero point", right=(4, 5))
    for side, names in (("in", graph.inputs), ("out", graph.outputs)):
        for name in names:
            table.add_row(side, *_tensor(graph.tensors[name]))
    console.print(table)
    _section(console, "Costs")
    console.print(_costs(inspection))
    _section(console, "Operators")
    console.print(_operators(inspection))
    _section(
        console, "Layers" if all_layers else f"Largest layers, by MACs (all with --layers: {len(inspection.fused.operators)})"
    )
    console.print(_layers(inspection, all_layers))
    _section(console, "Runtimes")
    _runtimes(console, inspection, all_names)
    if graph.metadata:
        _section(console, "Metadata")
        table = _table("", "")
        for key, value in graph.metadata.items():
            text = _plain(" ".join(value.split()))
            table.add_row(_plain(key), text if len(text) <= _METADATA_WIDTH else f"{text[: _METADATA_WIDTH - 1]}…")
        console.print(table)


def _section(console: Console, title: str) -> None:
    console.print(f"\n{title}", style="cyan")


def _table(*headings: str, right: tuple[int, ...] = (), fixed: tuple[int, ...] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), show_header=any(headings))
    for index, heading in enumerate(headings):
        number = index in right
        table.add_column(heading, justify="right" if number else "left", no_wrap=number or index in fixed, overflow="fold")
    return table


def _tensor(tensor: TensorDescription) -> tuple[str, ...]:
    declared = tensor.declared if tensor.declared is not None else ()
    scale = "" if tensor.scale is None else f"{tensor.scale:.6g}"
    zero = "" if tensor.scale is None else str(tensor.zero_point)
    return _plain(tensor.name), _plain(" x ".join(map(str, declared)) or "scalar"), tensor.dtype, scale, zero


def _costs(inspection: Inspection) -> Table:
    table = _table("", "")
    unknown = f", and those of {len(inspection.unknown_macs)} operators are unknown" if inspection.unknown_macs else ""
    table.add_row("MACs", f"{_count(inspection.macs)}{unknown}")
    table.add_row("parameters", f"{_count(inspection.parameters)}, stored in {_bytes(inspection.weight_bytes)}")
    peak = inspection.peak
    shown = labels(each.name for each in inspection.fused.operators)
    where = f", at {_plain(_short(shown[peak.operator], 32))}" if peak.operator else ""
    least = f"; at least, for {peak.unknown} sizes are unknown" if peak.unknown else ""
    table.add_row("peak memory", f"{_bytes(peak.bytes)} of activations{where}{least}")
    total = sum(inspection.census["weight_bytes"].values())
    shares = ", ".join(f"{dtype} {each / total:.1%}" for dtype, each in inspection.census["weight_bytes"].items())
    table.add_row("weight bytes", shares or "no weights of two dimensions or more")
    integer, real = inspection.census["integer_operators"], inspection.census["float_operators"]
    table.add_row("computed in", f"integers by {integer} of {integer + real} operators" if integer else "float")
    return table


def _operators(inspection: Inspection) -> Table:
    table = _table("", "", right=(0,))
    counts = ", ".join(f"{_plain(kind)} {count}" for kind, count in inspection.operators.most_common())
    table.add_row(str(inspection.operators.total()), counts)
    if inspection.folded:
        folded = ", ".join(f"{_plain(kind)} {count}" for kind, count in inspection.folded.most_common())
        table.add_row(str(inspection.folded.total()), f"on constants alone, computed once: {folded}")
    if inspection.graph.subgraphs:
        table.add_row(str(inspection.graph.subgraphs), "graphs inside operators, not looked into")
    layout = inspection.layout
    shown = labels(each.name for each in inspection.graph.operators)
    borders = [shown[name] for name in layout.border_transposes]
    where = f", {len(borders)} of them at the borders: {_names(borders, False)}" if borders else ""
    table.add_row(str(layout.transposes), f"transposes{where}")
    if layout.quantize or layout.dequantize:
        left = sum(each.kind in QUANTIZERS | DEQUANTIZERS for each in inspection.fused.operators)
        fused = f", {left} left where runtimes fuse them" if inspection.graph.format == "onnx" else ""
        table.add_row(
            str(layout.quantize + layout.dequantize), f"to integers {layout.quantize}, to floats {layout.dequantize}{fused}"
        )
    return table


def _layers(inspection: Inspection, everything: bool) -> Table:
    graph = inspection.fused
    rows = list(graph.operators)
    if not everything:
        largest = sorted(inspection.layers(), key=lambda each: (-(each.macs or 0), -each.weight_bytes))[:_LARGEST]
        rows = [each for each in rows if any(each is one for one in largest)]
    shown = labels(each.name for each in graph.operators)
    table = _table("layer", "kind", "output", "MACs", "share", "weights", right=(3, 4, 5), fixed=(0, 1))
    for each in rows:
        share = f"{(each.macs or 0) / inspection.macs:.0%}" if each.macs and inspection.macs else ""
        macs = "?" if each.macs is None else _count(each.macs) if each.macs else ""
        weights = _bytes(each.weight_bytes) if each.weight_bytes else ""
        table.add_row(
            _plain(_short(shown[each.name], _LAYER_WIDTH)), _plain(each.kind), _output(inspection, each), macs, share, weights
        )
    return table


def _output(inspection: Inspection, operator: OperatorDescription) -> str:
    tensor = inspection.fused.tensors.get(operator.outputs[0]) if operator.outputs else None
    if tensor is None or tensor.shape is None:
        return "unknown"
    return "x".join("?" if size is None else str(size) for size in tensor.shape) or "scalar"


def _runtimes(console: Console, inspection: Inspection, all_names: bool) -> None:
    table = _table("runtime", "takes", "its parts", "parts on the CPU", right=(1, 2, 3))
    for verdict in inspection.verdicts:
        table.add_row(
            verdict.runtime.name, f"{verdict.delegated} of {verdict.operators}", str(verdict.delegated_partitions),
            str(verdict.fallback_partitions), style="yellow" if verdict.refusals else "green",
        )  # fmt: skip
    console.print(table)
    shown = labels(each.name for each in inspection.fused.operators)
    for verdict in inspection.verdicts:
        if verdict.refusals or verdict.notes:
            console.print(f"\n{verdict.runtime.name}, as of {verdict.runtime.version}", style="bold")
            _refusals(console, verdict, shown, all_names)
            for note in verdict.notes:
                console.print(_indented(f"note: {note}"), style="dim")


def _refusals(console: Console, verdict: Verdict, shown: dict[str, str], all_names: bool) -> None:
    """Print what a runtime leaves to the CPU, by how to mend it."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table

    groups: dict[str, list[Refusal]] = {}
    for refusal in verdict.refusals:
        groups.setdefault(refusal.fix, []).append(refusal)
    widest = max((len(_plain(each.kind)) + len(f" x{len(each.names)}") for each in verdict.refusals), default=0)
    reason = min(_REASON_WIDTH, max((len(each.what) for each in verdict.refusals), default=0))
    for fix, refusals in sorted(groups.items(), key=lambda each: not each[0]):
        table = Table(box=box.SIMPLE, show_header=False, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=widest)
        table.add_column(min_width=reason, max_width=_REASON_WIDTH)
        table.add_column(overflow="fold")
        for each in refusals:
            names = [shown[name] for name in each.names]
            table.add_row(f"{_plain(each.kind)} x{len(names)}", each.what, _names(names, all_names))
        console.print(Padding(table, (0, 0, 0, 2)))
        if fix:
            console.print(_indented(f"fix: {fix}"))


def _indented(line: str) -> Padding:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(line, overflow="fold"), (0, 0, 0, 4))


def _names(names: list[str], everything: bool) -> str:
    shown = [_plain(each if everything else _short(each, 24)) for each in (names if everything else names[:_NAMES])]
    rest = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + rest


def _plain(text: str) -> str:
    """Return text from a file without anything that a terminal would act on."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _short(name: str, width: int) -> str:
    """Return a name cut in its middle, for both ends tell layers apart."""
    if len(name) <= width:
        return name
    return f"{name[: (width - 1) // 2]}…{name[-(width // 2) :]}"


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if number >= size:
            return f"{number / (10**3 if unit == 'k' else size):,.{1 if unit == 'k' else 2}f} {unit}"
    return f"{number:,}"


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number:,} B"
