"""A method of one's own in three lines, and what combinators make of it.

`value_and_gradient` gives what most methods are made of, from one forward pass. A function on top of it is a method like any
other: a combinator takes it, and returns a method with the same arguments.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

import funattr as fa
from funattr import viz
from funattr._demo.model import load_digits, load_model


def contrast_cam(model: Any, x: Tensor, *, layer: Any, target: Any = None) -> Tensor:
    """What stands out: each channel less its own mean, times the gradient, summed over channels."""
    value, gradient = fa.value_and_gradient(model, x, layer=layer, target=target)
    cam: Tensor = (gradient * (value - value.mean((2, 3), keepdim=True))).sum(1, keepdim=True)
    return cam


parser = argparse.ArgumentParser(description="Write a method, and combine it.")
parser.add_argument("--out", default="own_method.png", help="the picture")
out = parser.parse_args().out

model, (images, classes) = load_model(), load_digits()[1]
x = images[[6, 7, 9, 2]]
best, second = model(x).topk(2).indices.unbind(1)

smooth = fa.noise_tunnel(contrast_cam, n_samples=25, stdevs=0.2, generator=torch.Generator().manual_seed(0))
large = fa.interpolate(fa.relu(contrast_cam), size=(64, 64), mode="bilinear")
pixels = fa.multiply(fa.at_input(fa.saliency), fa.relu(contrast_cam))
both = fa.each_target(contrast_cam, [best, second])(model, x, layer="relu2")  # from one forward pass

maps = {"contrast_cam": contrast_cam(model, x, layer="relu2", target=best)}
maps["noise_tunnel"] = smooth(model, x, layer="relu2", target=best)
maps["interpolate(relu)"] = large(model, x, layer="relu2", target=best)
maps["multiply by saliency"] = pixels(model, x, layer="relu2", target=best)
maps["each_target: why this, not that?"] = both[0] - both[1]

# A method is linear in the score, or it is not: one line to find out.
margin = contrast_cam(model, x, layer="relu2", target=lambda scores: scores.topk(2).values @ torch.tensor([1.0, -1.0]))
print(f"the map of the margin differs from the difference of the maps by {(margin - (both[0] - both[1])).abs().max():.0e}")
# At relu3 the gradient is the same everywhere, so that the map is pure contrast.
print(f"the map of relu3 sums to {contrast_cam(model, x, layer='relu3', target=best).sum((1, 2, 3)).abs().max():.0e}")
titles = [f"a {a}\nrather than\na {b}" for a, b in zip(best, second)]
viz.show(1 - 0.6 * x, maps, titles=titles, scale="method").savefig(out, dpi=100)
print(f"wrote {out}")
