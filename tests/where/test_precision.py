"""Precision and devices: every method in half precision, under autocast, channels last, on an accelerator, distributed.

What is compared with is the float32 or float64 result of one process on the CPU.
"""

from __future__ import annotations

import functools
import os
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr._core.attention import plain_attention
from funattr._core.plain import plain_batch_norm

from ..breadth import full
from ..close import distance
from ..methods import METHODS, Row, drawn_alike, fits, row_id
from ..models import CASES, Residual, Text, double
from ..reference import leaves

TARGET = torch.tensor([1, 4, 0, 2])
#: A difference of two scores cancels; a product with itself counts twice.
CANCELS = dict.fromkeys(("feature_ablation", "shapley", "lime", "occlusion", "ablation_cam"), 2)
CANCELS |= {"multiply(gradient, saliency)": 2, "guided_grad_cam": 2}
#: Not linear in the score.
SCALED = (
    "multiply(gradient, saliency)",
    "normalize(gradient)",
    "score_cam",
    "ablation_cam",
    "grad_cam_plus_plus",
    "guided_grad_cam",
)
every_method = pytest.mark.parametrize("row", METHODS, ids=row_id)


def options_of(row: Row, target: Any = 3) -> dict[str, Any]:
    return row.options | ({"target": target} if row.targeted else {})


