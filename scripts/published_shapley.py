"""The games of Leverage SHAP (Musco and Witter, 2025), played again: for scripts/published_figures.py.

Their settings: https://github.com/rtealwitter/leverageshap. A forest of 100 trees of depth 4 by xgboost, the mean of the data
as the baseline, a row of it as x; the error of the values is relative to their norm, squared, and the mean of 100 runs counts.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import funattr as fa

#: What the paper prints for 8 coalitions per player: mean relative squared errors of their three estimators.
PRINTED: dict[str, dict[str, float]] = {
    "IRIS": {"permutation": 5.76e-3, "kernel": 5.35e-9, "leverage": 5.35e-9},
    "Diabetes": {"permutation": 9.37e-3, "kernel": 1.24e-2, "leverage": 3.07e-3},
    "Correlated": {"permutation": 1.79e-2, "kernel": 1.45e-2, "leverage": 7.65e-3},
    "Independent": {"permutation": 7.85e-3, "kernel": 6.20e-3, "leverage": 3.31e-3},
}
RUNS = 100


class Measured(NamedTuple):
    """Mean relative squared errors over the runs, and their standard errors; how far told errors are from true ones."""

    error: float
    spread: float
    told: float | None  # root mean square of the standard errors, over that of the errors


def data_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The data as shap.datasets has them: two of scikit-learn, two generated."""
    from sklearn import datasets

    if name in ("IRIS", "Diabetes"):
        loaded: Any = datasets.load_iris() if name == "IRIS" else datasets.load_diabetes()
        return loaded.data, loaded.target
    draws, (rows, columns) = np.random.RandomState(0), (1000, 60)
    slope = np.zeros(columns)
    slope[0:30:3] = 1
    start = draws.randn(rows, columns)
    x = start - start.mean(0)
    if name == "Correlated":  # groups of three, of correlation 0.99
        white = x @ np.linalg.cholesky(np.linalg.inv(x.T @ x / rows))
        together = np.eye(columns)
        for i in range(0, 30, 3):
            together[i : i + 3, i : i + 3] = 0.99
            together[range(i, i + 3), range(i, i + 3)] = 1
        x = white @ np.linalg.cholesky(together).T
        x = x - x.mean(0)
    return x, x @ slope + draws.randn(rows) * 1e-2


def pair_of(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Baseline and row to explain, as theirs: where both agree in a feature, it is taken from another row."""
    np.random.seed(seed)
    base = x.mean(0)
    row = x[np.random.choice(len(x))].copy()
    for i in range(len(row)):
        while base[i] == row[i]:
            row[i] = x[np.random.choice(len(x)), i]
    return base, row


def leaves_of(trees: list[str]) -> Iterator[tuple[float, list[tuple[int, float, bool]]]]:
    """The value of each leaf, and the conditions on the way there: feature, threshold, whether below it."""

    def walk(node: dict[str, Any], way: list[tuple[int, float, bool]]) -> Iterator[tuple[float, list[tuple[int, float, bool]]]]:
        if "leaf" in node:
            yield node["leaf"], way
            return
        feature, at = int(node["split"][1:]), float(np.float32(node["split_condition"]))
        for child in node["children"]:
            yield from walk(child, [*way, (feature, at, child["nodeid"] == node["yes"])])

    for tree in trees:
        yield from walk(json.loads(tree), [])


def exact(trees: list[str], base: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Shapley values of a forest, one baseline: a leaf is reached if x's features of it are in, and the baseline's are out."""
    found = np.zeros(len(row))
    low, high = base.astype(np.float32), row.astype(np.float32)
    for value, way in leaves_of(trees):
        own, others = {f for f, _, _ in way}, {f for f, _, _ in way}
        for feature, at, below in way:
            if (high[feature] < at) != below:
                own.discard(feature)
            if (low[feature] < at) != below:
                others.discard(feature)
        features = {f for f, _, _ in way}
        if own | others != features:  # neither x nor the baseline goes there
            continue
        joins, leaves = own - others, others - own
        p, q = len(joins), len(leaves)
        for i in joins:
            found[i] += value * math.factorial(p - 1) * math.factorial(q) / math.factorial(p + q)
        for i in leaves:
            found[i] -= value * math.factorial(p) * math.factorial(q - 1) / math.factorial(p + q)
    return found


def score_of(trees: list[str], model: Any) -> Callable[[Tensor], Tensor]:
    """The forest as a function of a tensor: from the root of each tree down, all trees at once."""
    depth, count = 4, len(trees)
    feature = torch.zeros(count, 2**depth, dtype=torch.long)
    at = torch.full((count, 2**depth), math.inf)
    leaf = torch.zeros(count, 2 ** (depth + 1), dtype=torch.float64)

    def fill(tree: int, place: int, node: dict[str, Any]) -> None:
        if "leaf" in node:
            while place < 2**depth:  # a leaf further up: all below it goes left
                place *= 2
            leaf[tree, place] = node["leaf"]
            return
        feature[tree, place], at[tree, place] = int(node["split"][1:]), float(np.float32(node["split_condition"]))
        for child in node["children"]:
            fill(tree, 2 * place + (child["nodeid"] != node["yes"]), child)

    for tree, text in enumerate(trees):
        fill(tree, 1, json.loads(text))
    base = float(model.predict(np.zeros((1, model.n_features_in_)))[0])
    row = torch.arange(count)

    def score(x: Tensor) -> Tensor:
        x, place = x.float(), torch.ones(len(x), count, dtype=torch.long)
        for _ in range(depth):
            right = x.gather(1, feature[row, place]) >= at[row, place]
            place = 2 * place + right
        return leaf[row, place].sum(1)

    offset = base - float(score(torch.zeros(1, model.n_features_in_))[0])
    return lambda x: score(x) + offset


def play(name: str, runs: int = RUNS) -> dict[str, Measured]:
    """The errors of each sampling at eight coalitions per player."""
    xgboost: Any = importlib.import_module("xgboost")  # the extra "published": the forests of the paper

    x, y = data_of(name)
    model = xgboost.XGBRegressor(n_estimators=100, max_depth=4, nthread=1)
    model.fit(x, y)
    trees, players = model.get_booster().get_dump(dump_format="json"), x.shape[1]
    score = score_of(trees, model)
    assert np.allclose(score(torch.from_numpy(x)), model.predict(x), rtol=1e-4, atol=1e-4 * np.abs(y).max())
    found: dict[str, Measured] = {}
    for sampling in ("permutation", "kernel", "leverage"):
        errors, squares, told = [], [], []
        for run in range(runs):
            base, row = pair_of(x, run * runs)
            wanted = exact(trees, base, row)
            values, deviations = fa.shapley(
                score,
                torch.from_numpy(row)[None],
                baselines=torch.from_numpy(base),
                n_samples=8 * players,
                sampling=sampling,
                standard_errors=True,
                generator=torch.Generator().manual_seed(run),
                chunk_size=8 * players,
            )
            missed = ((values[0].numpy() - wanted) ** 2).sum()
            errors.append(missed / (wanted**2).sum())
            squares.append(missed)
            told.append(float(deviations.square().sum()))
        ratio = math.sqrt(np.mean(told) / np.mean(squares)) if max(told) > 0 else None
        found[sampling] = Measured(float(np.mean(errors)), float(np.std(errors) / math.sqrt(runs)), ratio)
    return found
