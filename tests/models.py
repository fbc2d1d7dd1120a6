"""Small nets that are hard in one way each, and the places inside them worth asking about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(8, 7)
        self.act2 = nn.Tanh()
        self.fc3 = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.act2(self.fc2(self.act1(self.fc1(x)))))


class Conv(nn.Module):
    """Modules only, each used once: what Captum is made for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        return self.fc(self.relu2(self.conv2(x)).mean((2, 3)))


class Block(nn.Module):
    """A residual block as torchvision writes it: one in-place ReLU used twice, an in-place add onto the shortcut."""

    def __init__(self, c: int, spelling: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.spelling == "in-place":
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += shortcut
            return self.relu(out)
        if self.spelling == "functional":
            out = F.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(out)) + shortcut)
        if self.spelling == "methods":
            out = self.bn1(self.conv1(x)).relu_()
            return (self.bn2(self.conv2(out)) + shortcut).clamp(min=0)
        out = torch.relu_(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)).add_(shortcut), inplace=True)


SPELLINGS = ["in-place", "functional", "methods", "mixed"]


class Residual(nn.Module):
    def __init__(self, spelling: str = "in-place") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.layer1 = Block(6, spelling)
        self.layer2 = Block(6, spelling)
        self.fc = nn.Linear(6, 5)
        for bn in (self.layer1.bn1, self.layer1.bn2, self.layer2.bn1, self.layer2.bn2):
            nn.init.normal_(bn.running_mean, 0.0, 0.3)  # type: ignore[arg-type]  # these norms keep statistics
            nn.init.uniform_(bn.running_var, 0.5, 2.0)  # type: ignore[arg-type]  # these norms keep statistics

    def forward(self, x: Tensor) -> Tensor:
        # tanh: second derivatives must not vanish
        return self.fc(self.layer2(self.layer1(torch.tanh(self.stem(x)))).square().mean((2, 3)))


class OneByOne(nn.Module):
    """The same net with a module for each activation, out of place and used once: Captum's home ground."""

    def __init__(self, net: Residual) -> None:
        super().__init__()
        self.net = net
        self.tanh = nn.Tanh()
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tanh(self.net.stem(x))
        for i, block in enumerate((self.net.layer1, self.net.layer2)):
            out = self.acts[2 * i](block.bn1(block.conv1(x)))
            x = self.acts[2 * i + 1](block.bn2(block.conv2(out)) + x)
        return self.net.fc(x.square().mean((2, 3)))


class Tokens(nn.Module):
    """A transformer on channel-last tokens: fused attention, layer norm, GELU, residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.norm1 = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.norm2 = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder, which runs as one fused operation when no gradient is asked for."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Masked(Encoder):
    """The same, padded: the fused path hands nested tensors from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        padding[:, -1] = True
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


class Recurrent(nn.Module):
    """The value at the LSTM is nested: (output, (h, c))."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out, (h, _) = self.lstm(x)
        return self.head(out[:, -1] * h[0])


class Keywords(nn.Module):
    """Layers called by keyword, one of them with two tensors; the output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.gate = Gate()
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.first(input=x)
        h = self.gate(a=h, b=h.tanh())
        return {"logits": self.last(input=h), "features": h}


class Gate(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * torch.sigmoid(b)


class Thrice(nn.Module):
    """One layer that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.inner(x))
        return self.head(x)


class Writes(nn.Module):
    """Its first operation overwrites its own input, and so does the one after every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.act = nn.Sigmoid()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).relu_()
        h = self.fc1(x).mul_(0.5)
        h += self.act(h) * 3.0  # in-place on what act was given, and on what it gave
        return self.head(h.mul_(2.0))


class Two(nn.Module):
    """Two inputs of different shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(6, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(image)).mean((2, 3)) * torch.relu(self.fc(table)))


class Text(nn.Module):
    """Integers in, with a mask that may be given by keyword; the output has a `logits` field and more."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Output:
        h = torch.tanh(self.mix(self.embedding(ids)))
        if mask is not None:
            h = h * mask.unsqueeze(-1)
        return Output(self.head(h.mean(1)), h)


@dataclasses.dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Switches(nn.Module):
    """Turns gradients on around one layer and off behind it, as frozen backbones with a trained part do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            h = torch.tanh(self.first(x))
        with torch.enable_grad():
            h = torch.tanh(self.second(h))
        return self.head(h)


class Case(NamedTuple):
    """A net, how to make an input for it, and what may be asked of it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    layers: tuple[Any, ...]
    convolutional: bool = False
    relu: bool = False


def case_id(case: Case) -> str:
    return case.name


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def table() -> Tensor:
    return torch.randn(4, 6)


def tokens() -> Tensor:
    return torch.randn(4, 7, 4)