def subject(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    return Residual().eval().to(dtype), torch.randn(4, 3, 8, 8, dtype=dtype)


def sites(row: Row) -> list[Any]:
    return ["layer1", fa.input_of("layer2"), *([None] if row.at_input and row.name != "feature_ablation" else [])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_method
def test_half_precision(row: Row, dtype: torch.dtype) -> None:
    """Half precision in, half precision out, near the float32 result."""
    model, x = subject()
    expected = row.method(model, x, layer="layer1", **options_of(row))
    found = row.method(model.to(dtype), x.to(dtype), layer="layer1", **options_of(row))
    assert found.dtype == dtype
    assert 0 < distance(found, expected) < CANCELS.get(row.name, 1) * (0.02 if dtype == torch.float16 else 0.15)


@every_method
def test_double_precision(row: Row) -> None:
    """Nothing is made in float32 on the way: what a weight of 1 + 2^-40 on the score adds is seen, and the dtype is float64."""
    model, x = subject()
    with drawn_alike():
        single = [row.method(model, x, layer=site, **options_of(row)) for site in sites(row)]
        model, x = model.double(), x.double()
        double = [row.method(model, x, layer=site, **options_of(row)) for site in sites(row)]
    for site, rough, found in zip(sites(row), single, double):
        assert all(leaf.dtype == torch.float64 for leaf in leaves(found))
        assert distance(rough, found) < 1e-3
        if row.targeted and row.name not in SCALED:
            with drawn_alike():
                grown = row.method(model, x, layer=site, **options_of(row, lambda out: (1 + 2**-40) * out[:, 3]))
            assert distance(grown, (1 + 2**-40) * found) < 1e-14


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:the steps run one after another")  # torch's vmap does not cast, and mixes dtypes
@every_method
def test_autocast(row: Row, weights: torch.dtype) -> None:
    """Under autocast, with weights in float32 or already in bfloat16: near the float32 result, and not exactly it."""
    model, x = subject()
    model, x = model.to(weights).float(), x.to(weights).float()  # the same numbers for both
    expected = row.method(model, x, layer="layer1", **options_of(row))
    model, x = model.to(weights), x.to(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = row.method(model, x, layer="layer1", **options_of(row))
    assert 0 < distance(found, expected) < CANCELS.get(row.name, 1) * 0.15
    assert not torch.is_autocast_enabled()


class Inside(nn.Module):
    """A model that turns autocast on for a part of itself: attention, whose keys come in float32, between layers."""

    def __init__(self, dtype: torch.dtype | None = torch.bfloat16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.keys, self.values, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.dtype = dtype
        self.register_buffer("mix", torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer1(x).flatten(2).mT.float()
        with torch.autocast("cpu", self.dtype or torch.bfloat16, self.dtype is not None):
            keys, values = self.keys(tokens), self.values(tokens).tanh()
            weights = (tokens @ keys.mT).softmax(-1)
            found: Tensor = self.out(torch.baddbmm(values, weights.to(values.dtype), values @ self.mix).mean(1))
        return found.float()


@pytest.mark.filterwarnings("ignore:the steps run one after another")  # as above
@every_method
def test_autocast_in_the_model(row: Row) -> None:
    """On for a part of the forward pass, and off in the backward pass; or on around, and off for that part."""
    x = torch.randn(4, 3, 8, 8)
    expected = row.method(Inside(None), x, layer="layer1", **options_of(row))
    found = row.method(Inside(), x, layer="layer1", **options_of(row))
    assert distance(found, expected) < CANCELS.get(row.name, 1) * 0.15
    assert (distance(found, expected) > 0) is row.targeted
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = row.method(Inside(None), x, layer="layer1", **options_of(row))
    assert distance(found, expected) < CANCELS.get(row.name, 1) * 0.15


@pytest.mark.parametrize("rules", [fa.rules.gamma(0.25), fa.rules.epsilon_plus(), fa.rules.attn_lrp()])
def test_rules_in_autocast_in_the_model(rules: Any) -> None:
    x = torch.randn(4, 3, 8, 8)
    seen = []

    def own(op: Any, gradient: Tensor) -> Any:
        seen.append(op.function(*op.inputs).dtype == op.output.dtype == gradient.dtype)
        return torch.autograd.functional.vjp(op.function, op.inputs, gradient)[1]

    for some in (rules, rules | {torch.nn.functional.linear: own}):
        expected, found = (fa.lrp(model, x, target=3, rules=some) for model in (Inside(None), Inside()))
        assert 0 < distance(found, expected) < 0.15
    assert seen
    assert all(seen)


#: What torch computes in float32 whatever goes in, of large numbers and of small ones; and contributions that sum to nothing.
SUMMED: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda h: F.layer_norm(h, (8,)),
    "rms norm": lambda h: F.rms_norm(h, (8,), eps=1e-5),
    "rms norm, no eps": lambda h: F.rms_norm(h / 2**14, (8,)),
    "group norm": lambda h: F.group_norm(h.mT, 2).mT,
    "batch norm": lambda h: F.batch_norm(h.mT, None, None, training=True).mT,
    "attention": lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None] / 256, h[:, None])[:, 0],
    "attention, masked": lambda h: F.scaled_dot_product_attention(
        h[:, None], h[:, None] / 256, h[:, None], torch.zeros(4, 4, dtype=h.dtype)
    )[:, 0],
    "large scores": lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None])[:, 0],
    "normalize": lambda h: F.normalize(h, dim=-1),
    "cosine": lambda h: h / 256 + F.cosine_similarity(h, h.flip(1), dim=-1)[..., None],
    "deviation": lambda h: h + h.std(-1, keepdim=True),
    "selu": lambda h: F.selu(h / 2**14),
    "of one sign": lambda h: F.linear(h.abs() / 512, -torch.eye(8, dtype=h.dtype)),
}


class Summed(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operation, self.first, self.last = operation, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x) * 512)[:, 0])


RULED: dict[str, Callable[..., Tensor]] = {
    "deep_lift": functools.partial(fa.deep_lift, baselines=0.5),
    **{
        rules.__name__: functools.partial(fa.lrp, rules=rules())
        for rules in (fa.rules.attn_lrp, fa.rules.cp_lrp, fa.rules.epsilon, fa.rules.alpha_beta)
    },
    "create_graph": lambda *args, **named: fa.deep_lift(*args, **named, baselines=0.5, create_graph=True).detach(),
    "each_target": lambda model, x, target: fa.each_target(fa.under(fa.rules.epsilon())(fa.input_x_gradient), [target])(
        model, x
    )[0],
}


