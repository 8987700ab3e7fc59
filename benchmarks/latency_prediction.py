"""How well latencies are predicted that were not fitted: held-out architectures, devices and pairs of published tables.

Claims: on devices with at least 60 rows, mean errors of held-out architectures are at most 12 %, and 90 % intervals hold at
least 85 % of them; architectures are ranked with a correlation of at least 0.97 within a device; on a device that was not
measured, errors after one scale factor are at most 15 %.

    python benchmarks/latency_prediction.py DATA [--rows FILE]

DATA is a folder with ``devices/published_latency.csv``, or that file. With ``--rows``, coefficients are fitted on the table and
score the rows of another CSV of the same columns. FLOPs alone: one rate for each key, fitted in the same way. Data sheet: half
of what the cores can do at best, and no measurement. Takes two minutes on one core.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from edgekd.devices.crossvalidation import HeldOut, choose_settings, quantile
from edgekd.devices.features import FEATURES
from edgekd.devices.fitting import Array, Fit, Group, Settings, design, fit_groups, log_deviation, log_latency
from edgekd.devices.latency_table import Key, Latency, family_of, read_latencies
from edgekd.devices.model_table import groups_of, model_at
from edgekd.devices.other_devices import (
    after_one_factor,
    leave_devices_out,
    reaches,
    speeds_of,
    threads_gain,
)  # fmt: skip
from edgekd.devices.published_devices import Speed, speed_of
from edgekd.devices.transfer import Scaling, fit_scaling, from_specification, scaled

MOST_ERROR, LEAST_COVERAGE, LEAST_RANK, MOST_AFTER_FACTOR, ENOUGH_ROWS = 0.12, 0.85, 0.97, 0.15, 60
FOLDS = 5
_MACS = [index for index, name in enumerate(FEATURES) if name.endswith("_macs")]
_HEAD = f"{'':24}{'rows':>6}{'error':>8}{'median':>8}{'<10 %':>7}{'<20 %':>7}{'rank':>7}{'held':>7}"


@dataclass
class Score:
    """Predictions beside what was measured, as logarithms of ms, by key; and whether the interval held."""

    rows: list[tuple[Key, str, float, float, bool | None]]

    def __init__(self) -> None:
        self.rows = []

    def add(self, key: Key, model: str, predicted: float, measured: float, held: bool | None = None) -> None:
        """Append a prediction."""
        self.rows.append((key, model, float(predicted), float(measured), held))

    def errors(self) -> Array:
        """Return relative errors, without sign."""
        return np.abs(np.exp([row[2] - row[3] for row in self.rows]) - 1)

    def rank(self) -> float:
        """Return Spearman's correlation within keys of at least five rows, weighted by rows."""
        by_key: dict[Key, list[tuple[float, float]]] = defaultdict(list)
        for key, _, predicted, measured, _ in self.rows:
            by_key[key].append((predicted, measured))
        ranked = [pairs for pairs in by_key.values() if len(pairs) >= 5 and len(set(pairs)) > 1]
        if not ranked:
            return float("nan")
        found = [spearmanr(*zip(*pairs, strict=True)).statistic for pairs in ranked]
        return float(np.average(found, weights=[len(pairs) for pairs in ranked]))

    def line(self, name: str) -> str:
        """Return a row of the table."""
        errors = self.errors()
        held = [row[4] for row in self.rows if row[4] is not None]
        shares = f"{errors.mean():8.1%}{np.median(errors):8.1%}{(errors < 0.1).mean():7.0%}{(errors < 0.2).mean():7.0%}"
        coverage = f"{np.mean(held):7.0%}" if held else f"{'':>7}"
        return f"{name:24}{len(errors):6}{shares}{self.rank():7.3f}{coverage}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=Path, help="rows to score, that were not fitted")
    arguments = parser.parse_args()
    table = arguments.data if arguments.data.is_file() else arguments.data / "devices" / "published_latency.csv"
    latencies = read_latencies(table)
    groups = groups_of(latencies)
    settings, fit, held = choose_settings(groups)
    speeds = speeds_of(latencies)
    print(f"{len(latencies)} rows, {sum(len(each.models) for each in groups)} of them fitted, in {len(groups)} keys")
    if arguments.rows:
        score_rows(read_latencies(arguments.rows), latencies, groups, fit, held, speeds)
        return
    architectures(groups, held, speeds)
    devices(groups, fit, speeds)
    pairs(groups, settings, fit)


