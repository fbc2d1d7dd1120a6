"""A run that goes on: after a stop, a crash, bad examples and dead workers, beside others, with the same draws."""

from __future__ import annotations

import json
import os
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr.dataset import _folder
from funattr.dataset._config import describe

from .. import crash
from ..breadth import full
from .test_dataset import CLASSES, IMAGES, N, check, images, loop, net, parts, run, two

SEEN: list[float] = []
ENDED = [False]


def ended(model: Any, x: Tensor, target: Any = None) -> Any:
    """Grad-CAM, ended once, as by Ctrl-C."""
    if len(set(SEEN)) == 9 and not ENDED[0]:
        ENDED[0] = True
        SEEN.clear()
        raise KeyboardInterrupt
    SEEN.extend(x[:, 0, 0, 0].tolist())
    return fa.grad_cam(model, x, layer="1", target=target)


def test_resumed_with_other_batches(tmp_path: Path) -> None:
    SEEN.clear()
    ENDED[0] = False
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, method=ended, batch_size=3, part_size=6)
    assert sum(pq.ParquetFile(part).metadata.num_rows for part in parts(tmp_path)) == 9  # what was explained is not lost
    before = {part.name: part.read_bytes() for part in parts(tmp_path)}
    assert run(tmp_path, method=ended, batch_size=4, part_size=8) == (N - 9, 0, 9)
    assert IMAGES[9:, 0, 0, 0].tolist() == list(dict.fromkeys(SEEN))  # what is done is not explained again
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    check(tmp_path, loop(fa.grad_cam, layer="1"))
    assert run(tmp_path, method=ended) == (0, 0, N)


