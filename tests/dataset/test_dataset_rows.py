"""Which examples of a DataLoader are explained, and arguments that have rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SubsetRandomSampler

import funattr as fa
from funattr.dataset._checks import check_device

from .test_dataset import CLASSES, IMAGES, N, check, images, loop, net, run


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


GIVEN = partial(fa.integrated_gradients, baselines=IMAGES[:8], n_steps=2)

#: Arguments with a row for each example of a batch of 8.
ROWS: dict[str, dict[str, Any]] = {
    "an argument": {"method": fa.integrated_gradients, "baselines": IMAGES[:8], "n_steps": 2},
    "bound": {"method": GIVEN},
    "in a composition": {"method": fa.multiply(GIVEN, fa.saliency)},
    "of a method of one's own": {"method": lambda model, x, target: GIVEN(model, x, target=target)},
    "groups": {"method": fa.sum_groups(fa.saliency, torch.arange(8)[:, None] % 3)},
    "in a target": {"method": fa.saliency, "target": lambda output: (output * torch.eye(8, 4)).sum(1)},
    "of one of several methods": {"method": ["saliency", partial(fa.feature_ablation, feature_mask=(IMAGES[:8] > 0).long())]},
    "bound to the model": {"method": fa.saliency, "model": bound_mask},
}


@pytest.mark.parametrize("name", ROWS)
def test_an_argument_with_a_row_for_each_place_in_a_batch_is_refused(name: str, tmp_path: Path) -> None:
    """It went well by chance: example 8 had the row of example 0, and with another size of batch another one."""
    with pytest.raises(ValueError, match=r"\[8, (3|1)|8 (values|ids) for|has the shape \[8\]"):
        run(tmp_path, **ROWS[name], batch_size=8)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_distribution_as_long_as_the_batch_is_none_of_these(tmp_path: Path) -> None:
    run(tmp_path, method=fa.deep_lift_shap, baselines=IMAGES[:8], batch_size=8)
    check(tmp_path, loop(fa.deep_lift_shap, baselines=IMAGES[:8]))


#: Results whose names are easily mixed up with each other, or with those of columns, and options.
NAMED: dict[str, tuple[Callable[[torch.Tensor], Any], dict[str, Any]]] = {
    "of columns": (lambda x: {"shape": x, "values": 2 * x, "a.of": 3 * x, "a.indices": 4 * x}, {}),
    "of columns of the largest": (lambda x: {"shape": x, "values": 2 * x, "a.indices": 4 * x}, {"top_k": 3}),
    "numbers": (lambda x: {0: x, 6: [2 * x, 3 * x]}, {}),
}


@pytest.mark.parametrize("name", NAMED)
def test_results_of_any_names_come_back(name: str, tmp_path: Path) -> None:
    """A run was stored, and could not be loaded."""
    made, options = NAMED[name]
    run(tmp_path, method=lambda model, x: made(x), batch_size=8, **options)
    found = list(fa.dataset.load(tmp_path))
    assert len(found) == N
    for i, own in found:
        own = own if not options else {key: part.dense() for key, part in own.items()}
        expected = made(IMAGES[i])
        if options:
            largest = {key: part.flatten().abs().topk(3).values[-1] for key, part in expected.items()}
            expected = {key: torch.where(part.abs() >= largest[key], part, 0) for key, part in expected.items()}
        torch.testing.assert_close(own, expected)


#: What a file cannot hold: results, and what is said.
REFUSED: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "two of one name": (lambda x: {"a.b": x, "a": {"b": 2 * x}}, r"have the name 'attribution\.a\.b'"),
    "a number and its text": (lambda x: {0: x, "0": 2 * x}, r"have the name 'attribution\.0'"),
    "complex numbers": (lambda x: x + 1j, r"hold complex numbers, .* by pool="),
    "nothing": (lambda x: x[:, :0], "hold no numbers"),
    "other dtypes": (
        lambda x: x.bfloat16() if x[0, 0, 0, 0] == IMAGES[0, 0, 0, 0] else x,
        "differ in dtype, bfloat16 and float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_results_that_cannot_be_stored_are_refused(name: str, tmp_path: Path) -> None:
    """They were stored as others, in silence, or ended in an error of pyarrow, or of torch when they were loaded."""
    made, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        run(tmp_path, method=lambda model, x: made(x), batch_size=1 if name == "other dtypes" else 8, part_size=16)
    assert not list(tmp_path.glob("*.parquet"))


def largest_over_all(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    found = fa.gradient(model, x, target=target)
    return found / found.abs().max()


def a_little_of_all(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    found = fa.gradient(model, x, target=target)
    return found + 0.05 * found.mean(0)


def by_the_batch() -> nn.Module:
    """Normalises by the examples of a batch, in eval mode too."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        norm = nn.BatchNorm2d(5, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)).eval()