def architectures(groups: Sequence[Group], held: Sequence[HeldOut], speeds: dict[str, Speed]) -> None:
    """Print how held-out architectures are predicted, for each device."""
    by_device: dict[str, Score] = defaultdict(Score)
    every, flops, sheet = Score(), Score(), Score()
    by_processor: dict[str, Score] = {name: Score() for name in ("cpu", "gpu")}
    standardized = [np.abs(each.errors) / each.deviations for each in held]
    for index, (group, each) in enumerate(zip(groups, held, strict=True)):
        widths = reaches_without_own_model(index, groups, standardized)
        for place, model in enumerate(group.models):
            inside = standardized[index][place] <= widths[model]
            for score in (every, by_device[group.key.device], by_processor[group.family.processor]):
                score.add(group.key, model, each.log_ms[place], group.log_ms[place], bool(inside))
        for place, predicted in enumerate(flops_alone(group)):
            flops.add(group.key, group.models[place], predicted, group.log_ms[place])
        if group.key.device in speeds and group.family.processor == "cpu":
            coefficients = from_specification(speeds[group.key.device], group.family.precision, group.key)
            for place, predicted in enumerate(log_latency(group.features, coefficients)):
                sheet.add(group.key, group.models[place], predicted, group.log_ms[place])
    print(f"\nHeld-out architectures, by device with at least {ENOUGH_ROWS} rows\n{_HEAD}")
    large = {name: score for name, score in by_device.items() if len(score.rows) >= ENOUGH_ROWS}
    for name, score in sorted(large.items(), key=lambda each: -len(each[1].rows)):
        print(score.line(name))
    for name, score in (*by_processor.items(), ("all", every), ("FLOPs alone", flops), ("data sheet, CPU", sheet)):
        print(score.line(name))
    scores = list(large.values())
    accurate = sum(each.errors().mean() <= MOST_ERROR for each in scores)
    middle = sum(np.median(each.errors()) <= MOST_ERROR for each in scores)
    covered = sum(np.mean([row[4] for row in each.rows]) >= LEAST_COVERAGE for each in scores)
    ranked = sum(each.rank() >= LEAST_RANK for each in scores)
    print(f"of {len(scores)} devices: error <= {MOST_ERROR:.0%} on {accurate}, median error on {middle}; intervals hold >= "
          f"{LEAST_COVERAGE:.0%} on {covered}; rank >= {LEAST_RANK} on {ranked}")  # fmt: skip


def reaches_without_own_model(index: int, groups: Sequence[Group], standardized: Sequence[Array]) -> dict[str, float]:
    """Return how far the interval of each model of a group reaches, from the errors of other models alone."""
    group = groups[index]
    found = {}
    family = [other for other, each in enumerate(groups) if each.family == group.family and other != index]
    names = {other: np.array(groups[other].models) for other in (*family, index)}
    for model in set(group.models):
        others = [standardized[other][names[other] != model] for other in family]
        found[model] = quantile(standardized[index][names[index] != model], np.concatenate(others) if others else np.zeros(0))
    return found


def flops_alone(group: Group) -> Array:
    """Return predictions by one rate for all multiply-accumulates, fitted without each one's architecture."""
    macs = np.log(group.features[:, _MACS].sum(1) + group.features[:, FEATURES.index("dense_weights")])
    models = np.array(group.models)
    found = np.zeros(len(models))
    for model in set(group.models):
        mine = models == model
        found[mine] = macs[mine] + np.median((group.log_ms - macs)[~mine])
    return found