@pytest.mark.skipif(not hasattr(F, "rms_norm"), reason="this torch has no half precision on a CPU")
@pytest.mark.filterwarnings("ignore:DeepLIFT's attributions miss")  # of scores rounded by autocast
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", RULED)
@pytest.mark.parametrize("name", SUMMED)
def test_rules_sum_in_single_precision_as_torch_does(name: str, method: str, dtype: torch.dtype) -> None:
    model = Summed(SUMMED[name]).to(dtype)
    plain = Summed(SUMMED[name]).double()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 4, 6).to(dtype)
    near = 0.02 if dtype == torch.float16 else 0.1
    for own in (lambda net, z: net(z).detach(), lambda net, z: fa.gradient(net, z, target=1)):
        if not distance(own(model, x), own(plain, x.double())) < near:
            pytest.skip("this torch itself does not make it in float32")
    expected = RULED[method](plain, x.double(), target=1)
    found = RULED[method](model, x, target=1)
    assert found.dtype == dtype
    assert distance(found, expected) < near
    if name in ("attention", "large scores"):
        with torch.autocast("cpu", dtype):
            assert distance(RULED[method](model.float(), x.float(), target=1), expected) < (
                0.03 if dtype == torch.float16 else 0.15
            )


@pytest.mark.skipif(not hasattr(F, "rms_norm"), reason="this torch has no half precision on a CPU")
@pytest.mark.parametrize(
    "first", [fa.rules.flat(), fa.rules.wsquare(), fa.rules.zbox(0.0, 1.0)], ids=["flat", "wsquare", "zbox"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zeros_that_get_a_share_count_as_nothing(first: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 4)).to(dtype), torch.rand(2, 784).to(dtype)
    x[:, 32:] = 0
    rules = fa.rules.epsilon() | first
    found = fa.lrp(model, x, target=1, rules=rules)
    assert distance(found, fa.lrp(model.double(), x.double(), target=1, rules=rules)) < 0.03


@pytest.mark.skipif(not hasattr(F, "rms_norm"), reason="this torch has no half precision on a CPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_norm_in_plain_operations_is_made_in_single_precision(dtype: torch.dtype) -> None:
    """As compiled methods have it: its scale and shift, rounded, cancelled where the mean is large."""
    torch.manual_seed(0)
    mean, var, weight, bias = torch.full((3,), 50.0), torch.full((3,), 0.3), torch.randn(3), torch.randn(3)
    x, mean, var, weight, bias = (t.to(dtype) for t in (50 + torch.randn(4, 3, 5), mean, var, weight, bias))
    expected = F.batch_norm(x.double(), mean.double(), var.double(), weight.double(), bias.double())
    assert distance(plain_batch_norm(x, mean, var, weight, bias), expected) < torch.finfo(dtype).eps


@every_method
def test_channels_last(row: Row) -> None:
    model, x = subject(torch.float64)
    expected = [row.method(model, x, layer=site, **options_of(row)) for site in sites(row)]
    like: Any = {"memory_format": torch.channels_last}
    model, x = model.to(**like), x.to(**like)
    for site, plain in zip(sites(row), expected):
        assert distance(row.method(model, x, layer=site, **options_of(row)), plain) < 1e-10


@every_method
def test_a_compiled_model_is_seen_through(row: Row) -> None:
    model, x = subject(torch.float64)
    compiled = torch.compile(model, backend="eager")
    for site in ("layer1", *([None] if row.at_input else [])):
        expected = row.method(model, x, layer=site, **options_of(row))
        assert distance(row.method(compiled, x, layer=site, **options_of(row)), expected) < 1e-10
    assert (
        distance(
            row.method(compiled, x, layer=model.layer1, **options_of(row)),
            row.method(model, x, layer="layer1", **options_of(row)),
        )
        < 1e-10
    )


@every_method
def test_inference_mode(row: Row) -> None:
    """A model and an input made in inference mode, which autograd refuses to save; and text, by its embedding."""
    expected_model, x = subject(torch.float64)
    for site in sites(row):
        expected = row.method(expected_model, x, layer=site, **options_of(row, TARGET))
        with torch.inference_mode():
            found = row.method(expected_model, x.clone(), layer=site, **options_of(row, TARGET.clone()))
            assert distance(found, expected) == 0
            assert torch.is_inference_mode_enabled()
    if row.integers and not row.convolutional and not row.relu:
        text, ids = Text().double().eval(), torch.randint(0, 20, (4, 7))
        expected = row.method(text, ids, layer="embedding", **options_of(row, TARGET))
        with torch.inference_mode():
            assert distance(row.method(text, ids.clone(), layer="embedding", **options_of(row, TARGET)), expected) == 0


@every_method
def test_no_data(row: Row) -> None:
    """On the meta device there is nothing to explain: shapes, or a clear error, never an error from inside."""
    model, x = subject()
    expected = row.method(model, x, layer="layer1", **options_of(row))
    found = row.method(model.to("meta"), x.to("meta"), layer="layer1", **options_of(row))
    assert [leaf.shape for leaf in leaves(found)] == [leaf.shape for leaf in leaves(expected)]
    assert all(leaf.is_meta for leaf in leaves(found))


def test_no_data_under_rules() -> None:
    """Of activations too, whose relevance at 0 is looked for."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to("meta")
    assert fa.lrp(model, torch.zeros(5, 3, device="meta"), target=1).shape == (5, 3)


def test_devices_that_do_not_meet() -> None:
    """An error of the model, which the caller knows, comes through as it is."""
    model, x = subject()
    with pytest.raises(RuntimeError) as own:
        model.to("meta")(x)
    with pytest.raises(type(own.value)):
        fa.saliency(model, x, target=1)


# An accelerator: where one is present.

accelerated = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not tested on an accelerator here")


@accelerated
@every_method
def test_on_cuda(row: Row) -> None:
    for case in CASES:
        if not fits(row, case):
            continue
        model, x = double(case)
        there = tuple(part.cuda() for part in x) if isinstance(x, tuple) else x.cuda()
        for site in case.layers:
            if row.convolutional and site == fa.input_of("fc"):
                continue
            expected = row.method(model.cpu(), x, layer=site, **options_of(row, TARGET))
            found = row.method(model.cuda(), there, layer=site, **options_of(row, TARGET.cuda()))
            assert all(leaf.is_cuda for leaf in leaves(found)), case.name
            assert distance(found, expected) < 1e-8, case.name


@accelerated
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_method
def test_autocast_on_cuda(row: Row, dtype: torch.dtype) -> None:
    model, x = subject()
    expected = row.method(model, x, layer="layer1", **options_of(row))
    with torch.autocast("cuda", dtype=dtype):
        found = row.method(model.cuda(), x.cuda(), layer="layer1", **options_of(row))
    assert 0 < distance(found, expected) < CANCELS.get(row.name, 1) * (0.02 if dtype == torch.float16 else 0.15)


@accelerated
def test_draws_on_cuda() -> None:
    """A generator of the device, and one of the CPU, whose numbers are the same wherever the model is."""
    model, x = subject(torch.float64)
    here = fa.noise_tunnel(fa.gradient, generator=torch.Generator().manual_seed(0))(model, x, target=1)
    there = fa.noise_tunnel(fa.gradient, generator=torch.Generator().manual_seed(0))(model.cuda(), x.cuda(), target=1)
    assert distance(there, here) < 1e-8
    for generator in (torch.Generator().manual_seed(1), torch.Generator("cuda").manual_seed(1)):
        found = fa.gradient_shap(model, x.cuda(), baselines=torch.zeros_like(x).cuda(), target=1, generator=generator)
        assert found.is_cuda
        assert found.any()


# Several processes, and several devices in one.


@every_method
def test_data_parallel(row: Row) -> None:
    model, x = subject(torch.float64)
    for site in ("layer1", *([None] if row.at_input else [])):
        expected = row.method(model, x, layer=site, **options_of(row))
        assert distance(row.method(nn.DataParallel(model), x, layer=site, **options_of(row)), expected) < 1e-10


def distributed(rank: int, port: int, folder: str) -> None:
    """What each of two processes does: all methods on its own rows, by DistributedDataParallel and by FSDP2."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model, x = subject(torch.float64)
        rows = slice(2 * rank, 2 * rank + 2)
        found: dict[str, Any] = {}
        kinds: dict[str, nn.Module] = {"ddp": nn.parallel.DistributedDataParallel(model)}
        fsdp = sharded(model)
        if fsdp is not None:
            kinds["fsdp"] = fsdp
        for kind, wrapped in kinds.items():
            for row in METHODS:
                for site in ("layer1", *([None] if row.at_input else [])):
                    try:
                        with drawn_alike():
                            result = row.method(wrapped, x[rows], layer=site, **options_of(row, TARGET[rows]))
                        found[f"{kind} {row.name} {site}"] = leaves(result)
                    except Exception as problem:  # told to the test, which shows it
                        found[f"{kind} {row.name} {site}"] = f"{type(problem).__name__}: {problem}"
        fresh = sharded(model)  # what FSDP2 does at its first pass alone, and leaves undone after it, is none of DeepLIFT's
        if fresh is not None:
            found["first"] = leaves(fa.deep_lift(fresh, x[rows], layer="layer1", target=TARGET[rows]))
        torch.save(found, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def sharded(model: nn.Module) -> nn.Module | None:
    """A copy of the model with its blocks and itself sharded over the processes; None where this torch cannot."""
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        return None
    copied = Residual().double().eval()
    copied.load_state_dict(model.state_dict())
    mesh = init_device_mesh("cpu", (2,))
    for block in (copied.layer1, copied.layer2, copied):
        fully_shard(block, mesh=mesh)
    return copied


@full
@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo")
def test_two_processes() -> None:
    """Each process explains its rows with a shared model: every method gives what one process gives."""
    torch.manual_seed(0)
    model, x = subject(torch.float64)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(distributed, (port, folder), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]  # torch hands it on untyped
        parts = [torch.load(os.path.join(folder, f"{rank}.pt"), weights_only=False) for rank in range(2)]
    assert parts[0].keys() == parts[1].keys()
    first = [part.pop("first", None) for part in parts]
    if None not in first:
        expected = leaves(fa.deep_lift(model, x, layer="layer1", target=TARGET))
        assert distance([torch.cat(same) for same in zip(*first)], expected) < 1e-10
    wrong = []
    for row in METHODS:
        for site in ("layer1", *([None] if row.at_input else [])):
            with drawn_alike():
                expected = leaves(row.method(model, x, layer=site, **options_of(row, TARGET)))
            for kind in {name.split()[0] for name in parts[0]}:
                found = [part[f"{kind} {row.name} {site}"] for part in parts]
                if f"{kind} {row.name}" == "fsdp deep_lift_shap":  # its baselines are vmapped, which FSDP2's gathering forbids
                    assert all("different paths" in str(one) for one in found), "it can: compare it, as the others"
                elif any(isinstance(one, str) for one in found):
                    wrong.append(f"{kind} {row.name} at {site}: {found}")
                elif distance([torch.cat(same) for same in zip(*found)], expected) > 1e-10:
                    wrong.append(f"{kind} {row.name} at {site}: other numbers")
    assert wrong == []


@pytest.mark.skipif(torch.__version__ < "2.4", reason="torch's own is no better there")
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_attention_in_plain_operations_under_autocast(given: torch.dtype, mask: bool) -> None:
    """Large scores that lie near each other, of what autocast makes half precision: in float32, as the fused kernels."""
    query, key, value = (t.to(given) for t in torch.randn(3, 2, 2, 5, 16, generator=torch.Generator().manual_seed(0)))
    query, key = query + 6, key + 6
    seen = torch.ones(5, 5, dtype=torch.bool).tril() if mask else None
    with torch.autocast("cpu", torch.bfloat16):
        found, fused = (f(query, key, value, seen) for f in (plain_attention, F.scaled_dot_product_attention))
    q, k, v = (t.to(torch.bfloat16).double() for t in (query, key, value))
    expected = F.scaled_dot_product_attention(q, k, v, seen)
    assert found.dtype == fused.dtype == torch.bfloat16
    assert distance(found, expected) < 0.01


@pytest.mark.parametrize("method", [fa.feature_ablation, functools.partial(fa.occlusion, window=1), fa.shapley, fa.lime])
def test_large_integers_lose_what_they_lose(method: Callable[..., Tensor]) -> None:
    """Scores of 2^28 and one more are one number to float32, in which results are."""
    x, weights = torch.tensor([[1, 1, 1], [2, 3, 4]]), torch.tensor([1, 2, 3])

    def score(x: Tensor) -> Tensor:
        return (x * weights).sum(1) + (1 << 28)

    found = method(score, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (x * weights).float())
    assert torch.equal(fa.metrics.comprehensiveness(x * 1.0, score, x, fractions=(1.0,)), torch.tensor([6.0, 20.0]))
