"""Names that there are not: what was meant, and the line to write, also for people who come from elsewhere."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

#: Arguments that are called otherwise in Captum, pytorch-grad-cam, shap.
RENAMED = {
    "inputs": "x", "input_tensor": "x", "input": "x", "forward_func": "model", "internal_batch_size": "chunk_size",
    "perturbations_per_eval": "chunk_size", "nt_samples_batch_size": "chunk_size", "nt_samples": "n_samples",
    "steps": "n_steps", "method": "quadrature", "custom_attribution_func": "attribution_func", "interpolate_mode": "mode",
    "target_layer": "layer", "target_layers": "layer", "class_idx": "target", "background": "baselines",
    "reference": "baselines", "sliding_window_shapes": "window", "perturbations_per_pass": "chunk_size",
    "layer_baselines": "baselines", "layer_mask": "feature_mask",
}  # fmt: skip
#: The arguments of Captum's NoiseTunnel.
NOISE = {"nt_type", "nt_samples", "stdevs", "nt_samples_batch_size"}
#: Names that are more than spelled otherwise; the first of a row that there is.
CALLED = {
    "gradientxactivation": ("input_x_gradient",), "deconvolution": ("deconvnet",), "smoothgrad": ("noise_tunnel",),
    "vargrad": ("noise_tunnel",), "expectedgradients": ("gradient_shap",), "shapleyvalues": ("shapley",),
    "shapleyvaluesampling": ("shapley",), "kernelshap": ("shapley",),
}  # fmt: skip
#: What there is not, and comes closest to feature_ablation.
CLOSE = {"featurepermutation"}
#: Captum's names for what is a line of several functions here.
LINES = {
    "llmattribution": "fa.feature_ablation(model, x, target=fa.log_likelihood(answer))",
    "llmgradientattribution": "fa.integrated_gradients(model, x, layer=layer, target=fa.log_likelihood(answer))",
    "visualization": "fa.viz.show(x, {'saliency': attributions})", "visualizeimageattr": "fa.viz.overlay(attributions, x)",
    "visualizeimageattrmultiple": "fa.viz.show(x, {'saliency': attributions})",
    "visualizetext": "fa.viz.text(words, attributions)",
    "imagemaskinput": "fa.feature_ablation(model, x, feature_mask=fa.masks.grid(x.shape[2:], 4), target=target)",
    "infidelity": "fa.metrics.infidelity(attributions, model, x, target=target)",
    "sensitivitymax": "fa.metrics.sensitivity_max(fa.saliency, model, x, target=target)",
    "configureinterpretableembeddinglayer": "fa.integrated_gradients(model, x, layer=layer, target=target)",
    "texttokeninput": "fa.feature_ablation(model, x, feature_mask=fa.masks.words(tokens), target=target)",
    "dataloaderattribution": "fa.dataset.run(method, model, data, out)",
    "tokenreferencebase": "fa.integrated_gradients(model, x, baselines=baselines, layer=layer, target=target)",
}  # fmt: skip
#: Where functions are that are not in fa itself.
WINGS = ("masks", "metrics", "rules")
#: Arguments that there are for something else, in words; the line goes without them.
ELSEWHERE = {
    "show_progress": ": with fa.progress() any call is watched", "dataloader": ": whole data sets are for fa.dataset.run",
    "feature_mask": ": groups are for what takes features away, such as fa.feature_ablation",
    "attr_dim_summation": ": a CAM is a sum over channels", "n_samples": ": nothing is drawn here",
    "attribute_to_neuron_input": ": a neuron of what goes into a layer is target=fa.neuron(fa.input_of(layer), index)",
}  # fmt: skip


@dataclass
class Line:
    """The call that is meant, part by part as it is written."""

    name: str
    options: dict[str, str]
    first: list[str] = field(default_factory=lambda: ["model", "x"])
    noise: dict[str, str] = field(default_factory=dict)
    around: str = "{}"
    home: str = "fa"

    def __str__(self) -> str:
        known = self.name.replace(".", "").isidentifier()
        method = f"{self.home}.{self.name}" if known else "method"  # one that a combinator made is the caller's
        made = f"fa.noise_tunnel({_listed(method, **self.noise)})" if self.noise else method
        return self.around.format(f"{made}({_listed(*self.first, **self.options)})", model=(self.first or ["model"])[0])


def refusal(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], method: Sequence[str] | None = None
) -> str | None:
    """What to say to a call with arguments that there are not, or without some that it needs; None where it has neither.

    `method` names the arguments of a method ``(model, x, *, ...)``; any other function has them in its signature.
    """
    parameters = list(inspect.signature(function).parameters.values())
    called = {"model", "x", *(p.name for p in parameters[:2] if p.kind is not p.KEYWORD_ONLY)}  # in a method of one's own
    names = [p.name for p in parameters] if method is None else ["model", "x", *(n for n in method if n not in called)]
    places = sum(p.kind is not p.KEYWORD_ONLY for p in parameters) if method is None else 2
    first = [written(value, name) for value, name in zip(args[:places], names)] if method is None else names[:2]
    rest = names[len(first) :]
    wing = next((f"{name}." for name in WINGS if function.__module__.replace("._", ".").startswith(f"funattr.{name}")), "")
    line = Line(wing + function.__name__, {key: written(value, key) for key, value in kwargs.items() if key in rest}, first)
    *owner, _ = function.__qualname__.split(".<locals>.")
    line.home = owner[-1] if owner else line.home  # what a function has made, such as the parts of a game
    if method is None and _called_as_method(line, args, kwargs, names, places):
        _missing(parameters, names[len(line.first) :], line)
        return f"it takes a method and returns one, which takes the rest. Write {line}"
    said = ["the rest is given by name" if rest else f"it takes {_listed(*names)} and no more"] if len(args) > places else []
    for value in args[places:] if rest else ():
        key = _meant(value, [name for name in rest if name not in line.options])
        line.options[key] = written(value, key)
    if method is not None and len(args) < 2 and not any(RENAMED.get(key, key) == "x" for key in kwargs):
        said.append("x is missing, the input, batch first")
    for key, value in kwargs.items():
        if key not in names:
            said.append(f"there is no argument {key!r}{_put_right(line, key, value, rest, args)}")
    said += [f"{key} is given twice, by place and by name" for key in names[: min(len(args), places)] if key in kwargs]
    said += _missing(parameters, rest, line)
    return f"{'; '.join(said)}{'' if said[-1].endswith('?') else '.'} Write {line}" if said else None


def _called_as_method(line: Line, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str], places: int) -> bool:
    """Whether a combinator is called as the method that it makes; the line then has a call for each."""
    asked = {key: written(value, key) for key, value in kwargs.items() if key not in names}
    own = list(itertools.takewhile(lambda value: not isinstance(value, nn.Module), args))
    if names[:1] != ["method"] or "model" in names or not (len(own) < len(args) or {"layer", "target"} & asked.keys()):
        return False
    line.first = [written(value, name) for value, name in zip(own[:places], names)] or ["method"]
    line.around = f"{{}}({_listed('model', 'x', **asked)})"
    return True


def _missing(parameters: Iterable[inspect.Parameter], names: Sequence[str], line: Line) -> list[str]:
    """Those without a default that the line does not give yet, and now does."""
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [p for p in needed if p.name in names and p.name not in line.options]
    named = any(p.kind is not p.KEYWORD_ONLY and p.name in line.options for p in needed)  # then others are, too
    line.options |= {p.name: p.name for p in missing if named or p.kind is p.KEYWORD_ONLY}
    line.first += [p.name for p in missing if not (named or p.kind is p.KEYWORD_ONLY)]
    return [f"{p.name} is missing" for p in missing]


def _meant(value: Any, names: Sequence[str]) -> str:
    """Which argument a value without a name is, in Captum's order."""
    asked = ["layer"] if isinstance(value, (str, nn.Module)) or repr(value).startswith(("input_of(", "output_of(")) else []
    asked += ["target", "baselines"] if isinstance(value, (int, list)) else ["baselines", "target"]
    return next((name for name in asked if name in names), names[0] if names else "target")


