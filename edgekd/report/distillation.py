"""How the student was taught, in words: the facts of its training as every form of the report tells them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from edgekd.distill.teacher import Teacher
from edgekd.prune.stages import Pruning
from edgekd.quantize.qat.simulation import Simulation
from edgekd.recipe import Recipe
from edgekd.recipe_distill import Distill

_HEADINGS = ("loss", "weight", "temperature", "gradient beside cross-entropy's", "layers: student from teacher")
PAIRED = "95 % interval over the test samples, paired (Agresti and Min, 2005), of one training each: another seed moves it too."
"""What the interval of the control means."""

_SCHEMES = {
    "offline": "from a teacher that is trained already",
    "online": "networks that learn from one another while they train",
    "temporal": "from what it said an epoch ago",
    "ema": "from the moving average of its own weights",
    "layerwise": "early exits that learn from its last layer, and are gone from the files",
    "born-again": "from its last generation, a network like itself",
    "none": "not trained here, its weights are those of the file that was given",
}


def taught_by(teacher: Teacher | None, facts: Mapping[str, Any]) -> str:
    """Return who taught, for example ``distilled from zoo:resnet18`` or ``taught by itself (temporal)``."""
    if teacher is not None:
        return f"distilled from {teacher.name}"
    if facts["scheme"] == "none":
        return "as it was given"
    return f"taught by {'its peers' if facts['scheme'] == 'online' else 'itself'} ({facts['scheme']})"


def method(teacher: Teacher | None, facts: Mapping[str, Any]) -> str:
    """Return the losses that a teacher was imitated by, joined by ``+``, or the scheme without one."""
    if teacher is None:
        return str(facts["scheme"])
    return "+".join(term["name"] for term in facts["terms"]) or "cross_entropy"


def term_table(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a table of text cells: headings, and a row for every loss between networks; no columns that are empty."""
    rows = [
        (
            term["name"],
            f"{term['weight']:g} ({_whose(term['weight_chosen'])})",
            "" if term["temperature"] is None else f"{term['temperature']:g} ({_whose(term['temperature_chosen'])})",
            "" if term["gradient_ratio"] is None else f"{term['gradient_ratio']:g}x",
            ", ".join(f"{student} from {teacher}" for student, teacher in term["layers"]),
        )
        for term in facts["terms"]
    ]
    filled = [index for index in range(len(_HEADINGS)) if any(row[index] for row in rows)]
    return [tuple(row[index] for index in filled) for row in (_HEADINGS, *rows)]


def _whose(chosen: bool) -> str:
    return "chosen" if chosen else "given"


