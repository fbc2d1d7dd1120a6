"""FLOPs and peak live bytes of a call, counted: the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

flop_registry: dict[Any, Any]

try:
    from torch.utils.flop_counter import flop_registry as _of_torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count
except ImportError:  # torch 2.0

    class _Missing(dict[Any, Any]):
        def __contains__(self, operation: object) -> bool:
            raise NotImplementedError("counting FLOPs needs torch 2.1 or later.")

    flop_registry = _Missing()
else:

    def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)

    # torch counts fused attention on GPUs only.
    flop_registry = dict(_of_torch)
    for _name, _count in (("", _attention), ("_backward", _attention_backward)):
        _fused = getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{_name}", None)
        if _fused is not None:
            flop_registry[_fused] = _count


__all__ = ["Cost", "cost", "flop_registry"]


class Cost(NamedTuple):
    flops: int
    peak: int  # bytes, over what was live before


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.flops = 0
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        # What an operation returns and was given is not new: weights and inputs do not count.
        given = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)}
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


def cost(call: Callable[[], Any]) -> Cost:
    counter = _Counter()
    with counter:
        result = call()
    del result
    return Cost(counter.flops, counter.peak)