def _put_right(line: Line, key: str, value: Any, names: Sequence[str], args: Sequence[Any]) -> str:
    """Put the line right where it has an argument that there is not, and say what is meant."""
    new, options = RENAMED.get(key, key), line.options
    if new in ("x", "model"):
        return f": it is {new}, which comes {'first' if new == 'model' else 'second'}"
    if (key in NOISE and new not in names) or (new == "n_samples" and "noise_tunnel(" in line.name):
        line.noise[new] = written(value, new)
        return ": noise is for noise_tunnel, which takes a method and returns one"
    if key == "target":
        return ", for the targets are given already, or there is none to choose: leave target out"
    if key == "create_graph":
        return ", for the result is a constant: leave create_graph out"
    if key == "additional_forward_args":
        line.first[0] = _bound(args, value)
        return ": more inputs are bound to the model"
    if key == "abs" and line.name == "saliency":
        line.name = "saliency" if value else "gradient"
        return ": saliency is absolute(gradient)"
    said = _elsewhere(line, key, value, args) or (ELSEWHERE.get(new) if new not in names else None)
    if said is not None:
        return said
    hint = "" if new in names else did_you_mean(key, names, f"It takes {', '.join(names) or 'nothing else'}", 0.65)
    new = hint.split("'")[1] if hint.startswith("Did") else new
    if new in names:
        options[new] = written(value, new)
    own = f", and {line.name.split('(')[0]}(...) what is its own" if hint.startswith("It") and "(" in line.name else ""
    return f". {hint}{own}" if hint else f": it is {new} here"