def circumstances(recipe: Recipe, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what else is worth knowing of the training, as pairs of a name and a value."""
    if facts["scheme"] == "none":
        return [("scheme", f"none: {_SCHEMES['none']}")]
    alpha = facts["alpha"]
    pairs = [
        ("scheme", f"{facts['scheme']}: {_SCHEMES[facts['scheme']]}"),
        (
            "true labels",
            f"cross-entropy of weight {alpha:g} ({_whose(facts.get('alpha_chosen', False))})"
            if alpha is not None
            else "inside the loss",
        ),
        ("epochs", f"{facts['epochs']:,}"),
        ("precision", f"{facts['precision']}, {str(facts['layout']).replace('_', ' ')}"),
    ]
    if recipe.distill.assistants:
        names = [each.model or recipe.student.model for each in recipe.distill.assistants]
        pairs.insert(1, ("over assistants", ", ".join(names)))
    if facts["soft_targets"] is not None:
        pairs.append(("teacher outputs", str(facts["soft_targets"])))
    if facts["scheme"] == "online":
        pairs.append(("kept network", str(facts["kept"])))
    return pairs


def sentence(facts: Mapping[str, Any]) -> str:
    """Return the training in one sentence, for the model card."""
    if facts["scheme"] == "none":
        return f"It was {_SCHEMES['none']}."
    parts = [f"labels (weight {facts['alpha']:g})"] if facts["alpha"] is not None else []
    for term in facts["terms"]:
        temperature = "" if term["temperature"] is None else f", temperature {term['temperature']:g}"
        parts.append(f"{term['name']} (weight {term['weight']:g}{temperature})")
    return (
        f"Its loss was {' + '.join(parts)}, over {facts['epochs']:,} epochs in {facts['precision']}; "
        f"scheme {facts['scheme']}: {_SCHEMES[facts['scheme']]}."
    )


def pruning_sentence(pruning: Pruning) -> str:
    """Return what was cut, set to zero and won back in a few sentences, for the page and the model card."""
    parts = [*([_cut_sentence(pruning)] if pruning.cuts else []), *([_zero_sentence(pruning)] if pruning.zeros else [])]
    if pruning.trained:
        parts.append(f"It learned again for {sum(each['epochs'] for each in pruning.trained):,} epochs.")
    return " ".join(parts)


def _zero_sentence(pruning: Pruning) -> str:
    last = pruning.zeros[-1]
    steps = "" if len(pruning.zeros) == 1 else f" in {len(pruning.zeros)} steps"
    before = "" if pruning.cuts else f"{100 * pruning.before.value:.2f} % before, and "
    dense = f", {len(last['left_dense'])} layers stayed dense" if last["left_dense"] else ""
    return (
        f"Then weights were set to zero{steps}, sparsity {last['asked']}: {100 * last['share']:.1f} % of those of "
        f"{len(last['layers'])} layers, {100 * last['share_of_all']:.1f} % of all{dense}. Its top-1 was {before}"
        f"{100 * last['top1']:.2f} % right after it."
    )


def _cut_sentence(pruning: Pruning) -> str:
    first, last = pruning.cuts[0], pruning.cuts[-1]
    steps = "" if len(pruning.cuts) == 1 else f" in {len(pruning.cuts)} steps"
    narrower = sum(each["after"] < each["before"] for each in last["layers"])
    gone = [each["block"] for each in first["blocks"]["blocks"] if each["order"] is not None] if "blocks" in first else []
    how = [f"{'blocks were' if gone[1:] else 'a block was'} removed from it ({', '.join(gone)})"] if gone else []
    how += [f"it was cut to {last['target']} by {last['criterion']}{steps}"] if last["target"] is not None else []
    widths = f"; the last cut made {narrower} layers narrower" if last["target"] is not None else ""
    text = (
        f"Then {' and '.join(how)}: {first['macs'][0]:,} multiply-accumulates became "
        f"{last['macs'][1]:,}, {first['params'][0]:,} parameters {last['params'][1]:,}{widths}. Its top-1 was "
        f"{100 * pruning.before.value:.2f} % before, and {100 * last['top1']:.2f} % right after it"
    )
    if last["predicted_latency"] is not None:
        before, after = first["predicted_latency"][0], last["predicted_latency"][1]
        text += (
            f"; predicted on {last['device']}: {before['p50_ms']:.3g} ms ({before['low_ms']:.3g} to {before['high_ms']:.3g}) "
            f"before, {after['p50_ms']:.3g} ms ({after['low_ms']:.3g} to {after['high_ms']:.3g}) after"
        )
    return text + "."


def rounding_sentence(simulation: Simulation) -> str:
    """Return quantization-aware training in one sentence, for the page and the model card."""
    losses = " + ".join(["labels", *(term["name"] for term in simulation.facts["terms"])])
    return (
        f"Then it learned under the rounding of its int8 files: {simulation.facts['epochs']:,} epochs, {losses}. Its top-1 was "
        f"{100 * simulation.before.value:.2f} % before, in floating point, and {100 * simulation.metric.value:.2f} % after, "
        "with rounding simulated. All files hold the weights after it."
    )


def pins(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """Return the overrides that fix what this run chose by itself, as arguments for a shell; empty if it chose nothing.

    One loss with the recipe's own weight and temperature gives ``distill.beta=0.83 distill.temperature=5.2``; otherwise
    ``distill.losses`` is given whole.
    """
    options = recipe.distill
    if facts["scheme"] == "none":
        return ""
    terms = {term["name"]: term for term in facts["terms"] if term["weight_chosen"] or term["temperature_chosen"]}
    given = [f"distill.alpha={facts['alpha']:g}"] if facts.get("alpha_chosen") else []
    given += _pinned_losses(options, terms) if terms else []
    if facts["precision"] != "fp32" and options.train.precision == "auto":
        given.append(f"distill.train.precision={facts['precision']}")
    if facts["layout"] != "channels_last" and options.train.layout == "auto":
        given.append(f"distill.train.layout={facts['layout']}")
    return shlex.join(given)


def _pinned_losses(options: Distill, terms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first = options.losses[0]
    if len(options.losses) == 1 and first.weight is None and first.temperature is None:
        (term,) = terms.values()
        return [f"distill.{key}={term[name]:g}"
                for key, name in (("beta", "weight"), ("temperature", "temperature")) if term[f"{name}_chosen"]]  # fmt: skip
    losses = []
    for loss in options.losses:
        values = loss.model_dump(mode="json", exclude_defaults=True)
        # Between two classes kd took the place of dkd, and takes it again.
        term = terms.get("kd" if loss.name == "dkd" and "dkd" not in terms else loss.name, {})
        values |= {name: term[name] for name in ("weight", "temperature") if term.get(f"{name}_chosen")}
        losses.append(values)
    return [f"distill.losses={json.dumps(losses)}"]
