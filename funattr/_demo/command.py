"""``funattr demo``: explain what a small network sees in handwritten digits, as one picture."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import funattr as fa

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from .model import Digits, DigitsNet

#: The methods, and what each map shows, in the few letters that fit above its column.
METHODS = {
    "saliency": "which pixels matter",
    "gradient": "what more ink does",
    "input_x_gradient": "what the ink adds",
    "grad_cam": "where evidence lies",
    "guided_backprop": "the paths that help",
    "deconvnet": "signals sent back",
    "guided_grad_cam": "evidence in detail",
}
_AT_LAYER = ("grad_cam", "guided_grad_cam")
_DEFAULT_METHODS = ["saliency", "grad_cam", "guided_grad_cam"]
_DEFAULT_CLASSES = (0, 3, 4, 7)  # of these the first correct digit each, and one mistake
_MOST = 24  # rows that a picture can hold and a person can read

_EXAMPLES = """\
examples:
  funattr demo
  funattr demo --out digits.png --method gradient,input_x_gradient
  funattr demo --index 17 181 --layer conv2      Grad-CAM at an earlier layer
  funattr demo --index 181 --target 5            what speaks for a 5 where the network sees a 9
"""


def add(commands: Any) -> None:
    """Declare the subcommand and its options."""
    parser = commands.add_parser(
        "demo",
        help="explain a few handwritten digits, as one picture",
        description="Explain what a small network sees in handwritten digits, as one picture.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("demo.png"), metavar="PNG", help="the picture (default: demo.png)")
    parser.add_argument(
        "--method",
        action="extend",
        nargs="+",
        metavar="NAME",
        help=f"one or more of {', '.join(METHODS)} (default: {', '.join(_DEFAULT_METHODS)})",
    )
    parser.add_argument(
        "--index",
        action="extend",
        nargs="+",
        metavar="I",
        help="one or more digits of the test set (default: a few correct ones and a misclassified one)",
    )
    parser.add_argument("--layer", default="relu3", help="where Grad-CAM looks: conv1, relu1, ... (default: relu3)")
    parser.add_argument(
        "--target", default="predicted", metavar="CLASS", help="the class to explain: 0 to 9 (default: the predicted one)"
    )
    parser.set_defaults(run=run)


class Seen(NamedTuple):
    """A digit of the test set, and what the network sees in it."""

    number: int
    true: int
    predicted: int
    confidence: str

    @property
    def mistaken(self) -> bool:
        return self.true != self.predicted

    def line(self) -> str:
        mark = "  <- misclassified" if self.mistaken else ""
        return f"digit {self.number}: is {self.true}, predicted {self.predicted}, confidence {self.confidence}{mark}"

    def title(self) -> str:
        how = "mistaken for" if self.mistaken else "seen as"
        return f"digit {self.number}\na {self.true}, {how} {self.predicted}\nconfidence {self.confidence}"


def run(arguments: argparse.Namespace) -> None:
    """Print a line per digit, and write the picture.

    Raises:
        argparse.ArgumentError: an option does not fit.
        ImportError: the extra ``demo`` is not installed.
    """
    out = _checked_out(arguments.out)
    methods = [_checked_method(name) for name in _split(arguments.method or _DEFAULT_METHODS)]
    target = _checked_target(arguments.target)

    from .model import load_digits, load_model

    model, test = load_model(), load_digits()[1]
    probabilities = fa.activation(model, test.images, layer="fc").softmax(1)
    confidence, predicted = probabilities.max(1)
    chosen = _checked_indices(arguments.index, len(test.images)) or _default_indices(test, predicted, confidence)
    _check_layer(arguments.layer, model, test.images[:1])

    seen = [Seen(i, int(test.classes[i]), int(predicted[i]), f"{confidence[i]:.1%}") for i in chosen]
    for digit in seen:
        print(digit.line())
    x, maps = test.images[chosen], {}
    for name in methods:
        options = {"layer": arguments.layer} if name in _AT_LAYER else {}
        maps[name] = getattr(fa, name)(model, x, target=target, **options)
    figure = _picture(x, maps, seen, target, arguments.layer)
    try:
        figure.savefig(out, dpi=120)
    except OSError as error:
        _refuse(f"cannot write {str(out)!r}: {error.strerror or error}.")
    print(f"wrote {out}")


def _picture(x: Tensor, maps: dict[str, Tensor], seen: list[Seen], target: int | str, layer: str) -> Figure:
    from funattr import viz

    score = "the predicted class" if target == "argmax" else f"class {target}"
    legend = [f"yellow to red: for {score} · blue: against it · clear: neither"]
    if "saliency" in maps:
        legend.append("saliency is strength alone, without a sign")
    if any(name in _AT_LAYER for name in maps):
        legend.append(f"Grad-CAM looks at layer {layer}")
    # 1 - 0.6 x: ink on white paper, as a digit is written, and grey, so that colours are seen on it.
    figure = viz.show(
        1 - 0.6 * x,
        {f"{name}\n{METHODS[name]}": found for name, found in maps.items()},
        titles=[digit.title() for digit in seen],
        title=f"What speaks for {score}?",
        caption="\n".join(legend),
        scale="method",  # saliency is per unit of ink, Grad-CAM is in units of the score
        columns=1,
    )
    for row, digit in enumerate(seen):
        if digit.mistaken:
            figure.axes[row * (1 + len(maps))].yaxis.label.set(color="firebrick", weight="bold")
    return figure


def _default_indices(test: Digits, predicted: Tensor, confidence: Tensor) -> list[int]:
    """A few digits that the network gets right, and its most confident mistake."""
    right = predicted == test.classes
    chosen = [int((right & (test.classes == c)).nonzero()[0]) for c in _DEFAULT_CLASSES]
    return chosen + [int(confidence.masked_fill(right, 0.0).argmax())]


def _split(values: Sequence[str]) -> list[str]:
    """What was given in one option or several, with commas or without, each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",")))


