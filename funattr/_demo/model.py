"""The demo's network and its digits. The weights are made by ``scripts/train_digits.py``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits.pt")
N_TEST = 450


class DigitsNet(nn.Module):
    """Three convolutions and a linear layer: digits ``[N, 1, 8, 8]`` in [0, 1] to the scores of ten classes ``[N, 10]``.

    The one pooling is over the whole image and comes last. So the Grad-CAM map of every convolution has all 8 x 8 pixels,
    and that of `relu3`, summed, is the score itself (less a bias): each pixel of the map shows its share.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        x = self.relu3(self.conv3(x))
        scores: Tensor = self.fc(self.flatten(self.pool(x)))
        return scores


class Digits(NamedTuple):
    """Images ``[N, 1, 8, 8]`` in [0, 1] and their classes ``[N]``."""

    images: Tensor
    classes: Tensor


def load_digits() -> tuple[Digits, Digits]:
    """scikit-learn's 1797 digits, split into 1347 to train on and 450 to test on.

    The split is the permutation of numpy's ``RandomState(0)``, a stream that is frozen for good: the same digits are held
    out with every version of every library. The first `N_TEST` of the permutation, in its order, are the test set.

    Returns:
        ``(train, test)``.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise ImportError('the demo needs scikit-learn for its digits: pip install "funattr[demo]".') from error
    found = datasets.load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))
    images = torch.from_numpy(found.images[order]).float()[:, None] / 16  # the pixels are counts from 0 to 16
    classes = torch.from_numpy(found.target[order]).long()
    return Digits(images[N_TEST:], classes[N_TEST:]), Digits(images[:N_TEST], classes[:N_TEST])


def load_model() -> DigitsNet:
    """The trained network, in eval mode, from the weights shipped with the package."""
    model = DigitsNet()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))  # copied into the network's own float32
    return model.eval()
