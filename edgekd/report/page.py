"""``report.html``: one self-contained page, no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import shlex
from typing import Any

from edgekd import __version__
from edgekd.distill.control import verdict
from edgekd.recipe_file import dump_recipe
from edgekd.report.charts import int8_share, size_accuracy_latency, training_curves
from edgekd.report.classes import class_tables
from edgekd.report.distillation import PAIRED, circumstances, pins, pruning_sentence, rounding_sentence, taught_by, term_table
from edgekd.report.mixed import mixed_tables
from edgekd.report.pruning import COST_HEADINGS, pruning_tables
from edgekd.report.quantization import HEADINGS as CANDIDATE_HEADINGS
from edgekd.report.quantization import candidate_tables
from edgekd.report.report import Report
from edgekd.report.rows import HEADINGS, TARGET_HEADINGS, table_rows, target_rows
from edgekd.report.sparsity import HEADINGS as ZERO_HEADINGS
from edgekd.report.sparsity import SPEED, zero_rows


def report_page(report: Report, environment: dict[str, Any]) -> str:
    """Return the page. Everything that came from the user is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=PackageLoader("edgekd.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    facts = report.student.facts
    simulation = report.student.simulation
    rounding = [("quantization-aware training", rounding_sentence(simulation))] if simulation is not None else []
    pruning = report.student.pruning
    cuts = [("pruning", pruning_sentence(pruning))] if pruning is not None else []
    cut = pruning_tables(report)
    charts = [Markup(size_accuracy_latency(report))]
    if report.student.history:
        charts.append(Markup(training_curves(report)))
    if (mixed := int8_share(report)) is not None:
        charts.append(Markup(mixed))
    return templates.get_template("report.html.j2").render(
        report=report,
        environment=environment,
        version=__version__,
        headings=HEADINGS,
        rows=table_rows(report),
        target_headings=TARGET_HEADINGS,
        target_rows=target_rows(report),
        taught=taught_by(report.teacher, facts),
        terms=term_table(facts),
        circumstances=[*circumstances(report.recipe, facts), *cuts, *rounding],
        warnings=facts["warnings"],
        pinned=pins(report.recipe, facts),
        verdict=verdict(report.control) if report.control is not None else None,
        paired=PAIRED,
        charts=charts,
        per_class=class_tables(report),
        mixed=mixed_tables(report),
        candidates=candidate_tables(report),
        candidate_headings=CANDIDATE_HEADINGS,
        cut=cut,
        cut_chart=Markup(cut.chart) if cut is not None and cut.chart is not None else None,
        cost_headings=COST_HEADINGS,
        zero_headings=ZERO_HEADINGS,
        zero_rows=zero_rows(report),
        zero_speed=SPEED,
        recipe=dump_recipe(report.recipe),
        command=f"edgekd compress recipe.yaml --out {shlex.quote(report.folder.name or 'out')}",
    )
