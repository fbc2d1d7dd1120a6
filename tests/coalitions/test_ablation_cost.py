"""What feature_ablation costs: examples through each part of a model, memory, set-up."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import funattr as fa
from benchmarks.cost import flop_registry
from funattr import feature_ablation
from funattr._types import Place

from ..models import CASES, double
from .test_ablation import tensors


class Counted(TorchDispatchMode):
    """FLOPs, and the most bytes that lived at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # not typed there
        self.flops = self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        for leaf in tensors(out):
            storage = leaf.untyped_storage()
            if storage._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def counted(f: Callable[[], Any]) -> Counted:
    mode = Counted()
    with torch.no_grad(), mode:
        f()
    return mode


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2", fa.input_of("fc")])
def test_flops_are_at_the_floor(layer: Any) -> None:
    model, x = double(next(case for case in CASES if case.name == "conv"))
    value = fa.activation(model, x, layer=layer)
    mask = torch.arange(value.shape[1]).reshape(-1, *(1,) * (value.dim() - 2))
    groups = value.shape[1]
    whole = counted(lambda: model(x)).flops
    place = layer if isinstance(layer, Place) else fa.output_of(layer)
    early = Place(place.layer, place.inputs, 0)
    prefix = counted(lambda: fa.activation(model, x, layer=early)).flops
    found = counted(lambda: feature_ablation(model, x, layer=layer, target=1, feature_mask=mask)).flops
    assert found <= 1.001 * (prefix + (groups + 1) * (whole - prefix))
    every = counted(lambda: feature_ablation(model, x[:1], layer=layer, target=1)).flops
    assert every <= 1.001 * (prefix + (value[0].numel() + 1) * (whole - prefix)) / 4
    at_input = counted(lambda: feature_ablation(model, x, target=1, feature_mask=torch.arange(8))).flops
    assert at_input <= 1.001 * 9 * whole


@pytest.mark.parametrize("layer", [None, "relu1"])
def test_memory_is_flat_in_the_number_of_groups(layer: Any) -> None:
    model = CASES[1].build().eval()
    x = torch.randn(2, 3, 16, 16)
    peaks = []
    for step in (4, 2, 1):  # 16, 64, 256 squares
        mask = (torch.arange(16)[:, None] // step) * 100 + torch.arange(16)[None] // step
        found = functools.partial(feature_ablation, model, x, layer=layer, target=1, feature_mask=mask, chunk_size=4)
        peaks.append(counted(found).peak)
    assert max(peaks) <= 1.05 * peaks[0]


@pytest.mark.filterwarnings("ignore:150,52. (features|runs)")
def test_many_groups_are_set_up_quickly() -> None:
    x = torch.randn(1, 3, 224, 224)
    runs = []

    class Enough(Exception):
        pass

    def model(x: Tensor) -> Tensor:
        runs.append(1)
        if len(runs) == 2:
            raise Enough
        return x.mean((1, 2, 3))

    mode = Counted()
    with mode, pytest.raises(Enough):
        feature_ablation(model, x, chunk_size=2)
    assert mode.peak < 12 * x.numel() * 4
