"""Training through attributions: a network that is told where not to look.

Each training digit carries a patch in a corner whose grey level gives its class away; in the test set the patch is random.
A network trained plainly reads the patch; it reads the digits once the loss penalises the gradient at the patch (Ross et al.,
"Right for the Right Reasons", 2017, https://arxiv.org/abs/1703.03717).
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import viz
from funattr._demo.model import load_digits

PATCH = ..., slice(0, 3), slice(0, 3)


def with_patch(images: Tensor, level: Tensor) -> Tensor:
    images = images / 2  # faint, so that cheating is tempting
    images[PATCH] = (level[:, None, None, None] + 1) / 10
    return images


def train(x: Tensor, classes: Tensor, strength: float, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10), nn.LogSoftmax(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in (batch for _ in range(30) for batch in torch.randperm(len(x)).split(64)):
        slope = fa.gradient(model, x[batch], target=classes[batch], create_graph=True)
        # The attribution prior: no log-probability is to depend on the patch.
        loss = F.nll_loss(model(x[batch]), classes[batch]) + strength * slope[PATCH].square().sum((1, 2, 3)).mean()
        model.zero_grad()
        loss.backward()
        optimizer.step()
    return model


parser = argparse.ArgumentParser(description="Train a network plainly, and with an attribution prior.")
parser.add_argument("--out", default="attribution_prior.png", help="the picture")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

(images, classes), (test_images, test_classes) = load_digits()
torch.manual_seed(options.seed)
x, test = with_patch(images, classes), with_patch(test_images, torch.randint(10, test_classes.shape))
models = {"plain": train(x, classes, 0, options.seed), "with prior": train(x, classes, 30, options.seed)}
maps, guesses = {}, {}
for name, model in models.items():
    found, guesses[name] = fa.normalize(fa.integrated_gradients)(model, test, target="argmax"), model(test).argmax(1)
    accuracy, share = (guesses[name] == test_classes).float().mean(), found[PATCH].abs().sum() / found.abs().sum()
    print(f"{name}: test accuracy {accuracy:.1%}, share of the attribution on the patch {share:.1%}")
    maps[f"{name}\naccuracy {accuracy:.0%}"] = found[:5]
titles = [f"a {c}\nplain: {a}\nwith prior: {b}" for c, a, b in zip(test_classes[:5], *guesses.values())]
viz.show(1 - test[:5], maps, titles=titles, percentile=100).savefig(options.out, dpi=100)
print(f"wrote {options.out}")
