"""Count what the models of published latency tables compute and move: writes ``edgekd/devices/published_models.csv``.

The MobileNet family is counted from its tables of layers, others from the definitions of torchvision and timm, and those of
ncnn's benchmark from its ``.param`` files, which are in ``benchmark/models`` of a checkout of github.com/Tencent/ncnn::

    pip install torchvision timm
    python tools/published_models.py NCNN/benchmark/models

Models whose definition is not one of these have no row, and no latency of theirs is used.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mobilenets import mobilenet_v1, mobilenet_v2, mobilenet_v3
from ncnn_param import ncnn_kernels

from edgekd.devices.features import FEATURES, features_of
from edgekd.devices.kernels import Kernel
from edgekd.safe.files import atomic_path

_OUT = Path(__file__).parent.parent / "edgekd" / "devices" / "published_models.csv"

Named = tuple[str, int, list[Kernel], str]
"""A model, its resolution, its kernels, and where those are from."""

NCNN = {
    "alexnet": ("alexnet", 227), "blazeface": ("blazeface", 128), "efficientnet_b0": ("efficientnet_b0", 224),
    "efficientnetv2_b0": ("efficientnetv2_b0", 224), "fastestdet": ("FastestDet", 352), "googlenet": ("googlenet", 224),
    "mnasnet_1.0": ("mnasnet", 224), "mobilenet_v1_ssd": ("mobilenet_ssd", 300), "mobilenet_yolo": ("mobilenet_yolo", 416),
    "mobilenetv2_yolov3": ("mobilenetv2_yolov3", 352), "nanodet_m": ("nanodet_m", 320),
    "proxylessnas_mobile": ("proxylessnasnet", 224), "regnet_y_400mf": ("regnety_400m", 224), "resnet18": ("resnet18", 224),
    "resnet50": ("resnet50", 224), "shufflenet_v1_1.0": ("shufflenet", 224), "shufflenet_v2_1.0": ("shufflenet_v2", 224),
    "squeezenet_1.1": ("squeezenet", 227), "squeezenet_ssd": ("squeezenet_ssd", 300), "vgg16": ("vgg16", 224),
    "vision_transformer": ("vision_transformer", 384), "yolo_fastest_1.1": ("yolo-fastest-1.1", 320),
    "yolo_fastestv2": ("yolo-fastestv2", 352), "yolov4_tiny": ("yolov4-tiny", 416),
}  # fmt: skip
"""By name in latency tables: file and resolution. Of MobileNets the family's own tables are taken."""
TORCHVISION = {
    "alexnet": ("alexnet", 224), "convnext_base": ("convnext_base", 224), "convnext_tiny": ("convnext_tiny", 224),
    "densenet121": ("densenet121", 224), "densenet161": ("densenet161", 224), "densenet169": ("densenet169", 224),
    "densenet201": ("densenet201", 224), "efficientnet_b4": ("efficientnet_b4", 380),
    "efficientnet_v2_s": ("efficientnet_v2_s", 384), "mnasnet_0.5": ("mnasnet0_5", 224), "mnasnet_0.75": ("mnasnet0_75", 224),
    "mnasnet_1.3": ("mnasnet1_3", 224), "regnet_x_3.2gf": ("regnet_x_3_2gf", 224), "regnet_y_800mf": ("regnet_y_800mf", 224),
    "resnet34": ("resnet34", 224), "resnet50_v1.5": ("resnet50", 224), "resnet101": ("resnet101", 224),
    "resnet152": ("resnet152", 224), "resnext101": ("resnext101_32x8d", 224), "resnext50_32x4d": ("resnext50_32x4d", 224),
    "shufflenet_v2_0.5": ("shufflenet_v2_x0_5", 224), "shufflenet_v2_1.5": ("shufflenet_v2_x1_5", 224),
    "shufflenet_v2_2.0": ("shufflenet_v2_x2_0", 224), "squeezenet_1.0": ("squeezenet1_0", 224),
    "squeezenet_1.1": ("squeezenet1_1", 224), "vgg11": ("vgg11", 224), "vgg11_bn": ("vgg11_bn", 224), "vgg13": ("vgg13", 224),
    "vgg13_bn": ("vgg13_bn", 224), "vgg16_bn": ("vgg16_bn", 224), "vgg19": ("vgg19", 224), "vgg19_bn": ("vgg19_bn", 224),
    "vit_b_16": ("vit_b_16", 224), "wide_resnet50_2": ("wide_resnet50_2", 224),
}  # fmt: skip
TIMM = {
    "beit": ("beit_base_patch16_224", 224), "densenet121_tf": ("densenet121", 224), "dla102x": ("dla102x", 224),
    "efficientformer_l1": ("efficientformer_l1", 224), "efficientnet_lite0": ("tf_efficientnet_lite0", 224),
    "efficientnet_lite1": ("tf_efficientnet_lite1", 240), "efficientnet_lite2": ("tf_efficientnet_lite2", 260),
    "efficientnet_lite3": ("tf_efficientnet_lite3", 280), "efficientnet_lite4": ("tf_efficientnet_lite4", 300),
    "ghostnet_0.5": ("ghostnet_050", 224), "ghostnet_1.0": ("ghostnet_100", 224), "ghostnet_1.3": ("ghostnet_130", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299), "inception_v3": ("tf_inception_v3", 299),
    "inception_v4": ("inception_v4", 299), "levit_128s": ("levit_128s", 224), "mobilevit": ("mobilevit_s", 256),
    "nasnet_large": ("nasnetalarge", 331), "pp_lcnet_0.35": ("lcnet_035", 224), "pp_lcnet_0.5": ("lcnet_050", 224),
    "pp_lcnet_0.75": ("lcnet_075", 224), "pp_lcnet_1.0": ("lcnet_100", 224), "pp_lcnet_1.5": ("lcnet_150", 224),
}  # fmt: skip
"""By name in latency tables: constructor and resolution."""
OTHER_INPUTS = {"inception_v3": (224,), "mobilevit": (224,)}
"""Resolutions beside the usual one."""
_SHUFFLENETS = {"shufflenet_v2_0.25": (24, 24, 48, 96, 512), "shufflenet_v2_0.33": (24, 32, 64, 128, 512)}
_LCNETS = {"pp_lcnet_0.25": 0.25, "pp_lcnet_2.0": 2.0, "pp_lcnet_2.5": 2.5}
_GRID_V1, _GRID_V2 = (128, 160, 192, 224), (96, 128, 160, 192, 224)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ncnn", type=Path, help="folder of ncnn's .param files")
    parser.add_argument("--out", type=Path, default=_OUT)
    arguments = parser.parse_args()
    rows = {(name, size): (kernels, source) for name, size, kernels, source in all_models(arguments.ncnn)}
    with atomic_path(arguments.out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "input", *FEATURES, "macs", "source"))
        for (name, size), (kernels, source) in sorted(rows.items()):
            macs = sum(each.macs for each in kernels)
            writer.writerow((name, f"{size}x{size}", *(f"{each:.12g}" for each in features_of(kernels)), macs, source))
    print(f"{len(rows)} models in {arguments.out}")


