"""The hidden Markov model of time_interpret: for scripts/published_figures.py.

Their settings: https://github.com/josephenguehard/time_interpret, experiments/hmm and tint/datasets/hmm.py, nothing scaled:
1,000 series of 200 times and three features, five folds, 50 epochs of their recurrent net, 50 steps of a path.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from published_series import areas
from torch import Tensor, nn

import funattr as fa

#: Area under precision and under recall, the mean over five folds: their results.csv.
HMM = {"integrated gradients": (0.918, 0.454), "DeepLIFT": (0.920, 0.454)}
TIMES, SEED = 200, 42


def series(count: int, draws: np.random.RandomState) -> tuple[Tensor, Tensor, Tensor]:
    """Series ``[N, T, 3]``, their labels ``[N, T]``, and which features matter: the second in state 0, the third in state 1.

    The label is drawn with the probability ``1 / (1 + exp(-2 x))`` of that feature x.
    """
    states = np.zeros((count, TIMES), dtype=int)
    before, stayed = draws.binomial(1, 0.5, count), np.zeros(count)
    for t in range(TIMES):
        states[:, t] = draws.binomial(1, np.where(before == 1, 0.95 - stayed / 500, 0.05))
        stayed = np.where(states[:, t] == before, stayed + 1, 0)
        before = states[:, t]
    x = np.zeros((count, TIMES, 3))
    for state, mean in enumerate(([0.1, 1.6, 0.5], [-0.1, -0.4, -1.5])):
        covariance = np.eye(3) * 0.801
        covariance[0, state + 1] = covariance[state + 1, 0] = 0.01
        x[states == state] = draws.multivariate_normal(mean, covariance, int((states == state).sum()))
    truth = np.eye(3)[states + 1]
    labels = draws.binomial(1, 1 / (1 + np.exp(-2 * (x * truth).sum(2))))
    return torch.from_numpy(x).float(), torch.from_numpy(labels), torch.from_numpy(truth)


class States(nn.Module):
    """Their net: a GRU of 200 units, and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 200, batch_first=True)
        self.head = nn.Sequential(nn.BatchNorm1d(200), nn.ReLU(), nn.Dropout(0.5), nn.Linear(200, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[1][0])  # type: ignore[no-any-return]  # a module's result


def trained(x: Tensor, y: Tensor, seed: int) -> States:
    """Fifty epochs of Adam over batches of 32, in their order; each batch ends at a random time."""
    torch.manual_seed(seed)
    net = States()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, weight_decay=1e-3)
    for _ in range(50):
        for batch in torch.arange(len(x)).split(32):
            t = int(torch.randint(TIMES, (1,)))
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch, : t + 1]), y[batch, t]).backward()
            optimizer.step()
    return net.eval()


class EachTime(nn.Module):
    """What the net says at every time, for all times at once; "now" has the input of that time, and nothing before it.

    At each time they explain the series up to there, and keep what falls on the last input: 200 calls. Here one call at "now"
    explains all, since the states before come from x beside it.
    """

    def __init__(self, net: States) -> None:
        super().__init__()
        self.net, self.now, self.cell = net, nn.Identity(), nn.GRUCell(3, 200)
        with torch.no_grad():
            for name, own in self.cell.named_parameters():
                own.copy_(net.gru.get_parameter(f"{name}_l0"))

    def forward(self, x: Tensor) -> Tensor:
        states = F.pad(self.net.gru(x)[0][:, :-1], (0, 0, 1, 0))
        found = self.net.head(self.cell(self.now(x).flatten(0, 1), states.flatten(0, 1)))
        return found.reshape(*x.shape[:2], 2)  # type: ignore[no-any-return]  # a module's result


def chosen(model: EachTime, classes: Tensor, x: Tensor) -> Tensor:
    """The score of the class of each time, summed: at "now", the gradient of each time is that of its own score."""
    return model(x).gather(2, classes[..., None]).sum((1, 2))  # type: ignore[no-any-return]  # a module's result


def explained(net: States, x: Tensor) -> dict[str, Tensor]:
    """What falls on the input of each time, of the score of the class that is predicted then, from a baseline of 0."""
    model = EachTime(net).eval()
    with torch.no_grad():
        score = partial(chosen, model, model(x).argmax(2))
    return {
        "integrated gradients": fa.conductance(score, x, layer=model.now, baselines=0.0, n_steps=50),
        "DeepLIFT": fa.deep_lift(score, x, layer=model.now, baselines=0.0),
    }


def check(net: States, x: Tensor) -> None:
    """The same as from the series up to a time, and what falls on its last input, as they call it."""
    found = explained(net, x)
    for t in (0, 1, 20):
        part, which = x[:, : t + 1], {"target": net(x[:, : t + 1]).argmax(1)}
        torch.testing.assert_close(
            found["integrated gradients"][:, t],
            fa.integrated_gradients(net, part, n_steps=50, **which)[:, -1],
            rtol=1e-4,
            atol=1e-5,
        )
        torch.testing.assert_close(found["DeepLIFT"][:, t], fa.deep_lift(net, part, **which)[:, -1], rtol=1e-4, atol=1e-5)


def hmm(folds: int = 5) -> dict[str, tuple[float, float]]:
    """Both areas of each method, the mean over the folds: of all series to train with, four fifths each."""
    from sklearn.model_selection import KFold

    draws = np.random.RandomState(SEED)
    x, y, _ = series(800, draws)
    x_test, _, truth = series(200, draws)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in HMM}
    parts = list(KFold(5, shuffle=True, random_state=SEED).split(x))
    for fold, (rows, _) in enumerate(parts[:folds]):
        net = trained(x[rows], y[rows], SEED + fold)
        if fold == 0:
            check(net, x_test[:10])
        for name, each in explained(net, x_test).items():
            found[name].append(areas(each.abs(), truth))
    return {name: (float(np.mean([a for a, _ in each])), float(np.mean([b for _, b in each]))) for name, each in found.items()}