def test_power_loss_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written and not renamed is not there; a torn file neither."""
    real, calls = os.replace, []

    def fails(source: Any, target: Any) -> None:
        if "part-" in str(target):
            calls.append(target)
            if len(calls) == 3:
                raise KeyboardInterrupt("power loss")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batch_size=4, part_size=4)
    monkeypatch.undo()
    assert len(parts(tmp_path)) == 2
    torn = _folder.notes_of(tmp_path) / "tmp"
    torn.mkdir(exist_ok=True)
    (torn / "torn.parquet").write_bytes(b"PAR1")
    assert run(tmp_path) == (N - 8, 0, 8)
    check(tmp_path, loop(fa.grad_cam, layer="1"))
    assert not torn.exists()


def test_a_part_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    rename, sync = os.replace, os.fsync

    def renamed(source: Any, target: Any) -> None:
        done.append(("rename", str(source)))
        rename(source, target)

    def synced(handle: int) -> None:
        done.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    run(tmp_path)
    place = next(i for i, (what, path) in enumerate(done) if what == "rename" and "/tmp/" in path.replace(str(tmp_path), ""))
    assert ("sync", done[place][1]) in done[:place]
    assert done[place + 1] == ("sync", str(tmp_path))


def test_a_part_that_comes_twice_is_thrown_away(tmp_path: Path) -> None:
    """A worker of old that is still alive, or Ray doing a task again: the ids are there, and stay there once."""
    run(tmp_path)
    folder = _folder.Folder(tmp_path)
    config = json.loads((_folder.notes_of(tmp_path) / "run.json").read_text())
    with folder.claimed(config):
        again = folder.new_file()
        again.write_bytes(parts(tmp_path)[0].read_bytes())
        assert folder.commit(_folder.Part(again, list(range(N)), [], folder.layout)) == 0
        assert not again.exists()
        os.pwrite(folder.lock, b"0" * 32, 0)  # on a network file system, another driver took over
        with pytest.raises(RuntimeError, match="another run has taken"):
            folder.commit(_folder.Part(None, [], []))
    check(tmp_path, loop(fa.grad_cam, layer="1"))


def test_one_run_at_a_time(tmp_path: Path) -> None:
    def nested(model: Any, x: Tensor, target: Any = None) -> Tensor:
        with pytest.raises(RuntimeError, match="another run of this process writes into"):
            run(tmp_path, method=nested)
        return x

    run(tmp_path, method=nested, batch_size=N)
    assert len(fa.dataset.load(tmp_path)) == N


def test_drivers_that_overlap_are_refused(tmp_path: Path) -> None:
    """Beside a shard there may be its siblings; no shards of another count, and no run of everything."""
    refused: list[str] = []

    def beside(model: Any, x: Tensor, target: Any = None) -> Tensor:
        for shard in (None, (0, 2), (2, 3), (1, 2)):
            try:
                fa.dataset.run(fa.saliency, net, images(), tmp_path, shard=shard)
            except (RuntimeError, ValueError) as error:  # a sibling comes as far as the configuration
                refused.append(f"{shard}: {'busy' if 'writes into' in str(error) else 'let in'}")
        return x

    run(tmp_path, method=beside, shard=(0, 2), batch_size=N)
    assert refused[:4] == ["None: busy", "(0, 2): busy", "(2, 3): busy", "(1, 2): let in"]


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "layer": ({"layer": "0"}, "arguments.layer was '1', and is '0'"),
    "method": ({"method": fa.hires_cam}, "method was 'grad_cam', and is 'hires_cam'"),
    "composition": ({"method": fa.relu(fa.grad_cam)}, r"method was 'grad_cam', and is 'relu\(grad_cam\)'"),
    "target": ({"target": 2}, "target was 'data', and is 2"),
    "seed": ({"seed": 1}, "seed was 0, and is 1"),
    "dtype": ({"dtype": "float16"}, "storage.dtype was None, and is 'float16'"),
    "top_k": ({"top_k": 3}, "storage.top_k was None, and is 3"),
    "model": ({"model": two}, f"model was '{net.__module__}:net', and is '{net.__module__}:two'"),
    "more": ({"channel_dim": -1}, "arguments.channel_dim was not given, and is -1"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_configuration_is_refused(name: str, tmp_path: Path) -> None:
    run(tmp_path)
    changed, words = DIFFERENT[name]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    given = {"method": fa.grad_cam, "model": net, "layer": "1", **changed}
    with pytest.raises(ValueError, match=f"another configuration: {words}"):
        fa.dataset.run(data=images(), out=tmp_path, **given)
    assert before == {path: path.read_bytes() for path in before}


def difference(first: int, second: int) -> Any:
    return lambda output: output[:, first] - output[:, second]


def entry(number: int) -> Any:
    def of(output: Tensor, at: int = number) -> Tensor:
        return output[:, at]

    return of


class Entry:
    __slots__ = ("at",)

    def __init__(self, at: int) -> None:
        self.at = at

    def of(self, output: Tensor) -> Tensor:
        return output[:, self.at]


class Mask(nn.Module):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def forward(self, output: Tensor) -> Tensor:
        return output[:, self.at]


#: Values that differ, and have one name: what is written in a function counts, what it is given, and what an object holds.
NAMESAKES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a lambda": ({"target": lambda output: output[:, 1]}, {"target": lambda output: output[:, 2]}),
    "what it closes over": ({"target": difference(1, 2)}, {"target": difference(2, 1)}),
    "a default": ({"target": entry(1)}, {"target": entry(2)}),
    "a method of an object": ({"target": Entry(1).of}, {"target": Entry(2).of}),
    "a module without weights": ({"target": Mask(1)}, {"target": Mask(2)}),
    "a getter": ({"target": itemgetter((slice(None), 1))}, {"target": itemgetter((slice(None), 2))}),
    "a slice": ({"target": (slice(0, 1),)}, {"target": (slice(1, 2),)}),
    "a pool": ({"target": 1, "pool": lambda a: a.abs()}, {"target": 1, "pool": lambda a: a.relu()}),
}


@pytest.mark.parametrize("name", NAMESAKES)
def test_values_of_one_name_are_told_apart(name: str, tmp_path: Path) -> None:
    """A run with the other would find everything done, by the first."""
    first, second = NAMESAKES[name]
    given: dict[str, Any] = {"method": fa.grad_cam, "model": net, "layer": "1", "data": images(), "out": tmp_path}
    fa.dataset.run(**given, **first)
    assert fa.dataset.run(**given, **first) == (0, 0, N)
    with pytest.raises(ValueError, match="another configuration"):
        fa.dataset.run(**given, **second)


@pytest.mark.parametrize(("one", "other"), [(1, 2), ({"at": 1}, {"at": 2}), ({1}, {2}), ([1, 2], [1, 3]), (slice(1), slice(2))])
def test_what_a_lambda_reads_of_its_module_counts(one: Any, other: Any) -> None:
    def reads(value: Any) -> Any:
        return eval("lambda output: (output, CHOSEN)", {"CHOSEN": value, "__name__": "somewhere"})

    assert describe(reads(one)) == describe(reads(one)) != describe(reads(other))


def scaled(model: Any, x: Tensor, target: Any = None, by: Any = None) -> Tensor:
    return fa.saliency(model, x, target=target) * torch.as_tensor(by)


def test_arrays_and_large_tensors_are_compared_number_by_number(tmp_path: Path) -> None:
    large = torch.arange(3.0 * 70_000)
    other = large.index_fill(0, torch.tensor([1]), 5.0)  # where a sample of one in three does not look
    assert describe(large) == describe(large.clone()) != describe(other)
    assert describe(large.numpy()) == describe(large.clone().numpy()) != describe(other.numpy())
    run(tmp_path, method=scaled, target=1, by=np.float32(2.0))
    with pytest.raises(ValueError, match=r"arguments\.by was 2\.0, and is 3\.0"):
        run(tmp_path, method=scaled, target=1, by=np.float32(3.0))


def test_arguments_inside_a_composition_count(tmp_path: Path) -> None:
    run(tmp_path, method=fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.1))
    assert run(tmp_path, method=fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.1)) == (0, 0, N)
    with pytest.raises(ValueError, match=r"arguments.stdevs was 0.1, and is 0.2\. Choose"):
        run(tmp_path, method=fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.2))


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = net().eval()
    run(tmp_path, model=model)
    with torch.no_grad():
        model[4].bias[2] += 1e-3
    with pytest.raises(ValueError, match="the model's weights was"):
        run(tmp_path, model=model)


def test_other_layers_are_refused(tmp_path: Path) -> None:
    """Of the same weights: another activation, or dropout that draws, was taken for the same model, and everything was done."""
    run(tmp_path, model=net().eval())
    assert run(tmp_path, model=net().eval()) == (0, 0, N)
    for index, other in ((1, nn.Sigmoid()), (3, nn.Dropout(0.5))):
        changed: Any = net().eval()
        changed[index] = other
        with pytest.raises(ValueError, match="the model's layers or modes was"):
            run(tmp_path, model=changed)


def test_several_drivers_share(tmp_path: Path) -> None:
    assert run(tmp_path, shard=(0, 2)) == (12, 0, 0)
    assert run(tmp_path, shard=(2, 3), batch_size=5) == (3, 0, 4)  # others: what is done in any shard is done
    assert run(tmp_path, shard=(1, 2)) == (8, 0, 3)
    check(tmp_path, loop(fa.grad_cam, layer="1"))
    assert run(tmp_path) == (0, 0, N)


RANDOM: dict[str, Any] = {
    "noise": lambda: fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.3),
    "noise of a generator": lambda: fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.3, generator=torch.Generator()),
    "baselines": lambda: partial(fa.gradient_shap, baselines=IMAGES[:4], n_samples=3, stdevs=0.1),
    "both": lambda: fa.noise_tunnel(partial(fa.gradient_shap, baselines=IMAGES[:4], n_samples=5, generator=torch.Generator())),
    "targets": lambda: fa.each_target(fa.noise_tunnel(fa.saliency, n_samples=2), [1, 2]),
    "targets one by one": lambda: fa.each_target(fa.noise_tunnel(fa.saliency, n_samples=2), [first, second]),
    "own": lambda: masked,
}


def first(output: Tensor) -> Tensor:
    return output[:, 0]


def second(output: Tensor) -> Tensor:
    return output[:, 1]


def masked(model: Any, x: Tensor, target: Any = None) -> Tensor:
    """A method with a draw that has no row for each example, one in place, and another order of its own."""
    keep = torch.randperm(6)[:3]
    return x * torch.empty_like(x).bernoulli_(0.5) * torch.rand(6)[keep].sum()


@pytest.mark.parametrize("name", RANDOM)
def test_draws_depend_on_seed_and_id_alone(name: str, tmp_path: Path) -> None:
    order = torch.randperm(N).tolist()
    target: dict[str, Any] = {} if name.startswith("targets") else {"target": 1}
    runs: dict[str, dict[str, Any]] = {
        "one by one": {"batch_size": 1},
        "sevens": {"batch_size": 7},
        "all": {"batch_size": N},
        "shuffled": {"data": IMAGES[order], "ids": order, "batch_size": 5},
        "another seed": {"batch_size": 7, "seed": 1},
    }
    state = torch.random.get_rng_state()
    found = {}
    for key, options in runs.items():
        run(tmp_path / key, options.pop("data", IMAGES), RANDOM[name](), **options, **target)
        found[key] = torch.stack([a for _, a in fa.dataset.load(tmp_path / key)])
    assert torch.equal(torch.random.get_rng_state(), state)
    for key in ("sevens", "all", "shuffled"):
        torch.testing.assert_close(found[key], found["one by one"], rtol=1e-4, atol=1e-6)
    assert (found["another seed"] - found["one by one"]).abs().max() > 1e-2
    rows = found["one by one"].flatten(1)
    assert (rows[0] - rows[1]).abs().max() > 1e-3


def test_draws_are_those_of_a_seeded_call(tmp_path: Path) -> None:
    """The definition, in other words: seed torch by the run's seed and the id, and explain the example alone."""
    from funattr.dataset._ids import seed_of

    method = fa.noise_tunnel(fa.saliency, n_samples=3, stdevs=0.3)
    run(tmp_path, IMAGES, method, target=1, seed=5, batch_size=8)
    for i, found in fa.dataset.load(tmp_path):
        torch.manual_seed(seed_of(5, i))
        torch.testing.assert_close(found, method(net().eval(), IMAGES[int(i)][None], target=1)[0])
    assert len({seed_of(s, i, k) for s in (0, 1) for i in (0, 1, "0", "1") for k in (0, 1, "read")}) == 24