CASES = [
    Case("mlp", Mlp, table, ("fc1", "act1", fa.input_of("fc3"), "act2"), relu=True),
    Case("conv", Conv, image, ("conv1", "relu1", "conv2", fa.input_of("fc")), True, True),
    Case(
        "residual",
        Residual,
        image,
        ("stem", "layer1", "layer1.bn1", "layer2.conv2", "layer2", fa.input_of("layer2")),
        True,
        True,
    ),
    Case("reused", Residual, image, (fa.output_of("layer1.relu", call=0), fa.input_of("layer2.relu", call=-1)), True, True),
    Case("tokens", Tokens, tokens, ("embed", "norm1", "qkv", fa.input_of("up"), "down")),
    Case(
        "encoder",
        Encoder,
        lambda: torch.randn(4, 7, 8),
        ("encoder", "encoder.layers.0", "encoder.layers.0.linear1", "encoder.layers.1.norm2"),
        relu=True,
    ),
    Case(
        "masked", Masked, lambda: torch.randn(4, 7, 8), ("encoder.layers.0", fa.input_of("encoder.layers.1.norm1")), relu=True
    ),
    Case("recurrent", Recurrent, tokens, ("lstm", fa.input_of("head"))),
    Case("keywords", Keywords, table, ("first", "gate", fa.input_of("gate"), fa.input_of("last"))),
    Case("thrice", Thrice, table, tuple(fa.output_of("inner", call=i) for i in (0, 1, 2, -1, -3))),
    Case("writes", Writes, table, ("fc1", "act", fa.input_of("act"), fa.input_of("head")), relu=True),
    Case("two", Two, lambda: (image(), table()), ("conv", "fc", fa.input_of("head")), relu=True),
    Case("text", Text, lambda: torch.randint(0, 20, (4, 7)), ("embedding", "mix", fa.input_of("head"))),
    Case("switches", Switches, table, ("first", "second", fa.input_of("head"))),
]


# Nets whose rows meet: what is explained is the function of *this* batch. All laws hold but that each example is explained
# alone, and no number of rows may be put beside them.


class BatchStatistics(nn.Module):
    """Batch norm without statistics of its own takes those of the batch, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv2(self.relu(self.norm(self.conv1(x))))).mean((2, 3)))


class Meets(nn.Module):
    """An MLP in which the rows meet once, in one way or another."""

    def __init__(self, meet: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.meet = meet
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(8, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc2(self.act(self.meet(self.fc1(x))))))


class Rows(nn.Module):
    """Attention over the rows, as set transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head((q @ k.t() / 8**0.5).softmax(-1) @ v)


class Nodes(nn.Module):
    """A graph network: rows are nodes, the edges are numbers of rows, kept in a buffer or bound."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 5)
        self.act = nn.ReLU()
        self.register_buffer("edges", EDGES)
        self.edges: Tensor

    def forward(self, x: Tensor, edges: Tensor | None = None) -> Tensor:
        source, target = (self.edges if edges is None else edges).unbind()

        def spread(h: Tensor) -> Tensor:
            return h + torch.zeros_like(h).index_add(0, target, h[source])

        return spread(self.fc2(self.act(spread(self.fc1(x)))))


EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 0, 1, 3]])


class Frames(nn.Module):
    """One recording without a batch: the first dimension, of which each entry gets a score, is time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 4)
        self.lstm = nn.LSTM(4, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(torch.tanh(self.fc1(x)))[0])


class Shares(Mlp):
    """The mean over the batch, written into the score."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / len(x)


def centred(h: Tensor) -> Tensor:
    return h - h.mean(0)


def gated(h: Tensor) -> Tensor:
    """Batch mean as a switch: two copies of one batch have the same, two batches beside each other have not."""
    return h * torch.sigmoid(h.mean(0))


def summed(h: Tensor) -> Tensor:
    """Row i takes in all before it: the first block of a larger batch sees nothing of the others."""
    return h.cumsum(0)


def rolled(h: Tensor) -> Tensor:
    return h + 0.5 * h.roll(1, 0)


def meets(name: str, meet: Callable[[Tensor], Tensor]) -> Case:
    return Case(name, lambda: Meets(meet), table, ("fc1", "fc2", fa.input_of("head")), relu=True)


MIXING = [
    Case("batch statistics", BatchStatistics, image, ("conv1", "norm", "conv2", fa.input_of("fc")), True, True),
    meets("centred", centred),
    meets("gated", gated),
    meets("summed", summed),
    meets("rolled", rolled),
    Case("rows", Rows, table, ("qkv", fa.input_of("head"))),
    Case("nodes", Nodes, table, ("fc1", fa.input_of("fc2")), relu=True),
    Case("frames", Frames, table, ("fc1", fa.input_of("head"))),
    Case("shares", Shares, table, ("fc1", "act1", fa.input_of("fc3")), relu=True),
]


def double(case: Case) -> tuple[nn.Module, Any]:
    """The case's net in float64 and eval mode, with an input."""
    model = case.build().double().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms start as constants: make them count
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model, to_double(case.inputs())


def to_double(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(to_double(part) for part in x)
    return x.double() if x.is_floating_point() else x
