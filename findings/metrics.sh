#!/usr/bin/env bash
# Quantus' PixelFlipping, perturb_baseline="black": what is put in is the smallest number of that picture, over all its channels,
# not 0, and not what black became when pictures were normalised. A bright picture is "blackened" in grey, each picture has a
# baseline of its own, and the same pictures in other units end at another score: at the end of the curve, where nothing of the
# picture is left, scores still tell one picture from another. And of colour pictures it flips single numbers, not pixels: a map
# of one channel gives three times as many points as there are pixels. A guess from the names gets both wrong.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 quantus==0.6.0
"$where/venv/bin/python" - <<'PY'
import sys

import numpy as np
import quantus
import torch

generator = np.random.default_rng(0)
dark, bright = generator.uniform(0, 0.5, (3, 4, 4)), generator.uniform(0.4, 0.9, (3, 4, 4))
dark.flat[0], bright.flat[5] = 0.0, 0.4
x = np.stack([dark, bright]).astype(np.float32)
a = generator.uniform(size=(2, 1, 4, 4)).astype(np.float32)


class Mean(torch.nn.Module):
    """The mean of all numbers, for either class: the end of the curve shows what was put in."""

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None].expand(-1, 2)


measure = quantus.PixelFlipping(perturb_baseline="black", features_in_step=1, disable_warnings=True)
found = measure(model=Mean().eval(), x_batch=x, y_batch=np.zeros(2, int), a_batch=a, softmax=False, device="cpu")
ends, points = [round(float(curve[-1]), 3) for curve in found], len(found[0])
print(f"quantus {quantus.__version__}, torch {torch.__version__}: PixelFlipping with black, two pictures of 4 x 4 pixels, 3 channels")
print(f"  smallest numbers: {[round(float(t.min()), 3) for t in x]}; all that is left at the end of the curve: {ends}")
print(f"  pixels: 16; points of the curve: {points}")
sys.exit([ends, points] != [[0.0, 0.4], 48])
PY
