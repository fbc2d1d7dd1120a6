"""deep_lift is complete on real architectures at every block, and costs the floor."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import funattr as fa
from benchmarks.cost import flop_registry
from funattr import deep_lift, deep_lift_shap

from ..operations import assert_complete, difference


class Bottle(nn.Module):
    """torchvision's residual block: one in-place ReLU, reused; in-place adds; a strided shortcut."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


def resnet() -> nn.Module:
    w = 8
    stem = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    blocks = [Bottle(w, w, 1), Bottle(w, 2 * w, 2), Bottle(2 * w, 2 * w, 1)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, 5))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def vgg() -> nn.Module:
    convs = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2)]
    head = [nn.Linear(8 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Linear(16, 5)]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head).eval()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # torch's own start lets the signal die out
            nn.init.kaiming_normal_(module.weight)
    return model


class Vit(nn.Module):
    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(*[VitBlock(fused) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class VitBlock(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).reshape(len(x), -1, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


NETS: dict[str, tuple[Callable[[], nn.Module], list[Any]]] = {
    "resnet": (resnet, [None, "0", "3", "4", "5", "6", fa.input_of("9")]),
    "vgg": (vgg, [None, "0", "1", "2", "4", "6", "10"]),
    "vit": (Vit, [None, "patch", "blocks.0", "blocks.1", "blocks.2", "norm"]),
    "vit with plain attention": (lambda: Vit(False), [None, "patch", "blocks.0", "blocks.2"]),
}
NET_LAYERS = [(name, layer) for name, (_, layers) in NETS.items() for layer in layers]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("name", "layer"), NET_LAYERS, ids=str)
def test_real_networks_are_complete_at_every_block(name: str, layer: Any, dtype: torch.dtype, tolerance: float) -> None:
    model = NETS[name][0]().eval().to(dtype)
    x = torch.randn(3, 3, 32, 32, dtype=dtype)
    target = torch.tensor([0, 2, 4])
    for baselines in (0.0, torch.randn(1, 3, 32, 32, dtype=dtype), torch.randn(3, 3, 32, 32, dtype=dtype)):
        found = deep_lift(model, x, baselines=baselines, layer=layer, target=target)
        wanted = difference(model, x, baselines, lambda y: y[torch.arange(3), target])
        assert ((found.flatten(1).sum(1) - wanted).abs() <= tolerance * wanted.abs()).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_transformers_are_complete(family: str, attention: str) -> None:
    transformers = pytest.importorskip("transformers")
    shared = {"vocab_size": 50, "attn_implementation": attention}
    if family == "bert":
        config = transformers.BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32, num_labels=3, **shared
        )
        model, layers = transformers.BertForSequenceClassification(config), ["bert.embeddings", "bert.encoder.layer.0"]
    elif family == "gpt2":
        config = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=4, n_positions=20, bos_token_id=1, eos_token_id=2, **shared
        )
        model, layers = transformers.GPT2LMHeadModel(config), ["transformer.wte", "transformer.h.0"]
    else:
        config = transformers.LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            **shared,
        )
        model, layers = transformers.LlamaForCausalLM(config), ["model.embed_tokens", "model.layers.0"]
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    model.eval().double()
    tolerance = 1e-5 if family == "llama" else 1e-9  # Llama's own norm computes in float32
    ids, pad = torch.randint(5, 50, (3, 7)), torch.zeros(1, 7, dtype=torch.long)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, -2:] = 0

    def score(output: Any) -> Tensor:
        return output.logits[:, 1] if family == "bert" else output.logits[:, -1, 7]

    for bound in (model, functools.partial(model, attention_mask=mask)):
        with torch.no_grad():
            wanted = score(bound(ids)) - score(bound(pad.expand(3, -1)))
        for layer in layers:
            found = deep_lift(bound, ids, baselines=pad, layer=layer, target=1 if family == "bert" else score)
            found = found if isinstance(found, Tensor) else found[0]
            assert ((found.flatten(1).sum(1) - wanted).abs() <= tolerance * wanted.abs()).all()


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_recurrent_layers_are_taken_apart(layer: Any, options: dict[str, Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = layer(4, 5, batch_first=True, **options)

        def forward(self, x: Tensor) -> Tensor:
            y, state = self.rnn(x)
            last = state[1] if isinstance(state, tuple) else state
            return y.flatten(1).sum(1) + last.sum((0, 2))

    model = Net().double()
    x = torch.randn(3, 6, 4, dtype=torch.float64)
    assert_complete(deep_lift(model, x, baselines=0.2), difference(model, x, 0.2, lambda y: y))


def test_state_is_left_as_found_and_no_graph_is_pinned() -> None:
    model, x = resnet(), torch.randn(2, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = x.clone()
    found = deep_lift(model, x, target=1)
    assert not found.requires_grad
    assert torch.equal(x, kept)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(deep_lift(model, torch.tensor(x.tolist()), target=1), found)
    with torch.no_grad():
        torch.testing.assert_close(deep_lift(model, x, target=1), found)


def test_threads() -> None:
    model = resnet().double()
    x = [torch.randn(2, 3, 32, 32, dtype=torch.float64) for _ in range(4)]
    wanted = [deep_lift(model, part, layer="4", target=1) for part in x]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if not torch.equal(deep_lift(model, x[i], layer="4", target=1), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Flops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def flops(run: Callable[[], Any]) -> int:
    with Flops() as counter:
        run()
    return counter.count


@pytest.mark.parametrize(("name", "layer"), [p for p in NET_LAYERS if p[0] in ("resnet", "vit with plain attention")], ids=str)
def test_cost_is_the_floor(name: str, layer: Any) -> None:
    model, x, b = NETS[name][0]().eval(), torch.randn(3, 3, 32, 32), 4
    with torch.no_grad():
        forward = flops(lambda: model(x[:1]))
    backward = flops(lambda: fa.gradient(model, x[:1], layer=layer, target=1)) - forward
    found = flops(lambda: deep_lift(model, x, layer=layer, target=1))
    assert found <= 1.05 * ((3 + 1) * forward + 3 * backward)
    references = torch.randn(b, 3, 32, 32)
    found = flops(lambda: deep_lift_shap(model, x, baselines=references, layer=layer, target=1, chunk_size=b))
    assert found <= 1.05 * ((3 + b) * forward + b * 3 * backward)


class Masked(nn.Module):
    """Attention under a mask, as Llama's: torch's fused operation lays its result otherwise than its parts do; and a scale made
    of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(8, 8).double() for _ in range(4))
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.exp()
        q, k, v = (part(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        mask = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).contiguous()
        return self.head((y.flatten(2) * scale).tanh()).mean((1, 2))


def test_what_gives_a_tensor_back_as_it_is_writes_nothing() -> None:
    """`contiguous` copies in one of the two passes only: with a write there, they would not be alike, and run again."""
    passes: list[int] = []
    model, x, x0 = Masked(), torch.randn(3, 5, 8).double(), torch.randn(3, 5, 8).double()
    model.head.register_forward_hook(lambda *_: passes.append(1))
    found = deep_lift(model, x, baselines=x0)
    assert len(passes) == 2
    torch.testing.assert_close(found.sum((1, 2)), model(x) - model(x0))
