"""The rows of `cure_rows.py` for the command: a line that is answered with a cure, and one that does what that says."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import funattr as fa

from .cure_command import PICTURE, TEXT, does, row, says, told
from .cures import Cure


def wide() -> None:
    """One more picture, of another size."""
    Image.fromarray(np.zeros((8, 14, 3), dtype=np.uint8)).save("pictures/d.png")


def deep() -> None:
    Image.fromarray(np.full((8, 10), 1000, dtype=np.uint16)).save("deep.png")


def shallow() -> None:
    """The same with 8 bits."""
    with Image.open("deep.png") as image:
        Image.fromarray((np.array(image) // 256).astype(np.uint8)).convert("RGB").save("deep.png")


def game() -> None:
    """What needs more than pictures, from Python."""
    inside = torch.ones(1, 8, 10, dtype=torch.bool)
    assert fa.metrics.pointing_game(torch.rand(1, 1, 8, 10), regions=inside).tolist() == [1]


def job(**more: str) -> None:
    lines = {"method": "saliency", "data": "pictures", "out": "maps", **more}
    Path("job.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))


def superpixels(line: str) -> None:
    """What comes next is that scikit-image is missing, where it is."""
    found = told(line)
    assert found.status == 0 or found.said == 'funattr: superpixels() needs scikit-image: pip install "funattr[superpixels]".\n'


def whole(line: str) -> None:
    """The attributions are what they should be in sum."""
    found = told(line)
    assert "completeness" in found.answer
    assert "large: " not in found.answer
    assert (found.status, found.said) == (0, "")


def followed(line: str) -> None:
    """With the number of steps that it says."""
    (steps,) = re.findall(r"--n-steps (\d+)", told(line).answer)
    whole(line.replace("--n-steps 4", f"--n-steps {steps}"))


def window(model: Any, x: Any, *, size: int, target: Any = None, create_graph: bool = False) -> Any:
    """The slopes without a frame: a method with an argument that the command has no option for, as none of ours is."""
    found = torch.zeros_like(x)
    found[..., size:-size, size:-size] = fa.gradient(model, x, target=target)[..., size:-size, size:-size]
    return found


@contextlib.contextmanager
def one_more() -> Iterator[None]:
    """With that method among ours."""
    methods = {"window": window, "__all__": [*fa.__all__, "window"]}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in methods.items():
            patch.setattr(fa, name, value, raising=False)
        yield


def broken(name: str) -> None:
    """Weights as they are after training has gone wrong."""
    torch.save({key: value / 0 * 0 for key, value in net().state_dict().items()}, name)


def called() -> None:
    assert window(net(), torch.rand(1, 3, 8, 10), size=2, target=1).shape == (1, 3, 8, 10)


def exported() -> None:
    x = torch.rand(2, 3, 8, 10)
    program = fa.export(window, net(), x, size=2, target=1)
    torch.testing.assert_close(program.module()(x), window(net(), x, size=2, target=1))


def empty() -> None:
    for file in Path().glob("*.py"):
        file.unlink()


def moved() -> None:
    shutil.move("pictures", "elsewhere")


def net() -> Any:
    return importlib.import_module("nets").build()


@contextlib.contextmanager
def piped(data: bytes | None) -> Iterator[None]:
    """With this on standard input, or the picture."""
    data = Path("a.png").read_bytes() if data is None else data
    with pytest.MonkeyPatch.context() as patch, io.TextIOWrapper(io.BytesIO(data)) as stream:
        patch.setattr("sys.stdin", stream)
        yield


def through_the_pipe() -> None:
    does([PICTURE.replace("a.png", "-")], partial(piped, None))
    does([TEXT.replace("'a good film'", "-")], partial(piped, b"a good film"))


def several(model: Any, x: Any, target: Any = None, layer: Any = None) -> Any:
    return {"a": x, "b": 2 * x}


def read() -> None:
    assert fa.dataset.load("maps")["b.png"] is not None


def stored(method: Any = fa.grad_cam, layer: str = "features") -> None:
    """A run from Python, which notes nothing of pictures."""
    data = [("b.png", torch.rand(3, 8, 10), None)]
    fa.dataset.run(method, net(), data, "maps", layer=layer, target=1, progress=False)


IG = "explain a.png --model nets:build --method ig --out o.json"
RUN = "run pictures --model nets:build --out maps --quiet"
COMMAND: list[Cure] = [
    row("checkpoint.py", "give one, or a .safetensors", f"{PICTURE} --checkpoint a.png", f"{PICTURE} --checkpoint weights.pt"),
    row(
        "explain.py",
        "name a picture, a folder of them",
        "explain --model nets:build --out o.json",
        PICTURE,
        PICTURE.replace("a.png", "pictures"),
        TEXT,
    ),
    row(
        "explain.py",
        "write what is to be explained before --method",
        "explain --model nets:build --method ig lost.png",
        "explain a.png --model nets:build --method ig --out o.json",
    ),
    row(
        "write.py",
        "would be written over: choose another name",
        "explain a.png --model nets:build --out a.png",
        "explain a.png --model nets:build --out drawn.png",
    ),
    row(
        "targets.py",
        "look at its weights",
        [lambda: broken("nan.pt"), f"{PICTURE} --checkpoint nan.pt"],
        f"{PICTURE} --checkpoint weights.pt",
    ),
    row(
        "explainer.py",
        "write texts to a .html, .json or .csv",
        "explain 'a good film' --model texts:build --out maps/",
        "explain 'a good film' --model texts:build --out o.csv",
        TEXT,
    ),
    row("inputs.py", "write it after the options, in quotes", "explain '' --model texts:build", TEXT),
    row(
        "keep.py",
        "make it first, or choose another",
        "explain a.png --model nets:build --out nowhere/o.json",
        "explain a.png --model nets:build --out pictures/o.json",
    ),
    row("own.py", "write {}:{}", "explain a.png --model nets.py:build --out o.json", PICTURE),
    row("own.py", "give the function that returns the model", "explain a.png --model nets:no_model --out o.json", PICTURE),
    row("own.py", "give the file of yours with --checkpoint", f"{PICTURE} --weights mine", PICTURE),
    row(
        "pictures.py",
        "give one, or one per channel",
        f"{PICTURE} --mean 0.5,0.5",
        f"{PICTURE} --mean 0.5",
        f"{PICTURE} --mean 0.5,0.5,0.5",
    ),
    row(
        "sites.py",
        ": choose one of ",
        f"{PICTURE} --layer head --method grad_cam",
        f"{PICTURE} --layer features --method grad_cam",
    ),
    row(
        "groups.py",
        "add --layer",
        f"{PICTURE} --method ablation --groups channels",
        f"{PICTURE} --method ablation --groups channels --layer features",
    ),
    row(
        "evaluate.py", "name a picture, a text", "evaluate --model nets:build", "evaluate a.png --model nets:build --out o.json"
    ),
    row("language.py", "is none of transformers: leave {} out", f"{PICTURE} --generate 3", PICTURE),
    row(
        "sites.py",
        "say which, --layer {}@0",
        "explain a.png --model nets:twice --layer features --out o.json",
        "explain a.png --model nets:twice --layer features@1 --out o.json",
    ),
    row(
        "sites.py",
        "choose another --method, such as integrated_gradients",
        "explain a.png --model nets:flat --method grad_cam --out o.json",
        "explain a.png --model nets:flat --method integrated_gradients --out o.json",
    ),
    row(
        "targets.py",
        "to choose: leave --target out",
        "explain a.png --model nets:one --target 1 --out o.json",
        "explain a.png --model nets:one --out o.json",
    ),
    row(
        "targets.py",
        "give their names with --labels, or a number",
        "explain a.png --model unnamed:build --target round --out o.json",
        "explain a.png --model unnamed:build --target round --labels names.txt --out o.json",
        "explain a.png --model unnamed:build --target 0 --out o.json",
    ),
    row(
        "targets.py",
        "name each, one per line of --labels",
        "explain a.png --model nets:build --labels one.txt --out o.json",
        "explain a.png --model nets:build --labels names.txt --out o.json",
    ),
    row(
        "targets.py",
        "choose by number",
        "explain a.png --model nets:same --target dog --out o.json",
        "explain a.png --model nets:same --target 0 --out o.json",
    ),
    row(
        "targets.py",
        "wrap the model in a factory of yours",
        "explain a.png --model nets:Pairs --out o.json",
        "explain a.png --model nets:first --out o.json",
    ),
    row("libraries.py", "name your own as package.module:factory", "explain a.png --model nett --out o.json", PICTURE),
    row(
        "libraries.py",
        "weights go to --checkpoint",
        f"{PICTURE.replace('nets:build', 'weights.pt')}",
        f"{PICTURE} --checkpoint weights.pt",
    ),
    row("pictures.py", "pixels): take less", f"{PICTURE} --size 100000", f"{PICTURE} --size 8"),
    row(
        "dataset.py",
        "names what makes a data set",
        ["run nets:data --out o"],
        [lambda: job(model="nets:build", data="nets:data", target="argmax"), "run job.toml --quiet"],
    ),
    row("libraries.py", "is a file of code: write {}:NAME", "explain a.png --model nets.py --out o.json", PICTURE),
    row(
        "inputs.py",
        "or the size of its images with --size",
        "layers --model texts:build",
        "layers 'a good film' --model texts:build",
        "layers --model nets:build --size 8",
    ),
    row(
        "write.py",
        "make it first, or choose another",
        "explain a.png --model nets:build --out nowhere/o.png",
        "explain a.png --model nets:build --out pictures/o.png",
    ),
    row(
        "evaluate.py",
        "sensitivity_max is measured on pictures only: leave it out",
        "evaluate 'a good film' --model texts:build --metrics sensitivity_max --out o.json",
        "evaluate 'a good film' --model texts:build --out o.json",
    ),
    row("texts.py", "write it after the options, in quotes", "explain ' ' --model texts:build", TEXT),
    row(
        "checkpoint.py",
        "save the weights alone",
        [lambda: torch.save(net(), "whole.pt"), f"{PICTURE} --checkpoint whole.pt"],
        [lambda: torch.save(net().state_dict(), "whole.pt"), f"{PICTURE} --checkpoint whole.pt"],
    ),
    row(
        "gap.py",
        "so compare with --method integrated_gradients",
        "explain a.png --model nets:ruleless --method deep_lift --out o.json",
        [lambda: whole("explain a.png --model nets:ruleless --method ig --n-steps 200 --out o.json")],
    ),
    Cure(
        "_cli/inputs.py",
        "pipe a text or a picture into the command",
        lambda: says([PICTURE.replace("a.png", "-")], partial(piped, b"")),
        through_the_pipe,
    ),
    row("show.py", "read them in Python", [lambda: stored(several), "show maps --id b.png"], [lambda: stored(several), read]),
    row(
        "show.py",
        "read it in Python, fa.dataset.load",
        [lambda: stored(fa.saliency, "head"), "show maps --id b.png"],
        [lambda: stored(fa.saliency, "head"), read],
    ),
    row("__main__.py", "did you mean --{}?", f"{PICTURE} --taget 0", f"{PICTURE} --target 0"),
    row("__main__.py", "{} --help lists all.", f"{PICTURE} --colour red", "explain --help", PICTURE),
    row(
        "boxes.py",
        "which writes a picture for each",
        [wide, "explain pictures --model nets:build --out o.html"],
        [wide, "explain pictures --model nets:build --out o.html --size 8"],
        [wide, "explain pictures --model nets:build --out o.png"],
        [wide, "explain pictures --model nets:build --out maps/"],
    ),
    row(
        "dataset.py",
        "is a folder: give --{} as well",
        ["run pictures --out o"],
        ["run pictures --model nets:build --out o --quiet"],
    ),
    row(
        "dataset.py",
        "must say {}, as in {} = {}; or give --{}",
        [job, "run job.toml"],
        [lambda: job(model="nets:build"), "run job.toml --quiet"],
        [job, "run job.toml --quiet --model nets:build"],
    ),
    row(
        "facts.py",
        "choose another --layer, or --out with .npz",
        "explain a.png --model nets:build --method saliency --layer head --out o.csv",
        "explain a.png --model nets:build --method saliency --layer features --out o.csv",
        "explain a.png --model nets:build --method saliency --layer head --out o.npz",
    ),
    row(
        "draw.py",
        "choose another --layer, or --out with .npz",
        "explain a.png --model nets:build --method saliency --layer head --out o.png",
        "explain a.png --model nets:build --method saliency --layer features --out o.png",
        "explain a.png --model nets:build --method saliency --layer head --out o.npz",
    ),
    row(
        "evaluate.py",
        "which the command has no option for: call it from Python",
        "evaluate a.png --model nets:build --methods window",
        [called],
        within=one_more,
    ),
    row(
        "explain.py",
        "which the command has no option for: call it from Python",
        f"{PICTURE} --method window",
        [called],
        within=one_more,
    ),
    row(
        "export.py",
        "which the command has no option for: call fa.export from Python",
        "export --model nets:build --size 8 --method window --to o.pt2",
        [exported],
        within=one_more,
    ),
    row(
        "evaluate.py",
        "leave one of them out",
        "evaluate a.png --model nets:build --methods grad_cam --metrics infidelity",
        "evaluate a.png --model nets:build --methods ig --metrics infidelity",
        "evaluate a.png --model nets:build --methods grad_cam --metrics deletion",
    ),
    row(
        "evaluate.py",
        "needs more than pictures: call fa.metrics.{} from Python",
        "evaluate a.png --model nets:build --metrics pointing_game",
        [game],
    ),
    row(
        "evaluate.py",
        "{} is compared on pictures only",
        "evaluate 'a good film' --model texts:build --methods grad_cam,ig",
        "evaluate 'a good film' --model texts:build --methods ig",
    ),
    row(
        "evaluate.py",
        "choose another method, or another --layer",
        "evaluate a.png --model nets:seven --methods grad_cam --layer mix",
        "evaluate a.png --model nets:seven --methods saliency",
        "evaluate a.png --model nets:seven --methods grad_cam --layer features",
    ),
    row(
        "export.py",
        "make it first, or choose another",
        "export a.png --model nets:build --method saliency --to nowhere/o.pt2",
        [lambda: Path("nowhere").mkdir(), "export a.png --model nets:build --method saliency --to nowhere/o.pt2"],
    ),
    row(
        "export.py",
        "so there is no class to choose: leave --target out",
        "export a.png --model nets:one --method saliency --target each --to o.pt2",
        "export a.png --model nets:one --method saliency --to o.pt2",
    ),
    row(
        "gap.py",
        "choose the end of a block",
        "explain a.png --model nets:skip --method conductance --layer block.inner --out o.json",
        [lambda: whole("explain a.png --model nets:skip --method conductance --layer block --out o.json")],
    ),
    row(
        "gap.py",
        "take more steps, --n-steps {}{}",
        f"{IG} --n-steps 4",
        [lambda: followed(f"{IG} --n-steps 4")],
    ),
    row(
        "groups.py",
        "leave --layer out",
        f"{PICTURE} --method ablation --groups superpixels --layer features",
        [lambda: superpixels(f"{PICTURE} --method ablation --groups superpixels")],
    ),
    row(
        "groups.py",
        "occlusion slides over one tensor: choose another --layer",
        "explain a.png --model nets:split --method occlusion --layer split --out o.json",
        "explain a.png --model nets:split --method occlusion --layer features --out o.json",
    ),
    row(
        "show.py",
        "say with --pictures where they are",
        [RUN, moved, "show maps --id b.png"],
        [RUN, moved, "show maps --id b.png --pictures elsewhere --out o.png"],
    ),
    row(
        "show.py",
        "leave --pictures out, and the map is drawn alone",
        [lambda: stored(), "show maps --id b.png --pictures pictures"],
        [lambda: stored(), "show maps --id b.png --out o.png"],
    ),
    row(
        "sites.py",
        "{}: choose another --method",
        "explain a.png --model nets:aside --method grad_cam --out o.json",
        "explain a.png --model nets:aside --method saliency --out o.json",
    ),
    row(
        "sites.py",
        "name the layer after it with --layer",
        "explain 'a good film' --model again:build --out o.json",
        "explain 'a good film' --model again:build --layer mix --out o.json",
    ),
    row(
        "targets.py",
        "explain wants scores of classes",
        "explain a.png --model nets:maps --out o.json",
        "explain a.png --model unnamed:means --out o.json",
    ),
    row(
        "_demo/command.py",
        "make it first, or choose another",
        "demo --index 17 --method saliency --out nowhere/o.png",
        [lambda: Path("nowhere").mkdir(), "demo --index 17 --method saliency --out nowhere/o.png"],
        "demo --index 17 --method saliency --out pictures/o.png",
    ),
    row(
        "_demo/command.py",
        "has no height and width to draw: choose one of {}",
        "demo --index 17 --method grad_cam --layer fc",
        "demo --index 17 --method grad_cam --layer conv2 --out o.png",
    ),
    row(
        "_demo/command.py",
        ": choose one of {}.",
        "demo --index 17 --method zzz",
        "demo --index 17 --method gradient --out o.png",
    ),
    row(
        "dataset/_names.py",
        "it is neither installed nor in the current folder",
        [empty, "explain a.png --model nets:build --out o.json"],
        PICTURE,
    ),
    row(
        "dataset/_names.py",
        ": choose one of {}.",
        "explain a.png --model nets:zzz --out o.json",
        PICTURE,
    ),
    row(
        "dataset/_pictures.py",
        "convert it to 8 bits first",
        [deep, "explain deep.png --model nets:build --out o.json"],
        [deep, shallow, "explain deep.png --model nets:build --out o.json"],
    ),
]
