"""Methods whose gradient flows under other rules: `under`, and what is written with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .._combine.dress import about, combined, known_method, name_of, per_layer
from .._combine.elementwise import at_input, multiply, relu
from .._combine.shapes import MODES, interpolate
from .._core.door import method
from .._core.passes import forward, kept, question
from .._core.score import Row
from .._core.where import Bound, bind, transparent
from .._methods.cam import grad_cam
from .._methods.gradient import gradient, input_x_gradient
from .._rules.flow.given import BY_FUNCTION, apart_from_zero, prepared
from .._rules.flow.keeping import deconv, guided
from .._rules.flow.kinds import TABLE
from .._rules.flow.mode import Ruled
from .._rules.flow.sets import epsilon_plus
from .._rules.relu import ReluRule
from .._torch import tracing
from .._types import Explains, Layer, Method, Model, Target, Tree, says
from .._words import complaint, door, warn


@door
def under(rules: Mapping[Any, Callable[..., Any]]) -> Callable[[Explains], Method]:
    """Methods whose gradient flows under other local rules: guided backpropagation, LRP, AttnLRP, rules of one's own.

    ``under(rules)(a)`` is `a`, with each operation's backward pass as its rule says; where, what and how it is combined stay
    the method's. ``under({})(a)`` is `a`. Where several keys fit an operation, the narrowest holds: a function, then
    ``"first"``, then ``"relu"``, then the kind.

    Args:
        rules: a dict from an operation to its rule. Operations are kinds (``"relu"``, ``"activation"``, ``"linear"``,
            ``"convolution"``, ``"first"``, ``"product"``, ``"softmax"``, ``"normalization"``) or functions of torch, which
            stand for all their spellings. A rule is ``rule(operation, gradient)``, which returns the gradient of the
            operation's first input, or a tuple with one for each (None: nothing flows there): see `rules.Operation`.
            `rules` has named sets.

    Returns:
        A combinator: it takes a method, and returns one with the same arguments.

    Raises:
        TypeError: no dict, or a rule that cannot be called.
        ValueError: an operation that is not known; when called, rules that met nothing, a rule that returns another shape, or
            a scripted or compiled module.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> straight = fa.under({torch.tanh: lambda op, gradient: gradient})(fa.gradient)
        >>> found = straight(model, torch.randn(1, 3), target=0)
        >>> torch.allclose(found, model[2].weight[:1] @ model[0].weight)
        True

    References:
        Montavon et al., "Layer-Wise Relevance Propagation: An Overview", 2019.
    """
    ready = prepared(rules)
    rectifies = getattr(ready.kinds.get("relu"), "relu", None) if not ready.named and set(ready.kinds) == {"relu"} else None
    moves = getattr(ready.kinds.get("first"), "shares", False)

    def combinator(method: Explains) -> Method:
        method = known_method(method)

        def ruled(model: Model, x: Tree, **options: Any) -> Tree:
            if not rules:
                return method(model, x, **options)
            if tracing():
                from .._rules import traced  # noqa: F401  (imported for what importing it tells Dynamo; no name of it is used)
            bound = transparent(bind(model))
            target = options.get("target")
            # What the one pass that several targets share has met.
            fired: list[Any] = target.take(list) if isinstance(target, Row) else []
            unmet: list[str] = target.take(list) if isinstance(target, Row) else []
            mode = Ruled(ready, TABLE, fired, unmet) if rectifies is None else ReluRule(rectifies, fired, unmet)
            bound = bound.ruled(mode)
            found = method(bound, apart_from_zero(x) if moves else x, **options)
            layer = options.get("layer")
            if isinstance(mode, Ruled):
                mode.begin((), {})  # what is known of a pass holds its tensors, and would do so until a collection
                if mode.anew and isinstance(layer, (list, tuple, dict)) and len(layer) > 1 and about(method).layered:
                    # To the others, what does not come from x is a constant, such as the factor that a step in time makes.
                    return per_layer(lambda _, one: ruled(model, x, **{**options, "layer": one}), layer, found)
            tell(bound, x, fired, unmet, ready.kinds)
            return found

        return combined(ruled, f"under(...)({name_of(method)})", method)

    return combinator


def tell(bound: Bound, x: Tree, fired: list[Any], unmet: list[str], kinds: Mapping[str, Any], unseen: Any = None) -> None:
    """Refuse rules that met nothing; name what has none, where rules are for all that a model does, and what was `unseen` where
    somebody sums what operations keep."""
    names, beyond = (", ".join(sorted(some)) for some in (set(unmet), set(unmet) - BY_FUNCTION))
    if beyond and set(kinds) == {"relu"} and unseen is None:
        warn("the model runs code that no rule sees (scripted, from C++): a ReLU in there keeps its plain gradient.")
    if not fired:  # a pass may have ended at a neuron, or have been one for values alone
        with torch.no_grad():
            forward(question(bound, x, None, None), kept)
    if not fired:
        if set(kinds) == {"relu"}:
            text = "the model has no ReLU, so this rule would change nothing: use gradient or saliency for such a model."
        else:
            text = f"no operation of the model met a rule for {', '.join(map(repr, kinds)) or 'these functions'}"
            text += ": the result is that without rules."
        raise complaint(ValueError, text)
    if unmet and "activation" in kinds:
        cure = f"Take integrated_gradients: no rule can be for {beyond}." if beyond else "Give them one, by their function."
        warn(f"operations without a rule keep their gradient: {names}. {cure}")
    elif unseen:
        hidden = ", ".join(sorted(set(unseen)))
        warn(f"what is kept by {hidden} is not known, and relevance with what is absorbed does not sum to the score.")


_GUIDED = under(guided())(gradient)
_DECONV = under(deconv())(gradient)


@method
def guided_backprop(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """Guided backpropagation: the gradient, with only positive gradients flowing back through active ReLUs.

    At every ReLU ``y = relu(z)``, in whatever spelling, the gradient ``g`` of ``y`` becomes ``relu(g) * (z > 0)``.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in score per unit of the value. It obeys no sum rule.

    Raises:
        ValueError: the model has no ReLU, or one that the rule cannot reach (scripted, compiled, nn.RNN); and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = lambda x: torch.relu(x) @ torch.tensor([-1.0, 2.0, 3.0])
        >>> fa.guided_backprop(model, torch.tensor([[1.0, 1.0, -1.0]]))
        tensor([[0., 2., 0.]])

    References:
        Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity", 2014, https://arxiv.org/abs/1412.6806
    """
    return _GUIDED(model, x, layer=layer, target=target, create_graph=create_graph)


@method
def deconvnet(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    """The deconvolutional network: the gradient, with only positive gradients flowing back through every ReLU.

    At every ReLU ``y = relu(z)``, in whatever spelling, the gradient ``g`` of ``y`` becomes ``relu(g)``.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in score per unit of the value. It obeys no sum rule.

    Raises:
        ValueError: the model has no ReLU, or one that the rule cannot reach (scripted, compiled, nn.RNN); and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> model = lambda x: torch.relu(x) @ torch.tensor([-1.0, 2.0, 3.0])
        >>> fa.deconvnet(model, torch.tensor([[1.0, 1.0, -1.0]]))
        tensor([[0., 2., 3.]])

    References:
        Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", 2013, https://arxiv.org/abs/1311.2901
    """
    return _DECONV(model, x, layer=layer, target=target, create_graph=create_graph)


@method
def lrp(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    rules: Mapping[Any, Callable[..., Any]] | None = None,
    create_graph: bool = False,
) -> Tree:
    """Layer-wise relevance propagation: the score, handed back through each operation by a rule.

    ``v * g``, the value at the site times a gradient that flows under `rules`: it is
    ``under(rules)(input_x_gradient)``, and written that way.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        rules: a set of rules, such as ``fa.rules.attn_lrp()`` for transformers; None is ``fa.rules.epsilon_plus()``.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of the value at the site, in units of the score. The law: with what `absorbed` finds it sums to
        the score.

    Raises:
        ValueError: no rule met anything, or as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at the site.

    Example:
        >>> import torch, funattr as fa
        >>> layers = torch.nn.Linear(3, 4, bias=False), torch.nn.ReLU(), torch.nn.Linear(4, 2, bias=False)
        >>> model, x = torch.nn.Sequential(*layers).double(), torch.randn(5, 3, dtype=torch.float64)
        >>> torch.allclose(fa.lrp(model, x, target=1, rules=fa.rules.epsilon(1e-12)).sum(1), model(x)[:, 1])
        True

    References:
        Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", 2015;
        Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", 2024.
    """
    rule = under(epsilon_plus() if rules is None else rules)
    return rule(input_x_gradient)(model, x, layer=layer, target=target, create_graph=create_graph)


def _guided_grad_cam(mode: str) -> Method:
    return multiply(at_input(guided_backprop), interpolate(relu(grad_cam), mode=mode))


_READY = {mode: _guided_grad_cam(mode) for mode in MODES}  # made once, not per call


@method
def guided_grad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, mode: str = "nearest", create_graph: bool = False
) -> Tree:
    """Guided Grad-CAM: guided backpropagation at the input, times the positive part of Grad-CAM at a layer.

    ``guided_backprop * interpolate(relu(grad_cam))``: it is written as that composition, and costs its two passes.

    Args:
        model: an `nn.Module` or any callable; bind extra arguments with `functools.partial`.
        x: the input, batch first: a tensor ``[N, ...]``, a tuple (positional inputs) or a dict (keyword inputs).
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.
        mode: how the map is brought to the size of the input, as in `interpolate`.
        create_graph: True if the result is to be differentiated further; otherwise it is a constant.

    Returns:
        The structure and shape of `x`, in squared units of the score per unit of the input. It obeys no sum rule.

    Raises:
        ValueError: `mode` is not one of `interpolate`'s, the value at the layer is not ``[N, C, *spatial]`` like the input, or
            the model has no ReLU; and as `gradient`.
        TypeError: an argument is of the wrong type, or there are only integers at a site.

    Example:
        >>> import torch, funattr as fa
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5))
        >>> fa.guided_grad_cam(model, torch.randn(2, 3, 8, 8), layer="1", target=3).shape
        torch.Size([2, 3, 8, 8])

    References:
        Selvaraju et al., "Grad-CAM", 2016, https://arxiv.org/abs/1610.02391
    """
    explain = _READY[mode] if isinstance(mode, str) and mode in _READY else _guided_grad_cam(mode)
    return explain(model, x, layer=layer, target=target, create_graph=create_graph)


says(guided_grad_cam, front=True, pictured=True)