def devices(groups: Sequence[Group], fit: Fit, speeds: dict[str, Speed]) -> None:
    """Print how devices are predicted that were not measured."""
    found = leave_devices_out(groups, fit, speeds)
    scores = {name: Score() for name in ("same cores measured", "  after one factor", "clock and peak", "  after one factor ")}
    by_device: dict[str, Score] = defaultdict(Score)
    same, other = reaches(groups, found)
    for each in found:
        group = groups[each.group]
        first, second = list(scores)[:2] if each.transferred else list(scores)[2:]
        reach = (same if each.transferred else other)[group.family]
        corrected = after_one_factor(group, each.errors)
        for place, model in enumerate(group.models):
            measured = group.log_ms[place]
            predicted, within = measured + each.errors[place], bool(abs(each.errors[place]) <= reach)
            scores[first].add(group.key, model, predicted, measured, within)
            by_device[group.key.device].add(group.key, model, predicted, measured, within)
            scores[second].add(group.key, model, measured + corrected[place], measured)
    print(f"\nHeld-out devices, CPU: those with at least {ENOUGH_ROWS} rows, then all by basis\n{_HEAD}")
    for name, score in sorted(by_device.items(), key=lambda each: -len(each[1].rows)):
        if len(score.rows) >= ENOUGH_ROWS:
            print(score.line(name))
    for name, score in scores.items():
        print(score.line(name))


def pairs(groups: Sequence[Group], settings: Sequence[Settings], fit: Fit) -> None:
    """Print how random pairs of a model and a key are predicted, from the others."""
    score = Score()
    generator = np.random.default_rng(0)
    folds = [generator.integers(0, FOLDS, len(group.models)) for group in groups]
    for fold in range(FOLDS):
        kept = [_part(group, own != fold) for group, own in zip(groups, folds, strict=True)]
        part = fit_groups(kept, settings, start=fit, rounds=2)
        for index, (group, own) in enumerate(zip(groups, folds, strict=True)):
            predicted = log_latency(group.features, part.coefficients[index])
            for place in np.flatnonzero(own == fold):
                score.add(group.key, group.models[place], predicted[place], group.log_ms[place])
    print(f"\nHeld-out pairs\n{_HEAD}\n{score.line(f'a {FOLDS}th of all rows')}")


def _part(group: Group, kept: np.ndarray) -> Group:  # type: ignore[type-arg]
    return Group(group.key, group.family, group.models, group.features, group.log_ms, group.weights * kept)


def score_rows(
    rows: Sequence[Latency], latencies: Sequence[Latency], groups: Sequence[Group], fit: Fit, held: Sequence[HeldOut],
    speeds: dict[str, Speed],
) -> None:  # fmt: skip
    """Print how rows of another table are predicted, and which were not, and why."""
    predictor = Predictor(groups, fit, held, {**speeds_of(rows), **speeds}, latencies)
    scores: dict[str, Score] = defaultdict(Score)
    refused: Counter[str] = Counter()
    by_device: dict[str, Score] = defaultdict(Score)
    for row in rows:
        found = predictor.predict(row)
        if isinstance(found, str):
            refused[found] += 1
            continue
        basis, predicted, reach = found
        measured = float(np.log(row.ms))
        inside = None if reach is None else bool(abs(predicted - measured) <= reach)
        fitted = (scores["all fitted"], by_device[row.key.device]) if basis.startswith("fitted") else ()
        for score in (scores[basis], *fitted):
            score.add(row.key, row.model, predicted, measured, inside)
    print(f"\n{len(rows)} rows that were not fitted, by basis\n{_HEAD}")
    for name, score in sorted(scores.items()):
        print(score.line(name))
        if name in ("transferred", "specification only"):
            print(after_factor(score).line("  after one factor"))
    print(f"\nFitted, by device with at least {ENOUGH_ROWS} rows\n{_HEAD}")
    for name, score in sorted(by_device.items(), key=lambda each: -len(each[1].rows)):
        if len(score.rows) >= ENOUGH_ROWS:
            print(score.line(name))
    print("\nNot predicted")
    for reason, count in refused.most_common(30):
        print(f"{count:6}  {reason}")


