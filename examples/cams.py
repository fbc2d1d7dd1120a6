"""Eight class activation maps of one network, over the two photographs of scikit-learn.

A small network learns which of five things a tiny crop shows. In larger views its maps find the things: red is where the
evidence for the row's class lies. `eigen_cam` is for no class, and shows what is strongest in the layer.
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import nn

import funattr as fa
from funattr import viz

# The photograph, and the rows and columns that crops come from. The first three are explained, in a view from this corner.
THINGS = {"pagoda": (0, 20, 84, 25, 80), "trees": (0, 74, 106, 85, 155), "flower": (1, 25, 86, 46, 108)}
OTHERS = {"sky": (0, 0, 60, 85, 160), "leaves": (1, 0, 106, 0, 45)}
VIEWS = {"pagoda": (0, 4), "trees": (10, 64), "flower": (8, 28)}
CAMS = (fa.grad_cam, fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam, fa.score_cam, fa.ablation_cam)

parser = argparse.ArgumentParser(description="Draw class activation maps over photographs.")
parser.add_argument("--out", default="cams.png", help="the picture")
out = parser.parse_args().out

torch.manual_seed(0)
pixels = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
photos = F.avg_pool2d(pixels.movedim(3, 1) / 255, 4)  # [2, 3, 106, 160]
crops = []
for photo, top, bottom, left, right in (THINGS | OTHERS).values():
    corners = zip(torch.randint(top, bottom - 15, (200,)), torch.randint(left, right - 15, (200,)))
    crops += [photos[photo, :, i : i + 16, j : j + 16] for i, j in corners]
x, y = torch.stack(crops), torch.eye(5).repeat_interleave(200, 0)
convs = [nn.Conv2d(channels, 24, 3, padding=1) for channels in (3, 24, 24)]
seen = nn.Sequential(convs[0], nn.ReLU(), nn.AvgPool2d(2), convs[1], nn.ReLU(), convs[2], nn.ReLU())
told = nn.Sequential(nn.Conv2d(24, 24, 1), nn.ReLU(), nn.Conv2d(24, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
model = nn.Sequential(seen, told)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for _ in range(20):
    for a, b in zip(torch.randperm(len(x)).split(50), torch.randperm(len(x)).split(50)):
        value = seen(torch.cat([x[a], x[b]], 3))  # two crops side by side
        loss = F.cross_entropy(told(value), (y[a] + y[b]) / 2) + 0.03 * value.mean()  # sparse: background is to be 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

views, places = torch.zeros(3, 3, 96, 96), torch.zeros(3, 1, 96, 96)
for n, (thing, (i, j)) in enumerate(VIEWS.items()):
    photo, top, bottom, left, right = THINGS[thing]
    views[n] = photos[photo, :, i : i + 96, j : j + 96]
    places[n, :, top - i : bottom - i, left - j : right - j] = 1
maps = {cam.__name__: fa.interpolate(fa.relu(fa.normalize(cam)))(model, views, layer=seen, target=[0, 1, 2]) for cam in CAMS}
for name, found in {"its area": torch.ones_like(places), **maps}.items():
    shares = (found * places).sum((1, 2, 3)) / found.sum((1, 2, 3))
    print(f"{name}, in the place of the " + ", ".join(f"{thing}: {share:.0%}" for thing, share in zip(VIEWS, shares)))
maps["eigen_cam (no class)"] = fa.interpolate(fa.normalize(fa.eigen_cam))(model, views, layer=seen)
viz.show(views, maps, titles=list(VIEWS)).savefig(out, dpi=100)
print(f"wrote {out}")
