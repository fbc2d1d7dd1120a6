"""Text as its users work: ids in, attributions at the embeddings, masks and positions beside them, tokens as targets.

Expected values come from loops of plain autograd over one unpadded example at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import funattr as fa

from ..architectures import bert, clip, distilbert, gpt2, ids, llama, padded, prepared, roberta, t5
from ..reference import gauss, logits

LENGTHS = (5, 3, 4)
PAD = 0
#: Method, its options, and the attribution of one example from values, baseline values and the score as a function of values.
Explained = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]


def slope(v: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    v = v.detach().clone().requires_grad_()
    return torch.autograd.grad(score(v), v)[0]


def path(v: Tensor, v0: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    return sum((w * slope(v0 + a * (v - v0), score) for a, w in gauss(4)), torch.zeros_like(v)) * (v - v0)


def without(v: Tensor, v0: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """What is lost without each token."""
    lost = torch.zeros_like(v)
    for t in range(v.shape[1]):
        ablated = v.clone()
        ablated[:, t] = 0
        lost[:, t] = (score(v) - score(ablated)).detach()
    return lost


METHODS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], Explained]] = {
    "gradient": (fa.gradient, {}, lambda v, v0, score: slope(v, score)),
    "input_x_gradient": (fa.input_x_gradient, {}, lambda v, v0, score: v * slope(v, score)),
    "integrated_gradients": (fa.integrated_gradients, {"baselines": 3, "n_steps": 4}, path),
    "feature_ablation": (fa.feature_ablation, {}, without),
}


def texts(side: str = "right") -> tuple[Tensor, Tensor]:
    """Ids of three lengths, padded, and their mask."""
    tokens = torch.randint(4, 50, (3, 5))
    mask = torch.stack([torch.arange(5) < n for n in LENGTHS]).long()
    mask = mask if side == "right" else mask.flip(1)
    return torch.where(mask == 1, tokens, PAD), mask


def positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


MODELS: dict[str, tuple[Callable[[str], Any], str, Any, bool]] = {
    "bert": (bert, "bert.embeddings", [3, 1, 2], False),
    "distilbert": (distilbert, "distilbert.embeddings.word_embeddings", [3, 1, 2], False),
    "roberta": (roberta, "roberta.embeddings", [3, 1, 2], False),
    "gpt2": (gpt2, "transformer.wte", [3, 1, 2], False),
    "gpt2 language model": (partial(gpt2, head=tf.GPT2LMHeadModel), "transformer.wte", (2, 11), True),
    "llama": (partial(llama, head=tf.LlamaForSequenceClassification), "model.embed_tokens", [3, 1, 2], True),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "side"),  # a model that takes no positions counts the padding in front
    [(name, side) for name, (*_, takes_positions) in MODELS.items() for side in ("right", "left")[: 1 + takes_positions]],
)
@pytest.mark.filterwarnings("ignore:the steps run one after another")
def test_padding_changes_nothing(name: str, side: str, attention: str) -> None:
    build, layer, target, takes_positions = MODELS[name]
    model = prepared(build(attention))
    tokens, mask = texts(side)
    x = {"input_ids": tokens, "attention_mask": mask}
    if takes_positions:
        x["position_ids"] = positions(mask)
    if side == "left" and isinstance(target, tuple):
        target = [(4 - (n - 1) + min(2, n - 1), 11) for n in LENGTHS]  # the same tokens, further right
    module = model.get_submodule(layer)
    rows = torch.arange(5).reshape(1, 5, 1)  # a group for each token
    for method, options, explained in METHODS.values():
        # One step at a time: run together, the two scores of a difference are rounded each in its own way.
        more = {"feature_mask": rows, "chunk_size": 1} if method is fa.feature_ablation else {}
        if (side, attention, name) == ("left", "eager", "llama"):
            # Its softmax in float32 makes NaN of a query that may look nowhere: of the padding in front.
            with pytest.raises(ValueError, match="the model's score holds NaN or inf"):
                method(model, x, layer=layer, target=target, **options, **more)
            continue
        found = method(model, x, layer=layer, target=target, **options, **more)
        assert not found[mask == 0].abs().max() > 1e-15
        for i, n in enumerate(LENGTHS):
            own = tokens[i : i + 1][:, mask[i] == 1]

            def put(v: Tensor | None, own: Tensor = own) -> tuple[Tensor, Any]:
                kept: list[Tensor] = []

                def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
                    kept.append(output.detach().clone())
                    return output if v is None else v

                handle = module.register_forward_hook(hook)
                try:
                    return kept, model(input_ids=own)  # type: ignore[return-value]  # a module's call is Any
                finally:
                    handle.remove()

            pick = (min(2, n - 1), 11) if not isinstance(MODELS[name][2], list) else target[i]
            if side == "right" and isinstance(target, tuple):
                pick = target

            def score(v: Tensor, put: Any = put, pick: Any = pick) -> Tensor:
                return logits(put(v)[1])[0][pick]

            value = put(None)[0][0]
            start = put(None, torch.full_like(own, 3))[0][0]
            torch.testing.assert_close(found[i : i + 1, mask[i] == 1], explained(value, start, score), rtol=1e-8, atol=1e-12)


def test_masks_may_be_bound_or_given() -> None:
    model, (tokens, mask) = prepared(bert("sdpa")), texts()
    kinds, places = torch.ones_like(tokens), torch.arange(5).flip(0).expand(3, 5)
    others = {"attention_mask": mask, "token_type_ids": kinds, "position_ids": places}
    layer = "bert.embeddings.word_embeddings"
    for method in (fa.input_x_gradient, partial(fa.integrated_gradients, n_steps=4), fa.deep_lift):
        found = method(partial(model, **others), tokens, layer=layer, target=1)
        assert not found[mask == 0].any()
        plain = method(partial(model, attention_mask=mask), tokens, layer=layer, target=1)
        assert not torch.allclose(found, plain)  # the others count
        named = {"input_ids": tokens, **others}
        for x in (named, tf.BatchEncoding(named)):
            torch.testing.assert_close(method(model, x, layer=layer, target=1), found)
        half = {"input_ids": tokens, "position_ids": places}
        bound = partial(model, attention_mask=mask, token_type_ids=kinds)
        torch.testing.assert_close(method(bound, half, layer=layer, target=1), found)


def test_a_text_in_place_of_another_as_a_tokenizer_gives_both() -> None:
    model, (tokens, mask) = prepared(bert("sdpa")), texts()
    x, other = ({"input_ids": ids, "attention_mask": mask} for ids in (tokens, tokens.flip(0)))
    groups = {"input_ids": torch.arange(5), "attention_mask": None}
    calls: list[tuple[Any, dict[str, Any]]] = [
        (fa.integrated_gradients, {"layer": "bert.embeddings", "n_steps": 4}),
        (fa.deep_lift, {"layer": "bert.embeddings"}),
        (fa.feature_ablation, {"feature_mask": groups}),
    ]
    for method, options in calls:
        expected = method(model, x, target=1, baselines=other, **options)
        if "feature_mask" in options:
            options["feature_mask"] = tf.BatchEncoding(groups)
        found = method(model, tf.BatchEncoding(x), target=1, baselines=tf.BatchEncoding(other), **options)
        torch.testing.assert_close(found, expected)
        with pytest.raises(ValueError, match="None for what stays as it is"):
            method(model, x, target=1, baselines={"input_ids": 3}, **options)
        method(model, x, target=1, baselines={"input_ids": 3, "attention_mask": None}, **options)


def test_one_id_stands_in_for_tokens_and_not_for_masks() -> None:
    """All in one dict, as a tokenizer gives it: attributions are complete, for what the model makes of the baseline's ids."""
    model, (tokens, mask) = prepared(bert("sdpa")), texts()
    x = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": torch.ones_like(tokens)}
    before = model(**(x | {"input_ids": torch.full_like(tokens, 3)})).logits[:, 1]
    gain = (model(**x).logits[:, 1] - before).detach()
    for layer in ("bert.embeddings", "bert.encoder.layer.0"):
        for method in (partial(fa.integrated_gradients, n_steps=40), fa.deep_lift):
            found = method(model, x, layer=layer, target=1, baselines=3)
            torch.testing.assert_close(found.sum((1, 2)), gain, rtol=1e-6, atol=1e-8)
            assert fa.convergence_delta(found, model, x, target=1, baselines=3).abs().max() < 1e-7
        shap = fa.deep_lift_shap(model, x, layer=layer, target=1, baselines=3)
        torch.testing.assert_close(shap.sum((1, 2)), gain)
    told = {"input_ids": 3, "attention_mask": None, "token_type_ids": 0}
    found = fa.deep_lift(model, x, layer="bert.embeddings", target=1, baselines=told)
    before = model(**(x | {"input_ids": torch.full_like(tokens, 3), "token_type_ids": torch.zeros_like(tokens)})).logits[:, 1]
    torch.testing.assert_close(found.sum((1, 2)), (model(**x).logits[:, 1] - before).detach())