def all_models(ncnn: Path) -> Iterator[Named]:
    """Yield every model that is known here."""
    yield from mobilenets()
    yield from traced()
    for name, (file, size) in NCNN.items():
        yield name, size, ncnn_kernels(ncnn / f"{file}.param", (3, size, size)), f"ncnn benchmark/models/{file}.param"


def mobilenets() -> Iterator[Named]:
    """Yield the MobileNets, in all widths and resolutions that tables have."""
    source = "layers of TensorFlow's slim models"
    for width in (0.25, 0.5, 0.75, 1.0):
        for size in _GRID_V1:
            yield f"mobilenet_v1_{width}", size, mobilenet_v1(width, size), source
    for width in (0.35, 0.5, 0.75, 1.0):
        for size in _GRID_V2:
            yield f"mobilenet_v2_{width}", size, mobilenet_v2(width, size), source
    for width in (0.25, 1.3, 1.4, 1.5, 2.0):
        yield f"mobilenet_v2_{width}", 224, mobilenet_v2(width, 224), source
    for large in (True, False):
        name = "mobilenet_v3_large" if large else "mobilenet_v3_small"
        for width in (0.75, 1.0):
            yield f"{name}_{width}", 224, mobilenet_v3(width, 224, large=large), source
        yield f"{name}_minimalistic_1.0", 224, mobilenet_v3(1.0, 224, large=large, minimalistic=True), source
        for width in (0.35, 0.5, 1.25):
            kernels = mobilenet_v3(width, 224, large=large, by_ratio=False)
            yield f"{name}_{width}", 224, kernels, "layers of Paddle's models"


def traced() -> Iterator[Named]:
    """Yield the networks of torchvision and timm."""
    import timm
    import torchvision
    from timm.models.efficientnet import _gen_mnasnet_a1
    from timm.models.mobilenetv3 import _gen_lcnet
    from torchvision.models.shufflenetv2 import ShuffleNetV2
    from traced_models import traced_kernels

    def traced_one(name: str, build: Callable[[], Any], size: int, source: str) -> Iterator[Named]:
        for each in dict.fromkeys((size, *OTHER_INPUTS.get(name, ()))):
            yield name, each, traced_kernels(build, each), source

    torchvision_source, timm_source = f"torchvision {version('torchvision')}", f"timm {version('timm')}"
    for name, (constructor, size) in TORCHVISION.items():
        yield from traced_one(name, getattr(torchvision.models, constructor), size, f"{torchvision_source} {constructor}")
    for name, (constructor, size) in TIMM.items():
        yield from traced_one(name, partial(timm.create_model, constructor), size, f"{timm_source} {constructor}")
    for name, channels in _SHUFFLENETS.items():
        yield from traced_one(name, partial(ShuffleNetV2, [4, 8, 4], list(channels)), 224, f"{torchvision_source} ShuffleNetV2")
    for name, width in _LCNETS.items():
        yield from traced_one(name, partial(_gen_lcnet, "lcnet_100", width), 224, f"{timm_source} lcnet, width {width}")
    for width in (0.35, 0.5, 0.75, 1.0, 1.4):
        for size in _GRID_V2:
            build = partial(_gen_mnasnet_a1, "semnasnet_100", width)
            yield f"mnasnet_a1_{width}", size, traced_kernels(build, size), f"{timm_source} semnasnet, width {width}"


if __name__ == "__main__":
    main()
