"""Small nets of the kinds that papers publish, each with something that is easily got wrong: scans, routers, graphs, codebooks,
flows, splines, spectra, gated convolutions, missing values, pointers, conditions, caches. See `test_zoo`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def weight_norm(module: nn.Module) -> nn.Module:
    """A parametrization since torch 2.1; before, a hook, whose weight can be copied where it is detached."""
    if hasattr(parametrizations, "weight_norm"):
        return parametrizations.weight_norm(module)
    made: Any = nn.utils.weight_norm(module)
    made.weight = made.weight.detach()
    return made


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class SelectiveScan(nn.Module):
    """Mamba: a state whose step, entry and exit are made of the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.conv = nn.Linear(4, 12), nn.Conv1d(6, 6, 3, padding=2, groups=6)
        self.select, self.step, self.leave = nn.Linear(6, 7), nn.Linear(1, 6), nn.Linear(6, 4)
        self.rates, self.head = nn.Parameter(torch.arange(1.0, 4).log().repeat(6, 1)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.enter(x).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, entry, leave = self.select(u).split([1, 3, 3], -1)
        step = F.softplus(self.step(step))
        kept = (step[..., None] * -self.rates.exp()).exp()
        state, found = x.new_zeros(len(x), 6, 3), []
        for t in range(x.shape[1]):
            state = kept[:, t] * state + (step * u)[:, t, :, None] * entry[:, t, None]
            found.append((state * leave[:, t, None]).sum(-1))
        made: Tensor = self.head(self.leave(torch.stack(found, 1) * F.silu(z)).mean(1))
        return made


class Router(nn.Module):
    """A mixture of experts: the two best, gathered by their indices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.route = nn.Linear(6, 6), nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(4))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        weight, which = self.route(h).softmax(-1).topk(2)
        every = torch.stack([expert(h) for expert in self.experts], 1)
        chosen = every.gather(1, which[..., None].expand(-1, -1, 6)) * (weight / weight.sum(-1, keepdim=True))[..., None]
        made: Tensor = self.head(chosen.sum(1) + h)
        return made


class GraphAttention(nn.Module):
    """Edges, with a softmax over those that come in, shifted by a detached maximum."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.score, self.head = nn.Linear(5, 6), nn.Linear(12, 1), nn.Linear(6, 2)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 1, 2, 0], [1, 0, 1, 2, 3, 3, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        h, (start, end) = self.lift(x), self.edges
        score = F.leaky_relu(self.score(torch.cat([h[:, start], h[:, end]], -1)), 0.2).squeeze(-1)
        into = end.expand_as(score)
        most = torch.full(h.shape[:2], -1e9, dtype=h.dtype).scatter_reduce(1, into, score, "amax")
        weight = (score - most.gather(1, into).detach()).exp()
        total = torch.zeros(h.shape[:2], dtype=h.dtype).scatter_add(1, into, weight)
        weight = weight / total.gather(1, into)
        made: Tensor = self.head(F.elu(torch.zeros_like(h).index_add(1, end, weight[..., None] * h[:, start])).mean(1))
        return made


class Coupling(nn.Module):
    """A normalising flow of masked couplings, and the density that it gives."""

    masks: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(3))
        self.register_buffer("masks", torch.tensor([[1.0, 0, 1, 0], [0, 1.0, 0, 1], [1, 1, 0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        volume = x.new_zeros(len(x))
        for mask, net in zip(self.masks, self.nets):
            scale, shift = net(x * mask).chunk(2, -1)
            scale = torch.tanh(scale) * (1 - mask)
            x = x * mask + (1 - mask) * (x * scale.exp() + shift)
            volume = volume + scale.sum(-1)
        normal = torch.distributions.Normal(torch.zeros(4, dtype=x.dtype), torch.ones(4, dtype=x.dtype))
        return (normal.log_prob(x).sum(-1) + volume)[:, None]


class ContinuousFlow(nn.Module):
    """A neural ODE, whose divergence it takes by torch.autograd itself."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, z: Tensor) -> Tensor:
        volume: Any = 0
        for _ in range(3):
            with torch.enable_grad():
                z = z if z.requires_grad else z.requires_grad_()
                dz = self.field(z)
                slopes = [torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i] for i in range(3)]
            z, volume = z + 0.3 * dz, volume - 0.3 * torch.stack(slopes).sum(0)
        return (volume - 0.5 * z.pow(2).sum(-1))[:, None]


class Capsules(nn.Module):
    """Routing by agreement, and the length of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)
        self.votes = nn.Parameter(torch.randn(1, 8, 3, 4, 4) * 0.3)

    @staticmethod
    def squashed(v: Tensor) -> Tensor:
        square = (v**2).sum(-1, keepdim=True)
        return square / (1 + square) * v / (square.sqrt() + 1e-8)

    def forward(self, x: Tensor) -> Tensor:
        u = self.squashed(self.first(F.relu(self.conv(x))).flatten(2))
        votes = (self.votes @ u[:, :, None, :, None]).squeeze(-1)
        agreed = torch.zeros(len(x), 8, 3, 1, dtype=x.dtype)
        for _ in range(3):
            v = self.squashed((agreed.softmax(2) * votes).sum(1))
            agreed = agreed + (votes * v[:, None]).sum(-1, keepdim=True)
        return v.norm(dim=-1)


class Splines(nn.Module):
    """A layer of a Kolmogorov-Arnold network: B-splines by their recursion, from indicators."""

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.arange(-3.0, 8) * 0.5 - 1)
        self.base, self.bends = nn.Linear(4, 3), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        grid, at = self.grid, x.unsqueeze(-1)
        b = ((at >= grid[:-1]) & (at < grid[1:])).to(x.dtype)
        for k in range(1, 4):
            left = (at - grid[: -k - 1]) / (grid[k:-1] - grid[: -k - 1])
            right = (grid[k + 1 :] - at) / (grid[k + 1 :] - grid[1:-k])
            b = left * b[..., :-1] + right * b[..., 1:]
        made: Tensor = self.base(F.silu(x)) + self.bends(b.flatten(1))
        return made


class Spectral(nn.Module):
    """A Fourier neural operator: the lowest frequencies, written into a complex tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.beside, self.head = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 4, 1), nn.Linear(4, 2)
        self.real, self.imaginary = nn.Parameter(torch.randn(4, 4, 3) * 0.4), nn.Parameter(torch.randn(4, 4, 3) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        spectrum = torch.fft.rfft(h)
        kept = torch.zeros_like(spectrum)
        kept[:, :, :3] = torch.einsum("bix,iox->box", spectrum[:, :, :3], torch.complex(self.real, self.imaginary))
        made: Tensor = self.head(F.gelu(torch.fft.irfft(kept, n=h.shape[-1]) + self.beside(h)).mean(-1))
        return made


class Dilated(nn.Module):
    """WaveNet: gated, dilated convolutions under weight norm, and skips that get shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.head = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 3, 1)
        self.filters = nn.ModuleList(weight_norm(nn.Conv1d(4, 8, 2, dilation=d)) for d in (1, 2, 4))
        self.skips = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x, skip = self.start(x), x.new_zeros(())
        for both, out in zip(self.filters, self.skips):
            value, gate = both(x).chunk(2, 1)
            z = torch.tanh(value) * torch.sigmoid(gate)
            skip = out(z) + (skip[..., -z.shape[-1] :] if skip.dim() else skip)
            x = z + x[..., -z.shape[-1] :]
        made: Tensor = self.head(F.relu(skip)).mean(-1)
        return made


class Missing(nn.Module):
    """GRU-D: what is missing is the last value, on its way to the mean; three inputs."""

    usual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.forgets, self.head = nn.GRUCell(8, 6), nn.Linear(4, 6), nn.Linear(6, 2)
        self.rates = nn.Parameter(torch.rand(4))
        self.register_buffer("usual", torch.randn(4))

    def forward(self, x: Tensor, there: Tensor, since: Tensor) -> Tensor:
        state, last = x.new_zeros(len(x), 6), self.usual.expand(len(x), -1)
        for t in range(x.shape[1]):
            fades = torch.exp(-F.relu(since[:, t] * self.rates))
            last = torch.where(there[:, t], x[:, t], last)
            value = torch.where(there[:, t], x[:, t], fades * last + (1 - fades) * self.usual)
            state = torch.exp(-F.relu(self.forgets(since[:, t]))) * state
            state = self.cell(torch.cat([value, there[:, t].to(x)], -1), state)
        made: Tensor = self.head(state)
        return made


class Pointers(nn.Module):
    """Points at one place after another; what was pointed at is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Linear(2, 5), nn.LSTMCell(5, 5)
        self.keys, self.query, self.score = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x)
        h, c, given = e.mean(1), e.amax(1), e.mean(1)
        mask, found = torch.zeros(x.shape[:2], dtype=torch.bool), []
        for _ in range(3):
            h, c = self.cell(given, (h, c))
            score = self.score(torch.tanh(self.keys(e) + self.query(h)[:, None])).squeeze(-1).masked_fill(mask, -1e9)
            found.append(score.log_softmax(-1))
            which = score.argmax(-1)
            mask = mask.scatter(1, which[:, None], True)
            given = e[torch.arange(len(x)), which]
        return torch.stack(found, 1).clamp(min=-30).sum(1)


class Conditioned(nn.Module):
    """FiLM on a picture, squeezed and excited; named inputs, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.film = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.Linear(3, 8)
        self.gate, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, image: Tensor, condition: Tensor) -> dict[str, Any]:
        scale, shift = self.film(condition)[..., None, None].chunk(2, 1)
        h = F.relu(self.norm(self.conv(image)) * (1 + scale) + shift, inplace=True)
        h = h * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(h, 1)))
        return {"logits": self.head(h.mean((2, 3))), "maps": [h]}


