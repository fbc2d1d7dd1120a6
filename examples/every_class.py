"""The evidence for and against every class: ten maps per digit, from one forward pass."""

import argparse

import torch
from matplotlib.figure import Figure

import funattr as fa
from funattr._demo.model import load_digits, load_model

parser = argparse.ArgumentParser(description="Explain all ten classes at once.")
parser.add_argument("--out", default="every_class.png", help="the picture")
out = parser.parse_args().out

model, (images, classes) = load_model(), load_digits()[1]
x = images[[int((classes == c).nonzero()[0]) for c in range(10)]]  # the first digit of each class

runs: list[None] = []
model.register_forward_hook(lambda *_: runs.append(None))
maps = fa.each_target(fa.grad_cam, range(10))(model, x, layer="relu3")  # [classes, digits, 1, 8, 8]
print(f"{maps.shape[0]} classes, {maps.shape[1]} digits, forward passes: {len(runs)}")

# The gradient at relu3 is the same everywhere: a map sums to the score of its class, less the bias.
scores = model(x).detach()
evidence = maps.sum((2, 3, 4)).T + model.fc.bias.detach()
print(f"the maps miss the scores by at most {(evidence - scores).abs().max():.0e}")
print(f"digits with the most evidence for their own class: {int((evidence.argmax(1) == torch.arange(10)).sum())} of 10")

figure = Figure(figsize=(8.5, 8.2), layout="compressed")
cells = figure.subplots(10, 11)
limit = float(maps.abs().quantile(0.99))  # one scale for all, so that digits and classes can be compared
for digit, row in enumerate(cells):
    row[0].imshow(x[digit, 0], cmap="gray_r")
    for c, cell in enumerate(row[1:]):
        cell.imshow(x[digit, 0], cmap="gray_r", vmax=2)  # faint, under the map
        drawn = cell.imshow(maps[c, digit, 0], cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.7)
        predicted = int(scores[digit].argmax()) == c
        for spine in cell.spines.values():
            spine.set(linewidth=2 if predicted else 0.5, color="black" if predicted else "0.6")
for c, cell in enumerate(cells[0, 1:]):
    cell.set_title(f"a {c}?", fontsize=10)
for cell in cells.flat:
    cell.set(xticks=[], yticks=[])
bar = figure.colorbar(drawn, ax=list(cells.flat), location="bottom", fraction=0.02, pad=0.02, aspect=60)
bar.set_label("red: for the class, blue: against it; framed: the predicted class", fontsize=10)
figure.savefig(out, dpi=100)
print(f"wrote {out}")
