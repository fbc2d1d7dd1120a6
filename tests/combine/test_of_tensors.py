"""Combinators of what methods return take the tensors themselves: the same as the method that they make."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import funattr as fa

torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double().eval()
X = torch.randn(3, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("layer", [None, "1"])
@pytest.mark.parametrize("combinator", [fa.relu, fa.absolute, fa.normalize, fa.sum_channels])
def test_of_a_tensor_as_of_the_method(combinator: Any, layer: Any) -> None:
    found = fa.gradient(NET, X, layer=layer, target=2)
    torch.testing.assert_close(combinator(found), combinator(fa.gradient)(NET, X, layer=layer, target=2), rtol=0, atol=0)


def test_by_hand() -> None:
    found = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    assert fa.relu(found).tolist() == [[1, 0], [0, 0]]
    assert fa.absolute(found).tolist() == [[1, 2], [0, 0]]
    assert fa.normalize(found).tolist() == [[0.5, -1], [0, 0]]
    assert fa.sum_channels(found).tolist() == [[-1], [0]]
    assert fa.sum_channels(found[None], channel_dim=-1).tolist() == [[[-1], [0]]]


def test_what_they_refuse() -> None:
    with pytest.raises(TypeError, match=r"sum_channels.*method such as fa\.gradient, got list"):
        fa.sum_channels([torch.ones(2, 2)])  # type: ignore[call-overload]  # wrong on purpose
    with pytest.raises(ValueError, match="0-d tensor"):
        fa.normalize(torch.tensor(1.0))


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_in_half_precision_is_summed_in_single(nt_type: str) -> None:
    """Attributions of 300: the squares do not fit into half precision, nor 200 of the attributions."""
    if nt_type == "smoothgrad_sq":
        pytest.skip("the mean of squares itself is too large")
    tunnel = fa.noise_tunnel(fa.gradient, n_samples=300, stdevs=0.0, nt_type=nt_type, chunk_size=300)
    found = tunnel(lambda x: (300 * x).sum(1), torch.ones(2, 3, dtype=torch.float16))
    assert found.dtype == torch.float16
    assert (found == (300 if nt_type == "smoothgrad" else 0)).all()


def test_the_mean_over_baselines_of_a_method_that_knows_a_faster_one() -> None:
    assert fa.mean_over_baselines(fa.deep_lift) is fa.deep_lift_shap
    bound: Any = partial(fa.deep_lift, layer="1")
    own = fa.mean_over_baselines(bound)
    assert own is not fa.deep_lift_shap
    baselines = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    expected = fa.deep_lift_shap(NET, X, baselines=baselines, layer="1", target=1)
    torch.testing.assert_close(own(NET, X, baselines=baselines, target=1), expected)