def _elsewhere(line: Line, key: str, value: Any, args: Sequence[Any]) -> str | None:
    """The same for what is no argument here but one of the method, a place, a target or a function of its own."""
    options = line.options
    if args and key in (getattr(getattr(args[0], "about", None), "accepts", None) or ()):
        line.first[0] = f"functools.partial({line.first[0]}, {key}={written(value, key)})"
        return ": it is the method's own, and bound to it"
    if key in ("neuron_selector", "neuron_index"):
        options["target"] = f"fa.neuron({options.pop('layer', 'layer')}, {written(value, 'index')})"
        return ": a neuron is a target"
    if key == "attribute_to_layer_input":
        options["layer"] = f"fa.input_of({options.get('layer', 'layer')})" if value else options.get("layer", "layer")
        return ": what goes into a layer is a place of its own"
    if key == "relu_attributions":
        line.around = "fa.relu({})" if value else "{}"
        return ": relu takes attributions"
    if key == "return_convergence_delta":
        shared = {name: options[name] for name in ("baselines", "target") if name in options}
        delta = f"fa.convergence_delta({_listed('attributions', '{model}', 'x', **shared)})"
        line.around = f"attributions = {{}}; delta = {delta}" if value else "{}"
        return ": the gap is a function of its own"
    return None


def _bound(args: Sequence[Any], value: Any) -> str:
    """The model with more inputs bound by the names that it has for them: layers keep their own."""
    extra = [f"additional_forward_args[{i}]" for i in range(len(value))] if isinstance(value, tuple) else []
    extra = extra or ["additional_forward_args"]
    inputs = len(args[1]) if len(args) > 1 and isinstance(args[1], tuple) else 1
    model = args[0] if args else None
    parameters = inspect.signature(getattr(model, "forward", model)).parameters.values() if callable(model) else []
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][inputs:]
    if len(names) < len(extra):
        return f"lambda *inputs: model({_listed('*inputs', *extra)})"
    return f"functools.partial({_listed('model', **dict(zip(names, extra)))})"


def did_you_mean(name: object, known: Iterable[str], otherwise: str | None = None, like: float = 0.5) -> str:
    """The cure for a wrong name: the one that was meant; else, where nothing is said `otherwise`, those that there are."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=like)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Use one of {', '.join(map(repr, known))}." if otherwise is None else otherwise


def written(value: Any, name: str) -> str:
    """A value as it is written in a call; by the argument's name, where that would say nothing."""
    if hasattr(getattr(value, "about", None), "accepts") and value.__name__.isidentifier():
        return f"fa.{value.__name__}"
    parts = value if isinstance(value, (tuple, list)) else (value,)
    plain = all(part is None or isinstance(part, (bool, int, float, str)) for part in parts) and len(parts) < 8
    return repr(value) if plain else name


def _listed(*first: str, **options: str) -> str:
    return ", ".join([*first, *(f"{key}={value}" for key, value in options.items())])


def no_such_name(name: str, public: Mapping[str, Any]) -> str:
    """What to say of ``fa.name``, which there is not, with the line to write."""
    spelled = {known.replace("_", ""): known for known in public}
    key = name.lower().replace("_", "")
    bare = re.sub("^(layer|neuron)", "", key)
    found = spelled.get(key) or spelled.get(bare) or next((known for known in CALLED.get(bare, ()) if known in public), None)
    text, verb = f"module 'funattr' has no attribute {name!r}", "Write"
    if found is None and bare in CLOSE:
        found, verb = "feature_ablation", "There is nothing of that kind yet; the closest is"
    if key in LINES:
        return f"{text}. Write {LINES[key]}"
    if found is None or not callable(public[found]):
        return f"{text}. {did_you_mean(name, public, 'dir(funattr) names all that there is.', 0.7)}"
    parameters = inspect.signature(public[found]).parameters.values()
    needed = (
        {p.name for p in parameters if p.default is p.empty} | {"target"} | ({"layer"} if key.startswith("layer") else set())
    )
    asked = {p.name: p.name for p in parameters if p.name in needed}
    if key.startswith("neuron"):
        asked["target"] = "fa.neuron(layer, index)"
    by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    first = [value for name, value in asked.items() if name not in by_name]
    return f"{text}. {verb} fa.{found}({_listed(*first, **{n: v for n, v in asked.items() if n in by_name})})"