@pytest.mark.parametrize("name", ["noise", "noise of a generator", "baselines", "both", "targets"])
def test_methods_that_draw_run_in_batches(name: str, tmp_path: Path) -> None:
    """Alone are explained: the first and the last example of the first batch, to compare, and of the first of another size. The
    first batch is run twice."""
    sizes: list[int] = []
    method = RANDOM[name]()

    def counted(model: Any, x: Tensor, target: Any = None) -> Any:
        sizes.append(len(x))
        return method(model, x) if name == "targets" else method(model, x, target=1)

    if hasattr(method, "about"):
        counted.about = method.about  # type: ignore[attr-defined]  # what a method says of itself is an attribute of a function
    run(tmp_path, IMAGES, counted, batch_size=8)
    assert sizes == [8, 1, 8, 1, 8, 1, 7, 1]


def test_random_transforms_draw_by_id(tmp_path: Path) -> None:
    order = list(reversed(range(N)))
    for name, data, options in (("a", IMAGES, {}), ("b", IMAGES[order], {"ids": order, "batch_size": 3, "loaders": 1})):
        run(tmp_path / name, data, fa.saliency, target=1, transform=lambda x: x + torch.randn_like(x), **options)
    check(tmp_path / "b", [a for _, a in fa.dataset.load(tmp_path / "a")])


