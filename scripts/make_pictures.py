"""Draw the pictures of the documentation, ``docs/pictures/*.png``, in about a minute on a CPU.

    python scripts/make_pictures.py

These are the examples' own, and tables of what the methods find in the same three digits: ``methods-input.png`` at the input,
``methods-layer.png`` at a layer, and ``methods.png``, a few of both. Each map is summed over channels, and divided by its
largest absolute value. Those of docs/pictures.md are what its own code draws.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import funattr as fa
from funattr import viz
from funattr._demo.model import load_digits, load_model

ROOT = Path(__file__).parents[1]
LAYER = "relu2"
DIGITS = [6, 7, 9]  # of the test set: a 1, a 9 and a 5
LARGE = 100_000  # bytes: a larger picture is reduced to 256 colours
PHOTOGRAPHS = {"cams"}  # of the examples: these have more, and are written as JPEG
GUIDE = ROOT / "docs" / "pictures.md"

AT_INPUT = [
    ["gradient", "saliency", "noise_tunnel\n(saliency)", "input_x_gradient", "guided_backprop", "deconvnet"],
    ["guided_grad_cam", "integrated_gradients", "gradient_shap", "deep_lift", "deep_lift_shap", "feature_ablation"],
    ["lrp", "occlusion", "shapley", "lime"],
]
AT_LAYER = [
    ["activation", "saliency", "input_x_gradient", "integrated_gradients", "gradient_shap", "internal_influence"],
    ["conductance", "deep_lift", "deep_lift_shap", "feature_ablation", "grad_cam", "grad_cam_plus_plus"],
    ["xgrad_cam", "hires_cam", "layer_cam", "score_cam", "ablation_cam", "eigen_cam"],
]
A_FEW = [  # at the input, and at the layer
    ["saliency", "guided_backprop", "integrated_gradients", "deep_lift"],
    ["grad_cam", "layer_cam", "conductance"],
]


def the_rest() -> list[str]:
    """Methods that neither table places: newer ones."""
    placed = {"value_and_gradient", "layers", "game", "absorbed", *(name for row in AT_INPUT + AT_LAYER for name in row)}
    return [name for name in fa.__all__ if _takes(name)[:2] == ["model", "x"] and name not in placed]


def _takes(name: str) -> list[str]:
    return list(inspect.signature(getattr(fa, name)).parameters)


def tables() -> dict[str, list[dict[str, str | None]]]:
    """The name of each picture, and its rows of methods with their layers."""
    new = the_rest()
    free = [name for name in new if inspect.signature(getattr(fa, name)).parameters["layer"].default is None]
    at_input, at_layer = [*AT_INPUT, *_in_rows(free)], [*AT_LAYER, *_in_rows(new)]
    return {
        "methods-input": [dict.fromkeys(row) for row in at_input],
        "methods-layer": [dict.fromkeys(row, LAYER) for row in at_layer],
        "methods": [dict.fromkeys(A_FEW[0]) | dict.fromkeys(A_FEW[1], LAYER)],
    }


def _in_rows(names: list[str]) -> list[list[str]]:
    return [names[i : i + 6] for i in range(0, len(names), 6)]


def explained(name: str, x: Tensor, layer: str | None) -> Tensor:
    """What a method finds in each of some digits."""
    generator = torch.Generator().manual_seed(0)
    method = getattr(fa, name, None) or fa.noise_tunnel(fa.saliency, n_samples=25, stdevs=0.2, generator=generator)
    options: dict[str, Any] = {} if name in ("activation", "eigen_cam") else {"target": "argmax"}
    if layer is not None or name == "guided_grad_cam":
        options["layer"] = layer or LAYER
    if name.endswith("_shap"):
        options["baselines"] = load_digits()[0].images[:100]
    if name == "occlusion":
        options["window"] = (1, 2, 2)
    if name in ("shapley", "lime"):
        options["generator"] = generator
    if name == "gradient_shap":
        options |= {"n_samples": 200, "generator": generator}
    found: Tensor = fa.normalize(fa.sum_channels(method))(load_model(), x, **options)
    return found


def table(rows: Sequence[dict[str, str | None]], out: Path) -> None:
    """Draw rows of methods, each with its layer, one below the other."""
    x, strips = load_digits()[1].images[DIGITS], []
    for row in rows:
        figure = viz.show(1 - 0.6 * x, {name: explained(name, x, layer) for name, layer in row.items()}, percentile=100)
        figure.savefig(buffer := io.BytesIO(), dpi=100)
        strips.append(Image.open(buffer))
    whole = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    whole.save(out)


def reduce(out: Path) -> None:
    """The same picture in fewer bytes, if it has many."""
    if out.stat().st_size > LARGE:
        with Image.open(out) as picture:
            # Of the methods to choose colours this one keeps rare ones, as a flower's.
            few = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.putpalette([255 if level > 250 else level for level in few.getpalette() or []])  # paper stays white
        few.save(out, optimize=True)
    print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")


def to_jpeg(png: Path) -> None:
    with Image.open(png) as picture:
        picture.convert("RGB").save(png.with_suffix(".jpg"), quality=85, optimize=True)
    png.unlink()
    print(f"{png.stem}.jpg: {png.with_suffix('.jpg').stat().st_size / 1000:.0f} kB")


def guide(folder: Path) -> None:
    """Run the page about pictures, and write what each block draws to the files whose pictures follow it."""
    names: dict[str, Any] = {"__name__": GUIDE.stem}
    text = GUIDE.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S))
    ends = [block.start() for block in blocks[1:]] + [len(text)]
    for block, end in zip(blocks, ends):
        drawn = {name: names.pop(name, None) for name in ("figure", "picture", "page")}
        exec(compile(block[1], str(GUIDE), "exec"), names)
        drawn = {name: names[name] for name in drawn if name in names}
        for name in re.findall(r"\]\(pictures/([\w-]+\.\w+)\)", text[block.end() : end]):
            _written(drawn, folder / name)


def _written(drawn: dict[str, Any], out: Path) -> None:
    if "page" in drawn:
        from tests.chromium import find

        if find() is None:
            print(f"{out.name}: not drawn, there is no chromium here")
            return
        screenshot(drawn["page"], out, 390 if "narrow" in out.stem else 1280)
        return
    image = Image.fromarray(drawn["picture"]) if "picture" in drawn else viz.to_image(drawn["figure"], dpi=110)
    if out.suffix == ".jpg":
        image.save(out, quality=88, optimize=True)
        print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")
    else:
        image.save(out, optimize=True)
        reduce(out)


def screenshot(page: viz.Page, out: Path, width: int) -> None:
    """The page in a browser: wide in the light, with the mouse on a map or a token, or narrow in the dark."""
    from tests.chromium import browser

    file = out.with_suffix(".html")
    page.save(file)
    with browser() as tab:
        tab.open(file.as_uri(), width=width, height=650 if width > 500 else 800, dark=width < 500)
        ready = "document.body.dataset.ready === 'true' ? setTimeout(done, 200) : setTimeout(look, 5)"
        tab.run(f"new Promise(done => {{ const look = () => {ready}; look(); }})")
        if width > 500:
            left, top, wide, high = tab.box(".card:nth-child(2) .map, [data-row='0']")
            tab.move(left + 0.3 * wide, top + 0.5 * high)
        Image.fromarray(tab.screenshot().astype("uint8")).save(out, quality=88, optimize=True)
    file.unlink()
    print(f"{out.name}: {out.stat().st_size / 1000:.0f} kB")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", help="the folder (default: docs/pictures)")
    folder = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))  # the browser is the tests'

    torch.set_num_threads(1)
    for name, rows in tables().items():
        table(rows, folder / f"{name}.png")
        reduce(folder / f"{name}.png")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for example in sorted((ROOT / "examples").glob("*.py")):
        out = folder / f"{example.stem}.png"
        subprocess.run([sys.executable, str(example), "--out", str(out)], check=True, env={**os.environ, "PYTHONPATH": path})
        if example.stem in PHOTOGRAPHS:
            to_jpeg(out)
        else:
            reduce(out)
    guide(folder)


if __name__ == "__main__":
    main()
