"""Relevance against numbers of zennit 1.0.0 (torch 2.13.0, float64), which starts from a one where we start from the score.

The nets are small, and their weights are drawn by numpy's RandomState, whose stream does not change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa


def filled(model: nn.Module, scale: float = 1.0) -> nn.Module:
    """`model` in float64 and eval mode, its parameters drawn in the order of their names."""
    draw = np.random.RandomState(0)
    with torch.no_grad():
        for _, p in sorted(model.double().eval().named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_(torch.from_numpy(draw.standard_normal(tuple(p.shape)) * scale / fan**0.5))
    return model


def inputs(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal(shape))


def mlp() -> nn.Module:
    return filled(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)))


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.features = nn.Sequential(*first, nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


#: One rule at every linear layer: zennit's name, ours, and its relevance at the inputs, of class 1.
MLP: list[tuple[str, Any, list[list[float]]]] = [
    (
        "Epsilon(1e-6)",
        fa.rules.epsilon(1e-6),
        [
            [1.05109580026, 0.22585416197, -0.28481483298, 1.13638689687, -0.0339132662871],
            [-0.00470347681587, -0.163596185457, -0.0845976422579, 0.0896281464679, -0.0392177435609],
        ],
    ),
    (
        "Epsilon(0.25)",
        fa.rules.epsilon(0.25),
        [
            [0.555182393167, 0.0836264517368, -0.170518628226, 0.660701631922, -0.0111814958611],
            [-0.00244507165602, -0.0804633974481, -0.0251319677284, 0.0328404717424, -0.0161838400896],
        ],
    ),
    (
        "ZPlus",
        fa.rules.zplus(),
        [
            [0.00353864526949, 0.00121893332179, 0.00674871676691, 0.0409803421447, 0.0364580309102],
            [0.0145268041846, 0.00826856878004, 0.00984130677258, 0.000973498021277, 0.0],
        ],
    ),
    (
        "AlphaBeta(2,1)",
        fa.rules.alpha_beta(2, 1),
        [
            [-1.41592260873, -0.0540519568953, 0.951712346516, -1.34709018326, 0.85967410939],
            [-0.204500706587, -1.46413881275, -0.0590456556851, 0.874433627005, -0.172156000493],
        ],
    ),
    (
        "Gamma(0.25)",
        fa.rules.gamma(0.25),
        [
            [0.621499114732, 0.0912944924243, -0.132237471128, 0.744349713499, 0.0604598375002],
            [-0.00109622510531, -0.101473712329, -0.0339018008342, 0.0348122172758, -0.0184306336983],
        ],
    ),
    (
        "ZPlus(zero bias)",
        fa.rules.zplus(bias=False),
        [
            [0.0287871440441, 0.0209988088622, 0.0602400238061, 0.365796472373, 0.524172304033],
            [0.61034861351, 0.148890855517, 0.177210908412, 0.063539538669, 0.0],
        ],
    ),
    (
        "AlphaBeta(2,1,zero bias)",
        fa.rules.alpha_beta(2, 1, bias=False),
        [
            [-4.43318809129, -0.869279795906, 1.51073883727, -0.960438727993, 5.75216048015],
            [4.61600541434, -3.72554435607, 0.408765478528, 0.781337138064, -1.08059843666],
        ],
    ),
    (
        "Gamma(0.25,zero bias)",
        fa.rules.gamma(0.25, bias=False),
        [
            [-0.24832367197, -0.128892694507, 0.139710209078, 0.451960345131, 0.78554556384],
            [-54.1996711114, -57.199290668, 104.817358677, -37.8677368162, 45.4486881858],
        ],
    ),
]
#: Zennit's composites: the sums of the relevance of two images, and the relevance of the first one's first two rows of pixels.
VGG: list[tuple[str, Any, list[float], list[list[list[float]]]]] = [
    (
        "EpsilonPlus",
        fa.rules.epsilon_plus(),
        [0.530403573009, 0.929933481275],
        [
            [
                [
                    0.00267074534114,
                    0.000718168483636,
                    0.00329368937423,
                    0.00338753962093,
                    0.00266090364123,
                    0.0113880174448,
                    0.0045042911377,
                    0.00158485597982,
                ],
                [
                    0.00112577241423,
                    0.00168470368482,
                    0.00656131881011,
                    0.0103839820723,
                    0.00100041345025,
                    0.000919831399917,
                    0.00273857678511,
                    0.000635418471332,
                ],
            ]
        ],
    ),
    (
        "EpsilonAlpha2Beta1",
        fa.rules.epsilon_alpha_beta(),
        [-0.0518569929966, 0.576013870777],
        [
            [
                [
                    0.015388507222,
                    0.00472295876433,
                    0.00930081505694,
                    -0.00779059513586,
                    -0.00974324056688,
                    -0.0601245068425,
                    0.0313476206833,
                    0.0174429145621,
                ],
                [
                    0.00623345681508,
                    0.00786942338484,
                    0.0759358189488,
                    -0.116746347945,
                    0.00985954520688,
                    -0.0194280638949,
                    -0.0307015573796,
                    0.0327116313029,
                ],
            ]
        ],
    ),
    (
        "EpsilonPlusFlat",
        fa.rules.epsilon_plus_flat(),
        [0.538576141376, 0.948059862051],
        [
            [
                [
                    0.000928652351237,
                    0.00153321417202,
                    0.00311369390783,
                    0.0032156898798,
                    0.00336630527106,
                    0.00194575468079,
                    0.00162629192052,
                    0.000871114708473,
                ],
                [
                    0.00242774909295,
                    0.00392951812825,
                    0.00403735373323,
                    0.004399748017,
                    0.00382043437785,
                    0.00237343117669,
                    0.00201693236005,
                    0.00109447696391,
                ],
            ]
        ],
    ),
    (
        "EpsilonGammaBox(-3,3)",
        fa.rules.epsilon_gamma_box(-3, 3),
        [0.326565561411, 0.464582156387],
        [
            [
                [
                    0.0017232941822,
                    0.000261975306864,
                    0.0079766034272,
                    0.00218512246372,
                    0.0052985142643,
                    -0.000928328540789,
                    0.000380946509518,
                    0.00261470536489,
                ],
                [
                    0.00346997457821,
                    0.00419171086102,
                    0.00188721616681,
                    0.00190319296599,
                    -0.00306786081014,
                    -0.00486000201223,
                    -0.00186972256991,
                    -0.000814744080563,
                ],
            ]
        ],
    ),
]


@pytest.mark.parametrize(("name", "rules", "expected"), MLP, ids=[name for name, _, _ in MLP])
def test_rules_of_zennit(name: str, rules: Any, expected: list[list[float]]) -> None:
    model, x = mlp(), inputs(2, 5)
    relevance = fa.lrp(model, x, target=1, rules=rules)
    theirs = torch.tensor(expected, dtype=torch.float64) * model(x)[:, 1:2].detach()
    torch.testing.assert_close(relevance, theirs, rtol=1e-11, atol=1e-11)  # stored with twelve digits


@pytest.mark.parametrize(("name", "rules", "sums", "first"), VGG, ids=[name for name, _, _, _ in VGG])
def test_composites_of_zennit(name: str, rules: Any, sums: list[float], first: list[list[list[float]]]) -> None:
    model, x = filled(Vgg(), scale=1.4), inputs(2, 3, 8, 8).clamp(-3, 3)
    relevance, score = fa.lrp(model, x, target=1, rules=rules), model(x)[:, 1].detach()
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.tensor(sums, dtype=torch.float64) * score, rtol=0, atol=1e-10)
    rows = torch.tensor(first, dtype=torch.float64) * score[0]
    torch.testing.assert_close(relevance[0, : len(rows), :2], rows, rtol=0, atol=1e-10)
