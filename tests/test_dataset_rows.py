"""Which examples of a DataLoader are explained, and arguments that have rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SubsetRandomSampler

import funattr as fa

from .test_dataset import IMAGES, N, check, images, loop, net, run


class Pairs(Sampler[list[int]]):
    """Batches of somebody's own: a few examples, in twos."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([4, 3], [9])


LOADERS: dict[str, tuple[Callable[[], Any], int]] = {
    "a batch sampler": (lambda: DataLoader(images(), batch_sampler=BatchSampler(SubsetRandomSampler([3, 4, 9]), 2, False)), 3),
    "one of somebody's own": (lambda: DataLoader(images(), batch_sampler=Pairs()), 3),
    "some, drawn": (lambda: DataLoader(images(), sampler=RandomSampler(images(), num_samples=5)), 5),
    "all, shuffled": (lambda: DataLoader(images(), batch_sampler=BatchSampler(RandomSampler(images()), 4, False)), N),
}


@pytest.mark.parametrize("name", LOADERS)
def test_of_a_loader_its_samplers_say_which_examples(name: str, tmp_path: Path) -> None:
    make, count = LOADERS[name]
    assert run(tmp_path, make()) == (count, 0, 0)
    ids = fa.dataset.load(tmp_path).ids()
    assert count != 3 or sorted(map(int, ids)) == [3, 4, 9]
    expected = loop(fa.grad_cam, layer="1")
    check(tmp_path, [expected[int(i)] for i in sorted(ids)], sorted(ids))


def test_a_loader_that_draws_an_example_twice_is_refused(tmp_path: Path) -> None:
    twice = DataLoader(images(), sampler=RandomSampler(images(), replacement=True, num_samples=200))
    with pytest.raises(ValueError, match="is given to two examples"):
        run(tmp_path, twice)


def bound_mask() -> Any:
    return partial(Masked().eval(), mask=torch.arange(8)[:, None, None, None] > 3)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.net(x * mask)


#: Arguments with a row for each example of a batch of 8.
ROWS: dict[str, dict[str, Any]] = {
    "an argument": {"method": fa.integrated_gradients, "baselines": IMAGES[:8], "n_steps": 2},
    "bound": {"method": partial(fa.integrated_gradients, baselines=IMAGES[:8], n_steps=2)},
    "of one of several methods": {"method": ["saliency", partial(fa.feature_ablation, feature_mask=(IMAGES[:8] > 0).long())]},
    "bound to the model": {"method": fa.saliency, "model": bound_mask},
}


@pytest.mark.parametrize("name", ROWS)
def test_an_argument_with_a_row_for_each_place_in_a_batch_is_refused(name: str, tmp_path: Path) -> None:
    """It went well by chance: example 8 had the row of example 0, and with another size of batch another one."""
    with pytest.raises(ValueError, match=r"\[8, (3|1)|8 values for the 1"):
        run(tmp_path, **ROWS[name], batch_size=8)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_distribution_as_long_as_the_batch_is_none_of_these(tmp_path: Path) -> None:
    run(tmp_path, method=fa.deep_lift_shap, baselines=IMAGES[:8], batch_size=8)
    check(tmp_path, loop(fa.deep_lift_shap, baselines=IMAGES[:8]))