def after_factor(score: Score) -> Score:
    """Return predictions after the factor of each key is set right by its other models."""
    by_key: dict[Key, list[tuple[str, float, float]]] = defaultdict(list)
    for key, model, predicted, measured, _ in score.rows:
        by_key[key].append((model, predicted, measured))
    found = Score()
    for key, rows in by_key.items():
        for model, predicted, measured in rows:
            others = [given - true for name, given, true in rows if name != model]
            if others:
                found.add(key, model, predicted - float(np.median(others)), measured)
    return found


class Predictor:
    """Predicts rows of a table from the fit of another one."""

    def __init__(
        self, groups: Sequence[Group], fit: Fit, held: Sequence[HeldOut], speeds: dict[str, Speed], latencies: Iterable[Latency]
    ) -> None:  # fmt: skip
        self._groups, self._fit, self._speeds = groups, fit, speeds
        self._scaling: Scaling = fit_scaling(groups, fit, speeds)
        self._reaches = reaches(groups, leave_devices_out(groups, fit, speeds))
        self._gain, self._gain_spread = threads_gain(groups)
        standardized = [np.abs(each.errors) / each.deviations for each in held]
        self._reach = [
            quantile(standardized[index], np.concatenate([standardized[other] for other, each in enumerate(groups)
                                                          if each.family == group.family and other != index] or [np.zeros(0)]))
            for index, group in enumerate(groups)
        ]  # fmt: skip
        self._npu: dict[tuple[str, str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
        for each in latencies:
            if each.key.processor == "npu":
                self._npu[each.key.device, each.key.runtime, each.key.precision][each.model, each.input].append(each.ms)

    def predict(self, row: Latency) -> tuple[str, float, float | None] | str:
        """Return basis, logarithm of ms and reach of the interval; or why there is none."""
        features = model_at(row.model, row.input)
        if features is None:
            return f"{row.model} {row.input}: its layers are not known"
        if row.key.processor == "npu":
            return self._nearest(row, features)
        family = family_of(row.key)
        seen = design(features, family.runtime)
        alike = self._alike(row.key)
        if alike:
            name, indices = alike
            found = [float(log_latency(seen, self._fit.coefficients[index])) for index in indices]
            reach = [
                self._reach[index] * float(np.hypot(
                    log_deviation(seen, self._fit.coefficients[index], self._fit.deviations[index]), self._fit.noise[index]
                )) for index in indices
            ]  # fmt: skip
            spread = float(np.std(found))
            return name, float(np.median(found)), float(np.median(reach)) + spread
        if family.processor == "gpu":
            return "GPU that was not measured with this runtime and precision"
        speed = self._speeds.get(row.key.device) or speed_of(row)
        given = scaled(self._scaling, family, speed, row.key.thread_count) if speed else None
        if given is None:
            return f"{family.runtime} {family.precision} on CPU: never measured" if speed else "device without known cores"
        same, other = self._reaches
        reach_of = (same if given[1] else other)[family]
        return "transferred" if given[1] else "specification only", float(log_latency(seen, given[0])), reach_of

    def _alike(self, key: Key) -> tuple[str, list[int]] | None:
        """Return the groups of the same key; or of the same but for setup; or but for the number of several threads."""
        levels = (
            ("fitted", lambda own: own == key),
            ("fitted, other setup", lambda own: _plain(own) == _plain(key)),
            ("fitted, other threads", lambda own: _plain(own)[:3] == _plain(key)[:3] and family_of(own) == family_of(key)),
        )
        for name, accepts in levels:
            found = [index for index, group in enumerate(self._groups) if accepts(group.key)]
            if found:
                return name, found
        return None

    def _nearest(self, row: Latency, features: Array) -> tuple[str, float, float | None] | str:
        measured = self._npu.get((row.key.device, row.key.runtime, row.key.precision), {})
        known = [(model, value) for model in measured if (value := model_at(*model)) is not None]
        if not known:
            return "NPU without measurements of known models"
        nearest = min(known, key=lambda each: float(np.abs(np.log1p(each[1] / 1000) - np.log1p(features / 1000)).sum()))
        return "NPU, nearest model", float(np.log(np.median(measured[nearest[0]]))), None


def _plain(key: Key) -> tuple[str, str, str, str, str]:
    return key.device, key.runtime + key.delegate, key.precision, key.threads, ""


if __name__ == "__main__":
    main()
