"""What pruning costs in accuracy and brings in latency, beside other ways to as few multiply-accumulates (MACs).

Claims: latency on this host falls by at least 0.8 of what the MACs fall by, and accuracy is no worse beyond noise than that of
torch-pruning's default flow, of a narrower network of the same kind trained from scratch with the whole network as its
teacher, and of channels cut at random. Of SST-2, a transformer without half of its heads and half of its feed-forward width
loses 1.5 points at most.

Run it on images in class folders, ``IMAGES/{train,validation,test}/CLASS/``, as CIFAR-10 unpacks::

    python benchmarks/pruning_quality.py IMAGES --weights resnet20=FILE mobilenet_v2=FILE --out runs/pruning
    python benchmarks/pruning_quality.py IMAGES --models --order resnet20 --weights resnet20=FILE --out runs/pruning
    python benchmarks/pruning_quality.py --sst2 TEXTS --out runs/pruning

All ways start from the same trained network (trained here on the labels, where no weights are given). ``ours`` and
``random`` are ``edgekd.compress`` with all defaults but for the criterion, and for the learning rate and temperature that all
recoveries share. ``torch-pruning`` is the flow of its README: ``BasePruner``, ``GroupMagnitudeImportance(p=2)``, the same share
of every layer, ``round_to`` 8, or finer where widths of 8 would miss the budget by over 5 %. These three recover alike: taught
by the whole network, with the same loss, optimizer, images, order of images and ``--epochs``. ``width`` learns from scratch for
``--scratch-epochs``, three times as many if not told, with the lesson that was best in ``distillation_quality.py``; it may have
up to 10 % more MACs, for its widths are few.

Every network becomes four files. ONNX and TFLite are timed last, all of a network and format in one process and in turn, on
one thread; "share" is (time before / time) / (MACs before / MACs). Files in int8 keep no layer in floating point, so that times
compare, and have weights as they were trained. Accuracy is of the network in PyTorch; its intervals are Wilson's, those of
differences are paired, 95 % both, over the test split; they do not hold what another seed would change. Widths that ours cuts
are multiples of the first of ``--multiples`` that reaches the budget: 8, if nothing is said and 8 does.

``--order MODEL`` compares pruning before quantization-aware training with the other order, and with neither of it, for as
many epochs in all, at the first of ``--reductions``. Killed, it continues; networks may be done side by side by ``--models`` in
one command each with ``--latency never``; the same command with all of them then times and makes the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distillation_quality import thinned
from pruning_results import HALF, ORDERS, TRANSFORMER, WHOLE, keep, order_table, table
from pruning_ways import (
    FORMATS,
    MULTIPLES,
    NETWORKS,
    WAYS,
    Made,
    Told,
    as_it_is,
    cut_by_edgekd,
    labels_learned,
    recipe,
    trained,
)

import edgekd

TEXT_MODEL: dict[str, Any] = {"model": f"zoo:{TRANSFORMER}", "arguments": {"dropout": 0.2}}


def main() -> None:
    """Make every network, time them, print the tables and leave them in files."""
    options = asked_for()
    if options.images and options.every > 1:
        copied = options.out / f"images-every-{options.every}"
        if not copied.is_dir():
            thinned(options.images, options.every, copied.with_name(f"{copied.name}.part")).replace(copied)
        options.images = copied
    tables = []
    for name in options.models if options.images else []:
        of_images(name, options)
    if options.order:
        in_order(options.order, options)
        tables.append(order_table(options.order, options))
    if options.sst2:
        of_texts(options)
    for name in (*(options.models if options.images else ()), *((TRANSFORMER,) if options.sst2 else ())):
        tables.append(table(name, options))
    (options.out / "results.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables), flush=True)


def asked_for() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="?", help="folder with train/, validation/ and test/")
    parser.add_argument("--sst2", type=Path, metavar="TEXTS", help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="that given weights of SST-2 were trained with; else one is trained"
    )
    parser.add_argument("--order", choices=NETWORKS, metavar="MODEL", help="compare orders of pruning and quantization on it")
    parser.add_argument("--models", nargs="*", choices=NETWORKS, default=["resnet20", "mobilenet_v2"])
    parser.add_argument("--reductions", nargs="+", type=float, default=[2.0, 4.0], help="how many times fewer MACs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--weights", nargs="+", default=[], metavar="MODEL=FILE", help="trained weights, instead of training")
    parser.add_argument("--every", type=int, default=1, help="train on every so many-th image of a class")
    parser.add_argument("--epochs", type=int, default=10, help="of recovery")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of recovery, of images")
    parser.add_argument("--temperature", type=float, default=4.0, help="of recovery, of images")
    parser.add_argument("--scratch-epochs", type=int, help="of the narrower network; default: three times --epochs")
    parser.add_argument("--train-epochs", type=int, default=20, help="of whole networks without weights")
    parser.add_argument("--qat-epochs", type=int, default=4, help="with --order, beside --epochs")
    parser.add_argument("--text-epochs", type=int, default=4, help="of recovery, and of training without weights, of SST-2")
    parser.add_argument("--batch-size", type=int, default=128, help="of recovery")
    parser.add_argument("--mobilenet-width", type=float, default=0.75, help="of the whole network")
    parser.add_argument("--compile", action="store_true", help="train from scratch by torch.compile")
    parser.add_argument(
        "--multiples", type=int, nargs="+", default=list(MULTIPLES), help="of widths of ours and random; the first that does"
    )
    parser.add_argument("--prune", nargs="+", default=[], metavar="prune.KEY=VALUE", help="other settings of ours and random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--latency", choices=("auto", "again", "never"), default="auto", help="auto: what is not measured yet")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=100, help="inferences of each file in a round")
    parser.add_argument("--out", type=Path, default=Path("runs/pruning"))
    options = parser.parse_args()
    if not (options.images or options.sst2) or (options.order and not options.images):
        parser.error("give IMAGES or --sst2 TEXTS; --order needs IMAGES")
    options.scratch_epochs = options.scratch_epochs or 3 * options.epochs
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def of_images(name: str, options: argparse.Namespace) -> None:
    """Make a network smaller by every way, and leave what came of it."""
    weights, folder = trained(name, options), options.out / name
    keep(folder, WHOLE, 1.0, options, lambda: as_it_is(name, weights, options))
    for fewer in options.reductions:
        for way in options.ways:
            keep(folder, way, fewer, options, lambda way=way, fewer=fewer: WAYS[way](name, weights, fewer, options))  # type: ignore[misc]


def in_order(name: str, options: argparse.Namespace) -> None:
    """Prune a network and train it for int8 in one order and in the other, and prune it without that training."""
    weights, fewer = trained(name, options), options.reductions[0]
    plain: dict[str, Any] = {"keep": []}  # weights are mended as by default: here int8 is what counts
    rounding = {**plain, "qat": {"epochs": options.qat_epochs}}

    def prune_qat() -> Made:
        return cut_by_edgekd(name, weights, fewer, options, "pruned, then QAT", {}, quantize=rounding)

    def qat_prune() -> Made:
        asked = recipe(name, options, {"weights": str(weights)}, quantize=rounding, export={"artifacts": ["onnx-int8"]})
        told = Told(f"{name}, QAT, then pruned")
        rounded = edgekd.compress(asked, options.out / name / "run", listener=told).student.weights.absolute()
        return cut_by_edgekd(name, rounded, fewer, options, "QAT, then pruned", {}, quantize=plain)

    def prune_int8() -> Made:
        longer = {"epochs": options.epochs + options.qat_epochs}
        return cut_by_edgekd(name, weights, fewer, options, "pruned, no QAT", longer, quantize=plain)

    for way, make in zip(ORDERS, (prune_qat, qat_prune, prune_int8), strict=True):
        keep(options.out / name, way, fewer, options, make)


def of_texts(options: argparse.Namespace) -> None:
    """Cut half of the heads and of the feed-forward width of a transformer, let it recover, and leave what came of it."""
    folder = options.out / TRANSFORMER
    given = dict(each.partition("=")[::2] for each in options.weights)
    train = {"batch_size": 64, "learning_rate": 1e-3, "epochs": options.text_epochs}
    common: dict[str, Any] = {
        "name": TRANSFORMER, "seed": options.seed, "threads": options.threads,
        "data": {"source": f"tsv:{options.sst2.absolute()}", "max_tokens": 48, "tokenizer": options.tokenizer},
        "export": {"artifacts": list(FORMATS)}, "benchmark": {"runs": 10, "warmup": 0},
    }  # fmt: skip
    if TRANSFORMER in given:
        weights = Path(given[TRANSFORMER]).absolute()
    else:
        teacher = {**TEXT_MODEL, "check": False, "train": train}
        weights = labels_learned({**common, "teacher": teacher, "student": TEXT_MODEL}, folder / "run")
    common |= {
        "student": {**TEXT_MODEL, "weights": str(weights)},
        "distill": {"scheme": "none", "train": {"batch_size": 64, "precision": "fp32"}},
    }  # fmt: skip
    half = {"target": "ratio=0.5", "epochs": options.text_epochs}

    def made(prune: dict[str, Any]) -> Made:
        report = edgekd.compress({**common, "prune": prune}, folder / "run", listener=Told(TRANSFORMER))
        cuts = report.student.pruning.cuts if report.student.pruning is not None else ()
        widths = [f"{each['layer']} {each['before']} to {each['after']}" for cut in cuts for each in cut["layers"]]
        return report, ", ".join(widths) or "as it is"

    keep(folder, WHOLE, 1.0, options, lambda: made({}))
    keep(folder, HALF, 2.0, options, lambda: made(half))


if __name__ == "__main__":
    main()