@pytest.mark.parametrize(
    ("target", "index"),
    [
        (2, [2, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 0]), [2, 0]),
        ("argmax", None),
        (lambda output: output.logits[:, 4], [4, 4]),
    ],
)
def test_targets_of_a_classifier(target: Any, index: list[int] | None) -> None:
    model, x = prepared(roberta("eager")), ids()
    index = model(x).logits.argmax(1).tolist() if index is None else index
    found = fa.sum_channels(fa.input_x_gradient, channel_dim=-1)(model, x, layer="roberta.embeddings", target=target)
    assert found.shape == (2, 5, 1)
    for i in range(2):
        expected = tokenwise(model, x[i : i + 1], "roberta.embeddings", entry(index[i]))
        torch.testing.assert_close(found[i : i + 1, :, 0], expected)


def entry(*index: int) -> Callable[[Any], Tensor]:
    """A logit of the one example."""
    index = (0, *index)
    return lambda output: output.logits[index]


def tokenwise(model: nn.Module, x: Any, layer: str, score: Callable[[Any], Tensor]) -> Tensor:
    """Value times gradient, summed for each token."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        output = model(**x) if isinstance(x, dict) else model(x)
    finally:
        handle.remove()
    return (torch.autograd.grad(score(output), kept)[0] * kept[0]).sum(-1).detach()


@pytest.mark.parametrize("build", [partial(gpt2, head=tf.GPT2LMHeadModel), llama])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_tokens_of_a_causal_language_model(build: Any, attention: str) -> None:
    model, x = prepared(build(attention)), ids()
    layer = "transformer.wte" if isinstance(model, tf.GPT2LMHeadModel) else "model.embed_tokens"
    for target, each in [((3, 11), [(3, 11), (3, 11)]), ([(3, 11), (1, 4)], [(3, 11), (1, 4)]), ((-1, 7), [(-1, 7), (-1, 7)])]:
        found = fa.sum_channels(fa.input_x_gradient, channel_dim=-1)(model, x, layer=layer, target=target)[..., 0]
        for i, (position, token) in enumerate(each):
            expected = tokenwise(model, x[i : i + 1], layer, entry(position, token))
            torch.testing.assert_close(found[i : i + 1], expected)
            assert not found[i, position % 5 + 1 :].any()  # later tokens cannot matter
            assert found[i, : position % 5 + 1].all()
    with pytest.raises(ValueError, match="leaves several values per example of the model's output"):
        fa.gradient(model, x, layer=layer, target=11)
    with pytest.raises(ValueError, match="target 5 is out of range: there are 5"):
        fa.gradient(model, x, layer=layer, target=(5, 11))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_t5_has_two_inputs_and_one_embedding(attention: str) -> None:
    model = prepared(t5(attention))
    x = {"input_ids": ids(), "attention_mask": padded(), "decoder_input_ids": ids(3)}
    layers, target = ["encoder.embed_tokens", "decoder.embed_tokens"], [(2, 7), (1, 9)]
    found = fa.sum_channels(fa.input_x_gradient, channel_dim=-1)(model, x, layer=layers, target=target)
    for part, layer in zip(found, layers):
        for i, (position, token) in enumerate(target):
            own = {name: t[i : i + 1] for name, t in x.items()}
            expected = tokenwise(model, own, layer, entry(position, token))
            torch.testing.assert_close(part[i : i + 1, :, 0], expected)
    assert not found[0][1, -1].any()  # padding
    assert not found[1][1, 2:].any()  # later tokens of the decoder
    # Both together are all that the score depends on.
    attribution = fa.deep_lift(model, x, layer=layers, target=target, baselines=3)
    start = x | {"input_ids": torch.full((2, 5), 3), "decoder_input_ids": torch.full((2, 3), 3)}
    gains = [(model(**x).logits - model(**start).logits)[i, p, t] for i, (p, t) in enumerate(target)]
    torch.testing.assert_close(sum(part.sum((1, 2)) for part in attribution), torch.stack(gains).detach(), rtol=1e-4, atol=1e-8)
    # The matrix that both share is a module of its own, which is not called.
    with pytest.raises(
        ValueError, match=r"layer 'shared' did not run\. Is it part of this model, and used in its forward pass\?"
    ):
        fa.gradient(model, x, layer="shared", target=target)


def test_ids_themselves_have_no_gradient() -> None:
    model, x = prepared(bert("sdpa")), {"input_ids": ids(), "attention_mask": padded()}
    for method in (fa.gradient, fa.integrated_gradients, fa.deep_lift, fa.conductance):
        with pytest.raises(TypeError, match="integers have no gradient: choose a layer after the embedding"):
            method(model, x, target=1)
    mask = {"input_ids": torch.arange(5)[None], "attention_mask": None}
    found = fa.feature_ablation(model, x, target=1, baselines={"input_ids": 3, "attention_mask": 0}, feature_mask=mask)
    for t in range(5):
        other = x["input_ids"].clone()
        other[:, t] = 3
        lost = model(**x).logits[:, 1] - model(input_ids=other, attention_mask=x["attention_mask"]).logits[:, 1]
        torch.testing.assert_close(found["input_ids"][:, t], lost.detach())
    assert found["attention_mask"] is None


def test_a_mask_beside_the_value_at_a_block() -> None:
    """Eager attention hands its mask on as floats, so `input_of` a block is both; a mask of ones is not handed on at all."""
    model = prepared(bert("eager"))
    x = {"input_ids": ids(), "attention_mask": padded()}
    block = fa.input_of("bert.encoder.layer.1")
    hidden, mask = fa.gradient(model, x, layer=block, target=1)
    torch.testing.assert_close(hidden, fa.gradient(model, x, layer="bert.encoder.layer.0", target=1))
    assert mask.shape == (2, 1, 5, 5)
    found = fa.gradient(model, x | {"attention_mask": torch.ones_like(x["input_ids"])}, layer=block, target=1)
    assert isinstance(found, Tensor)
    steps = fa.integrated_gradients(model, x, layer=block, target=1, baselines=3, n_steps=4)
    torch.testing.assert_close(
        steps[0], fa.integrated_gradients(model, x, layer="bert.encoder.layer.0", target=1, baselines=3, n_steps=4)
    )
    assert not steps[1].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_clip_explains_a_pair_and_refuses_a_table(attention: str) -> None:
    model = prepared(clip(attention))
    x = {"pixel_values": torch.randn(3, 3, 16, 16).double(), "input_ids": torch.randint(4, 50, (3, 5))}
    found = fa.integrated_gradients(model, x, target=lambda out: out.logits_per_image.diagonal(), n_steps=3)
    assert found["input_ids"] is None
    for i in range(3):
        own, total = {name: t[i : i + 1] for name, t in x.items()}, torch.zeros(1, 3, 16, 16, dtype=torch.float64)
        for a, w in gauss(3):
            pixels = (a * own["pixel_values"]).requires_grad_()
            output = model(pixel_values=pixels, input_ids=own["input_ids"]).logits_per_image[0, 0]
            total += w * torch.autograd.grad(output, pixels)[0]
        torch.testing.assert_close(found["pixel_values"][i : i + 1], total * own["pixel_values"])
    with pytest.raises(ValueError, match="pass a callable target that picks one value per example"):
        fa.gradient(model, x, target=1)
    with pytest.raises(ValueError, match=r"the target returned a tensor \[3, 3\], expected one value per example"):
        fa.gradient(model, x, target=lambda out: out.logits_per_image)


@pytest.mark.parametrize("layer", ["transformer", fa.output_of("transformer")])
def test_a_cache_beside_the_value_is_left_alone(layer: Any) -> None:
    """A language model's output holds a cache, an object of its own: no mask is needed for it."""
    model, x = prepared(gpt2("sdpa", tf.GPT2LMHeadModel)), ids()
    value = fa.activation(model, x, layer=layer)
    cache = next(name for name in value if not isinstance(value[name], Tensor))
    groups = torch.arange(5).reshape(1, 5, 1)
    for mask in ({"last_hidden_state": groups}, {"last_hidden_state": groups, cache: None}):
        found = fa.feature_ablation(model, x, layer=layer, target=(4, 7), feature_mask=mask)
        whole = value.last_hidden_state @ model.lm_head.weight[7]
        assert not found.last_hidden_state[:, :4].any()
        torch.testing.assert_close(found.last_hidden_state[:, 4], whole[:, 4, None].expand(2, 16).detach())
    with pytest.raises(ValueError, match="give feature_mask the same structure"):
        fa.feature_ablation(model, x, layer=layer, target=(4, 7), feature_mask={"hidden": groups})