MIXED: dict[str, tuple[Any, Any]] = {
    "a method": (largest_over_all, net),
    "a method, a little": (a_little_of_all, net),
    "a method in a combinator": (fa.absolute(largest_over_all), net),
    "a model": (fa.gradient, by_the_batch),
    "one of two": ({"a": fa.saliency, "b": largest_over_all}, net),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_examples_explains_each_alone(name: str, tmp_path: Path) -> None:
    """Each had what its batch made of it, another in another batch, in silence."""
    method, make = MIXED[name]
    with pytest.warns(UserWarning, match="depends on the others in its batch"):
        assert run(tmp_path, method=method, model=make, batch_size=7) == (N, 0, 0)
    alone = method["b"] if isinstance(method, dict) else method
    for i, found in fa.dataset.load(tmp_path):
        own = found["b"] if isinstance(method, dict) else found
        torch.testing.assert_close(own, alone(make().eval(), IMAGES[i : i + 1], target=CLASSES[i])[0], rtol=1e-4, atol=1e-5)


def later(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    """Mixes where one example is large."""
    found = fa.gradient(model, x, target=target)
    return found / x.abs().max().clamp(min=8)


def of_seven(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    found = fa.gradient(model, x, target=target)
    return found * 2 if len(x) == 7 else found


def drawn(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    return later(model, x + torch.randn_like(x), target)


@pytest.mark.parametrize(("method", "size"), [(later, 4), (of_seven, 8), (drawn, 4)])
def test_what_mixes_examples_later_on_is_told(method: Any, size: int, tmp_path: Path) -> None:
    """The first batch told of all: what is by the largest of a later one, or the number of the last, was taken as it came."""
    images = IMAGES.clone()
    images[12] *= 100  # in the fourth batch of four
    told = r"depends on the others in its batch.*Batches before this one showed nothing.*batch_size=1\."
    with pytest.warns(UserWarning, match=told):
        assert run(tmp_path / "found", images, method, target=1, batch_size=size) == (N, 0, 0)
    assert run(tmp_path / "alone", images, method, target=1, batch_size=1) == (N, 0, 0)
    alone = dict(fa.dataset.load(tmp_path / "alone"))
    for i, found in fa.dataset.load(tmp_path / "found"):
        if i >= 12 or method is of_seven:
            torch.testing.assert_close(found, alone[i], rtol=1e-4, atol=1e-6)


def moves_x(model: Any, x: torch.Tensor, target: Any = None) -> torch.Tensor:
    return x.mul_(2)


@pytest.mark.parametrize("methods", [moves_x, {"a": moves_x, "b": moves_x}], ids=["one", "two"])
def test_a_method_may_write_to_its_x(methods: Any, tmp_path: Path) -> None:
    """It wrote to the caller's data, and examples that were explained again were others."""
    before = IMAGES.clone()
    run(tmp_path, method=methods, batch_size=7)
    assert torch.equal(IMAGES, before)
    for i, found in fa.dataset.load(tmp_path):
        for own in found.values() if isinstance(found, dict) else [found]:
            torch.testing.assert_close(own, 2 * IMAGES[i])


@pytest.mark.parametrize("nothing", [None, (), {"a": None}], ids=str)
def test_a_method_that_returns_no_tensor_is_refused(nothing: Any, tmp_path: Path) -> None:
    """It was stored as explained, where a `return` was forgotten."""
    with pytest.raises(TypeError, match="returned no tensor"):
        run(tmp_path, method=lambda model, x: nothing)


def test_an_attribution_that_is_not_finite_is_that_of_a_bad_example(tmp_path: Path) -> None:
    """Of a method of one's own it was stored, where one of the library's is refused."""
    first = IMAGES[0, 0, 0, 0]
    assert run(tmp_path, method=lambda model, x: torch.where(x == first, torch.nan, x), batch_size=7) == (N - 1, 1, 0)
    assert "holds NaN or inf" in fa.dataset.failed(tmp_path)[0]["message"]


def test_counts_of_numpy_are_counts(tmp_path: Path) -> None:
    counts: dict[str, Any] = {"batch_size": np.int64(4), "part_size": np.int32(8), "seed": np.int64(0), "workers": np.int8(1)}
    found = fa.dataset.run(fa.saliency, net, images(), tmp_path, **counts)
    assert found.explained == N
    assert fa.dataset.run(fa.saliency, net, images(), tmp_path).skipped == N  # numpy's seed is the same seed
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        with pytest.raises(ValueError, match=r"out '.*file.*' is a file, or in one, and must be a folder"):
            fa.dataset.run(fa.saliency, net, images(), tmp_path / out)
    for kind in ("cuda", "mps"):
        if not getattr(torch.backends, kind).is_built():
            with pytest.raises(ValueError, match=f"there is no device '{kind}' here: this torch is built without"):
                fa.dataset.run(fa.saliency, net, images(), tmp_path / "maps", device=kind)
            check_device(kind, here=False)  # a cluster's workers may have it
    with pytest.raises(TypeError, match="out must be the name of a folder, got int"):
        fa.dataset.run(fa.saliency, net, images(), 3)  # type: ignore[arg-type]  # on purpose
