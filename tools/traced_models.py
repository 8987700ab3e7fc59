"""Kernels of the networks of torchvision and timm, from the operators they call on tensors that hold no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.devices.kernels import Kernel, Kind, convolution_kind


def traced_kernels(build: Callable[[], torch.nn.Module], resolution: int) -> list[Kernel]:
    """Return the kernels of a network on one square image.

    Args:
        build: Makes the network.
        resolution: Height and width.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.backends.mha.set_fastpath_enabled(False)
    network = build().eval().to("meta")
    image = torch.empty(1, 3, resolution, resolution, device="meta")
    recorder = _Recorder({id(each) for each in network.parameters()})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
        network(image)
    return recorder.kernels


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, parameters: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []
        self._parameters = parameters
        self._made_by: dict[int, str] = {}
        self._alive: list[Any] = []  # ids of tensors are reused when one goes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [each for each in torch.utils._pytree.tree_leaves(args) if isinstance(each, torch.Tensor)]
        results = [each for each in torch.utils._pytree.tree_leaves(made) if isinstance(each, torch.Tensor)]
        self._alive += results + given
        activations = [each for each in given if id(each) not in self._parameters and self._made_by.get(id(each)) != "weight"]
        if not activations:  # of weights alone: computed once
            self._made_by |= {id(each): "weight" for each in results}
            return made
        source = self._made_by.get(id(activations[0]), "")
        kernel = self._kernel(name, args, given, activations, results)
        fused = (name in _NORMS and source == "product") or (name in _SIMPLE and source in ("product", "sum"))
        if kernel is not None and not fused:
            self.kernels.append(kernel)
        role = source if fused or kernel is None else "product" if kernel.macs else "sum" if name.startswith("add") else "other"
        self._made_by |= {id(each): role for each in results if id(each) not in self._parameters}
        return made

    def _kernel(self, name: str, args: Any, given: list[Any], activations: list[Any], results: list[Any]) -> Kernel | None:
        read, written = sum(each.numel() for each in activations), results[0].numel()
        label = f"{name}_{len(self.kernels)}"
        if name == "convolution":
            return _convolution(label, args, read, results[0])
        if name in _PRODUCTS:
            left = args[1] if name in ("addmm", "baddbmm") else args[0]
            macs = written * left.shape[-1]
            weights = 0 if len(activations) > 1 else sum(each.numel() for each in given) - activations[0].numel()
            kind: Kind = "dense" if weights and left.shape[-2] == 1 else "matmul"
            return Kernel(label, kind, macs, weights, read, written)
        if name in _VIEWS:
            return None
        category: Kind = "pool" if name in _POOLS else "movement" if name in _MOVEMENTS else "elementwise"
        if name in _NORMS:
            read = activations[0].numel()
        size = max(args[1]) if category == "pool" and "pool2d" in name and "adaptive" not in name else 1
        return Kernel(label, category, 0, 0, read, written, size=size)


def _convolution(label: str, args: Any, read: int, made: Any) -> Kernel:
    given, weight, stride, groups = args[0], args[1], max(args[3]), args[8]
    size = tuple(weight.shape[2:])
    kind: Kind = "conv" if args[6] else convolution_kind(groups, given.shape[1], size, stride)
    macs = (given.numel() * weight.numel() // weight.shape[0]) if args[6] else made.numel() * weight.numel() // weight.shape[0]
    if kind == "pointwise" and made.shape[-1] == made.shape[-2] == 1:
        kind = "dense"
    weights = weight.numel() + made.shape[1]
    return Kernel(label, kind, macs, weights, given.numel(), made.numel(), stride, max(size), made.shape[1])


_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "matmul", "linear"})
_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm"})
_SIMPLE = frozenset({"relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_"})
_VIEWS = frozenset({
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "alias", "detach",
    "select", "slice", "split", "split_with_sizes", "chunk", "unbind", "as_strided", "flatten", "dropout", "empty",
    "empty_like", "_to_copy",
    "zeros_like", "ones_like", "lift_fresh", "unfold",
})  # fmt: skip
_POOLS = frozenset({
    "max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "mean", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "sum", "amax",
})  # fmt: skip
_MOVEMENTS = frozenset({
    "cat", "clone", "copy_", "constant_pad_nd", "index", "gather", "pixel_shuffle", "upsample_bilinear2d", "upsample_nearest2d",
    "stack", "roll", "index_select", "channel_shuffle", "native_channel_shuffle",
})  # fmt: skip