class Cached(nn.Module):
    """A decoder with a rotary table that it fills when first asked, a window, and things that it keeps of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.up, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(6, 3)
        self.table: Tensor | None = None
        self.seen: list[Tensor] = []
        self.passes = 0

    def turned(self, x: Tensor) -> Tensor:
        if self.table is None:
            angles = torch.outer(torch.arange(x.shape[-2]).to(x), 100 ** -torch.arange(0, 1, 0.5).to(x)).repeat(1, 2)
            self.table = torch.stack([angles.cos(), angles.sin()])
        return x * self.table[0] + torch.cat([-x[..., 2:], x[..., :2]], -1) * self.table[1]

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        q = self.turned(self.q(h).unflatten(-1, (2, 4)).transpose(1, 2))
        k, v = (part[:, None].expand(-1, 2, -1, -1) for part in self.kv(h).chunk(2, -1))
        place = torch.arange(x.shape[1])
        mask = (place[:, None] >= place) & (place[:, None] - place < 3)
        made = F.scaled_dot_product_attention(q, self.turned(k), v, attn_mask=mask).transpose(1, 2).flatten(2)
        self.seen.append(made.detach().mean())
        self.passes += 1
        value, gate = self.up(x + made).chunk(2, -1)
        scores: Tensor = self.head((value * F.silu(gate))[:, -1])
        return scores


class Remembers(nn.Module):
    """A stream: what the pass before ended with comes before what is given now; and a codebook that moves in train mode."""

    book: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 3, 3), nn.Linear(3, 2)
        self.register_buffer("book", torch.randn(5, 3))
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        before = self.kept.get("end", x.new_zeros(len(x), 2, 2))
        if len(before) != len(x):
            before = x.new_zeros(len(x), 2, 2)
        self.kept["end"] = x[..., -2:].detach().clone()
        h = self.conv(torch.cat([before, x], -1)).mean(-1)
        near = (h[:, None] - self.book).pow(2).sum(-1).softmax(-1)
        with torch.no_grad():
            self.book += 0.1 * (near.detach().t() @ h.detach() - self.book)
        made: Tensor = self.head(torch.tanh(near @ self.book.clone() + h))
        return made


class Kept(NamedTuple):
    """A net, its input, layers inside, and whether its DeepLIFT is complete at the input. None: but for a detached shift,
    which the slopes of an exponential feel, by less than what is told."""

    build: Callable[[], nn.Module]
    x: Any
    layers: tuple[str, ...] = ()
    target: Any = 0
    complete: bool | None = True


def logits(output: Any) -> Tensor:
    found: Tensor = output["logits"][:, 1]
    return found


ZOO: dict[str, Kept] = {
    "selective scan": Kept(SelectiveScan, numbers(3, 5, 4), ("enter", "leave")),
    "router": Kept(Router, numbers(3, 6), ("route", "embed"), complete=False),
    "graph attention": Kept(GraphAttention, numbers(3, 4, 5), ("lift",), complete=None),
    "coupling flow": Kept(Coupling, numbers(3, 4), ("nets.0", "nets.1.0")),
    "continuous flow": Kept(ContinuousFlow, numbers(3, 3), complete=False),
    "capsules": Kept(Capsules, numbers(3, 1, 6, 6), ("conv", "first"), 1),
    "splines": Kept(Splines, numbers(3, 4).tanh(), ("base",)),
    "spectral": Kept(Spectral, numbers(3, 2, 8), ("lift", "beside")),
    "dilated": Kept(Dilated, numbers(3, 2, 12), ("start", "skips.0")),
    "missing values": Kept(Missing, (numbers(3, 5, 4), numbers(3, 5, 4, seed=1) > 0, numbers(3, 5, 4, seed=2).abs())),
    "pointers": Kept(Pointers, numbers(3, 4, 2), ("embed",), complete=False),
    "conditioned": Kept(Conditioned, {"image": numbers(3, 2, 6, 6), "condition": numbers(3, 3)}, ("conv", "film"), logits),
    "cached": Kept(Cached, numbers(3, 5, 8), ("q", "up")),
    "remembers": Kept(Remembers, numbers(3, 2, 6), ("conv",), complete=False),
}


def built(kept: Kept) -> nn.Module:
    torch.manual_seed(0)
    model = kept.build().double().eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(buffer, 0.0, 0.3)
    assert all(math.isfinite(float(p.detach().sum())) for p in model.parameters())
    return model