def test_workers_are_one(tmp_path: Path) -> None:
    """Two processes that make their own models: compositions and functions of this file, too."""
    scale = torch.tensor(3.0)
    method = fa.relu(fa.noise_tunnel(lambda model, x, target=None: scale * fa.saliency(model, x, target=target), n_samples=2))
    run(tmp_path / "one", zip(range(N), IMAGES, CLASSES), method, batch_size=4)
    run(tmp_path / "two", zip(range(N), IMAGES, CLASSES), method, batch_size=4, part_size=4, workers=2)
    check(tmp_path / "two", [a for _, a in fa.dataset.load(tmp_path / "one")])


def fatal(model: Any, x: Tensor, target: Any = None) -> Tensor:
    if bool((x == IMAGES[9]).flatten(1).all(1).any()):
        os._exit(7)
    return x


@full
def test_workers_that_keep_dying_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr.dataset._pool._DEATHS", 2)
    with pytest.raises(RuntimeError, match="2 workers died, the last with status 7"):
        run(tmp_path, method=fatal, batch_size=4, part_size=4, workers=2)


@full
def test_crash(tmp_path: Path) -> None:
    """2,000 examples, two workers, five kills: nothing lost, nothing double, and equal to a loop."""
    figures = crash.crash(tmp_path / "out", 2000, 5)
    assert figures["killed"] == {"worker": 3, "driver": 2}
    assert not any(figures[name] for name in ("lost", "double", "strangers", "left over"))
    assert figures["largest difference"] < 1e-6