def _checked_out(out: Path) -> Path:
    if out.suffix.lower() != ".png":
        _refuse(f"--out must name a .png file, got {str(out)!r}.")
    if out.is_dir():
        _refuse(f"--out must name a file, and {str(out)!r} is a folder.")
    if not out.parent.is_dir():
        _refuse(f"the folder {str(out.parent)!r} of --out does not exist: make it first, or choose another.")
    return out


def _checked_method(name: str) -> str:
    if name not in METHODS:
        _refuse(f"there is no method {name!r}{_did_you_mean(name, list(METHODS))}")
    return name


def _checked_target(target: str) -> int | str:
    if target == "predicted":
        return "argmax"
    if target not in tuple("0123456789"):
        _refuse(f"--target must be 'predicted' or a class from 0 to 9, got {target!r}.")
    return int(target)


def _checked_indices(given: Sequence[str] | None, size: int) -> list[int]:
    indices = _split(given or ())
    for index in indices:
        if not (index.isdecimal() and int(index) < size):
            _refuse(f"--index must be from 0 to {size - 1}, the digits of the test set, got {index!r}.")
    if len(indices) > _MOST:
        _refuse(f"--index names {len(indices)} digits, and one picture holds at most {_MOST}.")
    return [int(index) for index in indices]


def _check_layer(name: str, model: DigitsNet, x: Tensor) -> None:
    layers = [layer for layer, _ in model.named_modules() if layer]
    drawable = [layer for layer, value in zip(layers, fa.activation(model, x, layer=layers)) if value.dim() == 4]
    if name not in layers:
        _refuse(f"the network has no layer {name!r}{_did_you_mean(name, drawable)}")
    if name not in drawable:
        _refuse(f"layer {name!r} has no height and width to draw: choose one of {', '.join(drawable)}.")


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose one of {', '.join(known)}."


def _refuse(sentence: str) -> NoReturn:
    raise argparse.ArgumentError(None, sentence)
