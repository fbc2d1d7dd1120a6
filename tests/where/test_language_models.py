"""Answers of transformers' language models, token by token: against autograd by hand, in all ways that they are called."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput
from torch import Tensor, nn

import funattr as fa

from ..architectures import SMALL, TEXT, gpt2, llama, prepared, t5
from ..breadth import breadth
from ..close import close_and_not_zero, distance
from ..cost import cost

torch.manual_seed(0)
IDS = torch.randint(4, 50, (2, 9))
ANSWER = IDS[:, -3:]
WORDS = {key: value for key, value in TEXT.items() if key != "num_labels"}


def mixtral() -> nn.Module:
    config = tf.MixtralConfig(
        **WORDS, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2, experts_implementation="batched_mm"
    )
    return tf.MixtralForCausalLM(config)


def llava() -> nn.Module:
    vision = tf.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8, projection_dim=16)
    text = tf.LlamaConfig(**WORDS | {"vocab_size": 60}, num_key_value_heads=1)
    ids = {"image_token_index": 55, "image_token_id": 55, "vision_feature_layer": -1}
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(vision_config=vision, text_config=text, **ids))


#: Decoders: how they are made, where their embeddings are, and how near is equal where norms compute in float32.
DECODERS: dict[str, tuple[Callable[[], nn.Module], str, float]] = {
    "gpt2": (partial(gpt2, "sdpa", tf.GPT2LMHeadModel), "transformer.wte", 1e-10),
    "llama": (partial(llama, "sdpa"), "model.embed_tokens", 1e-5),
    "mixture of experts": (mixtral, "model.embed_tokens", 1e-5),
}
BUILT = {name: prepared(made()) for name, (made, _, _) in DECODERS.items()}
names = pytest.mark.parametrize("name", DECODERS)


def by_hand(model: nn.Module, where: dict[str, str], answer: Tensor, given: Any, shift: int = 1) -> dict[str, Tensor]:
    """Value times gradient at embeddings, for one token after the other: hooks, a loop, and autograd."""
    leaves: dict[str, Tensor] = {}

    def put(name: str, output: Tensor) -> Tensor:
        leaves[name] = output.detach().requires_grad_()
        return leaves[name]

    handles = [
        model.get_submodule(layer).register_forward_hook(lambda m, a, out, name=name: put(name, out))
        for name, layer in where.items()
    ]
    logits = model(**given).logits
    for handle in handles:
        handle.remove()
    rows: dict[str, list[Tensor]] = {name: [] for name in where}
    start = logits.shape[1] - answer.shape[1] - shift
    for t in range(answer.shape[1]):
        z = logits[:, start + t]
        p = z.gather(1, answer[:, t, None]).squeeze(1) - z.logsumexp(1)
        slopes = torch.autograd.grad(p.sum(), list(leaves.values()), retain_graph=True)
        for name, slope in zip(leaves, slopes):
            rows[name].append(slope * leaves[name].detach())
    return {name: torch.stack(found) for name, found in rows.items()}


def rows(model: Any, x: Any, layer: Any, answer: Any = ANSWER, method: Any = fa.input_x_gradient, **options: Any) -> Any:
    return fa.each_target(method, fa.tokens(answer, **options))(model, x, layer=layer)


@names
def test_decoders(name: str) -> None:
    model, (_, layer, tolerance) = BUILT[name], DECODERS[name]
    expected = by_hand(model, {"all": layer}, ANSWER, {"input_ids": IDS})["all"]
    found = rows(model, IDS, layer)
    close_and_not_zero(found, expected, tolerance)
    for t in range(3):  # nothing at or after its own place
        assert not found[t][:, 6 + t :].any()
    total = fa.input_x_gradient(model, IDS, layer=layer, target=fa.log_likelihood(ANSWER))
    close_and_not_zero(found.sum(0), total, tolerance)
    for bound in ({"logits_to_keep": 4}, {"use_cache": False}, {"use_cache": True}, {"return_dict": False}):
        close_and_not_zero(rows(partial(model, **bound), IDS, layer), expected, tolerance)
    vectors = model.get_submodule(layer)(IDS).detach()
    close_and_not_zero(rows(model, {"inputs_embeds": vectors}, None)["inputs_embeds"], expected, tolerance)
    with pytest.raises(ValueError, match="logits_to_keep=4"):
        rows(partial(model, logits_to_keep=3), IDS, layer)


@names
def test_a_padded_batch_is_its_examples(name: str) -> None:
    model, (_, layer, tolerance) = BUILT[name], DECODERS[name]
    short = IDS[1:, 4:]
    alone = [rows(model, IDS[:1], layer, ANSWER[:1]), rows(model, short, layer, ANSWER[1:])]
    left = torch.cat([IDS[:1], torch.nn.functional.pad(short, (4, 0))])
    mask = (left > 0).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = rows(partial(model, attention_mask=mask, position_ids=positions), left, layer)
    close_and_not_zero(found[:, :1], alone[0], tolerance)
    close_and_not_zero(found[:, 1:, 4:], alone[1], tolerance)
    assert not found[:, 1, :4].any()
    right = torch.cat([IDS[:1], torch.nn.functional.pad(short, (0, 4))])
    labels = torch.full_like(right, -100)
    labels[0, 6:], labels[1, 2:5] = right[0, 6:], right[1, 2:5]
    found = rows(partial(model, attention_mask=(right > 0).long()), right, layer, labels)
    close_and_not_zero(found[6:, :1], alone[0], tolerance)
    close_and_not_zero(found[2:5, 1:, :5], alone[1], tolerance)
    assert not found[2:5, 0].any()
    assert not found[:, 1, 5:].any()
    unequal = torch.tensor([[-100, 0, 0], [0, 0, 0]]) + torch.where(torch.arange(3) == 0, torch.tensor([[0], [1]]), 1) * ANSWER
    unequal[0, 0] = -100  # an answer of two, filled at the left
    found = rows(partial(model, attention_mask=mask, position_ids=positions), left, layer, unequal)
    assert not found[0, 0].any()
    close_and_not_zero(found[1:, :1], alone[0][1:], tolerance)


def test_an_encoder_decoder_has_two_sides() -> None:
    model = prepared(t5("sdpa"))
    answer = torch.randint(4, 50, (2, 3))
    where = {"prompt": "encoder.embed_tokens", "answer": "decoder.embed_tokens"}
    x = {"input_ids": IDS, "decoder_input_ids": torch.nn.functional.pad(answer, (1, 0))}
    expected = by_hand(model, where, answer, x)
    found = rows(model, x, where, answer)
    for side in where:
        close_and_not_zero(found[side], expected[side], 1e-5)
    words = {"prompt": [0, 0, 1, 1, 1, 2, 3, 3, 3], "answer": range(4)}
    grouped = rows(model, x, where, answer, fa.sum_groups(fa.input_x_gradient, words))
    close_and_not_zero(grouped["answer"], found["answer"], 1e-10)
    close_and_not_zero(grouped["prompt"][:, :, 0], found["prompt"][:, :, :2].sum(2), 1e-10)
    # fed with labels, the model shifts them itself
    labelled = fa.input_x_gradient(
        partial(model, labels=answer), {"input_ids": IDS}, layer=where["prompt"], target=fa.log_likelihood(answer, shift=0)
    )
    close_and_not_zero(labelled, expected["prompt"].sum(0), 1e-5)
    score = fa.log_likelihood(answer)
    joint = fa.deep_lift(model, x, layer=where, target=score, baselines=5)
    assert float(fa.convergence_delta(joint, model, x, target=score, baselines=5).abs().max()) < 1e-5


def test_a_masked_model_stands_at_its_own_token() -> None:
    model = prepared(tf.BertForMaskedLM(tf.BertConfig(**TEXT)))
    masked, labels = IDS.clone(), torch.full_like(IDS, -100)
    masked[:, 4], labels[:, 4] = 3, IDS[:, 4]
    layer = "bert.embeddings.word_embeddings"
    expected = by_hand(model, {"all": layer}, IDS, {"input_ids": masked}, shift=0)["all"]
    found = rows(model, masked, layer, labels, shift=0)
    close_and_not_zero(found[4], expected[4])
    assert not found[[0, 1, 2, 3, 5, 6, 7, 8]].any()


def test_text_and_picture_in_one_call() -> None:
    model = prepared(llava())
    x = {
        "input_ids": torch.cat([torch.tensor([[1, 55, 55, 55, 55]] * 2), IDS[:, :6]], 1),
        "pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64),
    }
    answer, embeddings = x["input_ids"][:, -3:], "model.language_model.embed_tokens"
    found = rows(model, x, {"text": embeddings, "picture": None}, answer)
    expected = by_hand(model, {"text": embeddings}, answer, x)["text"]
    close_and_not_zero(found["text"], expected, 1e-5)
    pixels = x["pixel_values"].clone().requires_grad_()
    logits = model(input_ids=x["input_ids"], pixel_values=pixels).logits
    p = torch.log_softmax(logits[:, -3], -1)[torch.arange(2), answer[:, 1]]
    close_and_not_zero(found["picture"]["pixel_values"][1], torch.autograd.grad(p.sum(), pixels)[0] * x["pixel_values"], 1e-5)
    assert found["picture"]["input_ids"] is None


# A cache that holds the prompt.


def filled(kind: str, model: Any) -> Any:
    cache = tf.DynamicCache() if kind == "dynamic" else tf.StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        model(IDS[:, :5], **{CACHE: cache}, use_cache=True)
    return cache


#: How the argument is called: it has a new name in transformers 5.
CACHE = "cache" if "cache" in inspect.signature(tf.GPT2LMHeadModel.forward).parameters else "past_key_values"


CACHED: dict[str, Any] = {
    "input_x_gradient": fa.input_x_gradient,
    "two passes": fa.multiply(fa.gradient, fa.saliency),
    "integrated_gradients": partial(fa.integrated_gradients, n_steps=3, baselines=7),
    "integrated_gradients, one by one": partial(fa.integrated_gradients, n_steps=3, baselines=7, chunk_size=1),
    "feature_ablation": fa.feature_ablation,
    "deep_lift": partial(fa.deep_lift, baselines=7),
}


@pytest.mark.filterwarnings("ignore:the steps run one after another")  # a static cache is written in place
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(("name", "method"), breadth([*CACHED.items()], lambda case: "one by one" not in case[0], several=True))
def test_a_bound_cache_is_a_copy_for_each_pass(name: str, method: Any, kind: str) -> None:
    model, layer = BUILT["gpt2"], "transformer.wte"
    cache, new = filled(kind, model), IDS[:, 5:]
    layers = [(part.keys.clone(), part.values.clone()) for part in cache.layers]
    bound = partial(model, **{CACHE: cache}, use_cache=True)
    found = rows(bound, new, layer, method=method)

    def fresh(*args: Any, **kwargs: Any) -> Any:  # by hand: a copy before each pass
        return model(*args, **kwargs, **{CACHE: copy.deepcopy(cache)}, use_cache=True)

    module = model.get_submodule(layer)
    one = {"chunk_size": 1} if "integrated" in name or "ablation" in name else {}
    expected = torch.stack([method(fresh, new, layer=module, target=target, **one) for target in fa.tokens(ANSWER)])
    close_and_not_zero(found, expected)
    close_and_not_zero(rows(bound, new, layer, method=method), expected)  # and again
    if name in ("input_x_gradient", "two passes"):
        close_and_not_zero(found, rows(model, IDS, layer, method=method)[:, :, 5:])
    assert int(cache.get_seq_length()) == 5
    for part, (keys, values) in zip(cache.layers, layers):
        assert torch.equal(part.keys, keys)
        assert torch.equal(part.values, values)
        assert not part.keys.requires_grad


# Half precision.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = copy.deepcopy(BUILT["gpt2"]).to(dtype)
    score = fa.log_likelihood(ANSWER)(model(IDS))
    assert score.dtype == torch.float32
    exact = fa.log_likelihood(ANSWER)(model(IDS).logits.double())
    torch.testing.assert_close(score, exact.float(), rtol=1e-6, atol=0)
    found = rows(model, IDS, "transformer.wte")
    assert found.dtype == dtype
    assert distance(found, rows(BUILT["gpt2"], IDS, "transformer.wte")) < (0.05 if dtype == torch.bfloat16 else 0.01)


# Beside Captum.


class Letters:
    """A tokenizer as Captum asks for one: a letter is a token."""

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: Any = None) -> Any:
        ids = [ord(letter) - 93 for letter in text]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(chr(int(i) + 93) for i in torch.as_tensor(ids).reshape(-1))

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [chr(int(i) + 93) for i in torch.as_tensor(ids).reshape(-1)]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return [ord(token) - 93 for token in tokens] if isinstance(tokens, list) else ord(tokens) - 93

    def __call__(self, text: str, **options: Any) -> Any:
        return {"input_ids": self.encode(text), "offset_mapping": [(i, i + 1) for i in range(len(text))]}


def weights_of_the_reference() -> Any:
    """The model whose numbers are below: weights from numpy's frozen RandomState, in the order of their names."""
    config = tf.GPT2Config(
        vocab_size=29, n_positions=64, n_embd=16, n_layer=2, n_head=4, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model, draw = tf.GPT2LMHeadModel(config).double().eval(), np.random.RandomState(0)
    with torch.no_grad():
        for _, p in sorted(model.named_parameters()):
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_(torch.from_numpy(draw.standard_normal(tuple(p.shape)) * 1.2 / fan**0.5))
    return model


#: Captum 0.9.0 on it, and a loop by hand; a token of the answer, then tokens of the prompt.
PROMPT, TOKENS = [3, 11, 7, 19, 5], [23, 8, 13]
LOG_PROBS = [-3.56183414584, -4.01708191451, -4.53876638605]
ABLATION = [
    [0.00704158695917, -0.0152943814364, 0.00518625968309, -0.0314821652264, 0.0440589134449],
    [0.0292116818389, 0.0491171139577, 0.0597275507023, 0.0346256521398, 0.0243607851431],
    [0.00484653184076, -0.0722019545766, -0.0351531529456, -0.028799885041, -0.0214187623926],
]  # by hand: to id 0
INTEGRATED = [
    [0.00368312552771, -0.0140574236965, 0.00659087489028, -0.0301079483366, 0.0465787008135],
    [0.0271028122156, 0.0357423963208, 0.0423624444719, 0.0251742143607, 0.019163958265],
    [0.00494350468294, -0.0573174755285, -0.0190495073401, -0.0178640749492, -0.0156297907773],
]  # LLMGradientAttribution(LayerIntegratedGradients(wte), n_steps=50), a baseline of id 0 for the prompt
GRADIENT = [
    [0.0030889643121, -0.00577138635518, 0.00427909824386, -0.0118287000949, 0.037228515806],
    [0.0165783915068, -0.00552258689012, 0.0112499005634, 0.00509899016211, -0.0105086601725],
    [-0.0336895255265, 0.0055156361223, -0.00708832378948, -0.0138189766552, 0.0317649496001],
]  # LLMGradientAttribution(LayerGradientXActivation(wte)), and by hand


def test_numbers_of_others() -> None:
    model = weights_of_the_reference()
    ids, every = torch.tensor([[*PROMPT, *TOKENS]]), fa.tokens(TOKENS)
    base = torch.tensor([[0] * 5 + TOKENS])
    expected = torch.tensor(LOG_PROBS, dtype=torch.float64)
    torch.testing.assert_close(torch.cat([target(model(ids)) for target in every]), expected, rtol=1e-9, atol=0)
    of_words = partial(fa.sum_channels, channel_dim=-1)
    pairs: list[tuple[Any, Any, float]] = [
        (of_words(fa.input_x_gradient), GRADIENT, 1e-6),
        (of_words(partial(fa.integrated_gradients, baselines=base)), INTEGRATED, 1e-6),
    ]
    for method, numbers, tolerance in pairs:
        found = fa.each_target(method, every)(model, ids, layer="transformer.wte")[:, 0, :5, 0]
        torch.testing.assert_close(found, torch.tensor(numbers, dtype=torch.float64), rtol=0, atol=tolerance)
    lost = fa.each_target(fa.feature_ablation, every)(model, ids, baselines=base)[:, 0]
    torch.testing.assert_close(lost[:, :5], torch.tensor(ABLATION, dtype=torch.float64), rtol=0, atol=1e-9)
    assert not lost[:, 5:].any()  # the answer stays


def test_beside_captum() -> None:
    """The same matrix on the prompt, for at most three quarters of the operations."""
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 60}
    model = tf.GPT2LMHeadModel(tf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)).eval()
    prompt, answer = "which_words_did_it", "read"
    tokenizer: Any = Letters()
    theirs = LLMGradientAttribution(LayerGradientXActivation(model, model.transformer.wte), tokenizer)
    text = TextTokenInput(prompt, tokenizer)
    matrix = theirs.attribute(text, target=answer).token_attr
    ids = torch.tensor([tokenizer.encode(prompt + answer)])
    every = fa.each_target(fa.sum_channels(fa.input_x_gradient, channel_dim=-1), fa.tokens(tokenizer.encode(answer)))
    found = every(model, ids, layer="transformer.wte")[:, 0, : len(prompt), 0]
    torch.testing.assert_close(found, matrix, rtol=0, atol=1e-6 * float(matrix.norm()))
    own = cost(lambda: every(partial(model, logits_to_keep=5), ids, layer="transformer.wte"))
    captum = cost(lambda: theirs.attribute(text, target=answer))
    assert own.flops <= 0.75 * captum.flops
