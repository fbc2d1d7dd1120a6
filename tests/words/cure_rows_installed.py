"""The rows of `cure_rows.py` for packages that are missing: hidden, they are told of by the extra that holds them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import funattr as fa

from .cure_command import PICTURE, Step, Within, does, says, told
from .cure_command import folder as folder_of_command
from .cure_rows import mlp
from .cure_rows_language import ANSWERED, models
from .cure_rows_others import folder, run
from .cures import Cure, message_of

viz: Any = fa.viz
small, photo = torch.randn(4, 5), torch.rand(3, 4, 5)
#: Which distribution has a module, where the name is another.
OF = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "ray": "ray"}
PIP = re.compile(r'pip install (?:-e )?"?((?:funattr|\.)\[(\w+)\]|[\w-]+)"?')


def extras() -> dict[str, list[str]]:
    """What pyproject.toml says that each extra needs."""
    try:
        toml = importlib.import_module("tomllib")
    except ModuleNotFoundError:
        toml = importlib.import_module("tomli")
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    found: dict[str, list[str]] = toml.loads(text)["project"]["optional-dependencies"]
    return found


def brought(names: Sequence[str]) -> set[str]:
    """The distributions that these requirements install, with what they need themselves, as far as it is installed here."""
    found: set[str] = set()
    for each in names:
        name, of = re.findall(r"^([\w.-]+)(?:\[([\w,]+)\])?", each)[0]
        if name == "funattr":
            found |= brought([one for extra in of.split(",") for one in extras()[extra]])
        elif name.lower() not in found:
            found.add(name.lower())
            with contextlib.suppress(metadata.PackageNotFoundError):
                found |= {
                    re.findall(r"^[\w.-]+", one)[0].lower() for one in metadata.requires(name) or () if "extra ==" not in one
                }
    return found


@contextlib.contextmanager
def hidden(module: str) -> Iterator[None]:
    """As where a package is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in {module, *(name for name in sys.modules if name.startswith(f"{module}."))}:
            patch.setitem(sys.modules, name, None)
        yield


def missing(file: str, words: str, module: str, call: Callable[[], Any], works: Any = None, slow: bool = False) -> Cure:
    """A call without a package; what is to be installed brings it, and with it the call works, or what `works` does."""

    def wrong() -> None:
        with hidden(module):
            call()

    return Cure(file, words, wrong, partial(installed, module, wrong, works or call), slow)


def unable(
    file: str, words: str, module: str, *steps: Step, within: Within = contextlib.nullcontext, slow: bool = False
) -> Cure:
    """The same of a line, the last step."""

    def wrong() -> None:
        with folder_of_command(), within():
            for step in steps[:-1]:
                assert not isinstance(step, str)
                step()
            with hidden(module):
                found = told(str(steps[-1]))
        raise ValueError(found.said)

    return Cure(file, words, wrong, partial(installed, module, wrong, lambda: does(steps, within)), slow)


def installed(module: str, wrong: Callable[[], Any], call: Callable[[], Any]) -> None:
    found = PIP.search(message_of(wrong))
    assert found is not None
    name = f"funattr[{found[2]}]" if found[2] else found[1]
    package = module.partition(".")[0]
    assert OF.get(package, package) in brought([name])
    if importlib.util.find_spec(package) is not None:
        call()


def written(folder: str) -> None:
    viz.blend(small, photo, out=Path(folder) / "a.png")


def elsewhere() -> Any:
    """The benchmark where the package is installed without its repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fa, "__file__", "/nowhere/funattr/__init__.py")
        says(["bench --quick"], contextlib.nullcontext)


def bench() -> None:
    """Here is a clone of it, and its extra is known."""
    assert "captum" in brought(["funattr[bench]"])
    does([BENCH], contextlib.nullcontext)


def dying(model: Any, x: Any, target: Any = None) -> Any:
    """A method whose process ends where it is given more than one example, as one is ended that takes too much memory."""
    if len(x) > 1:
        os._exit(7)
    return x


def died(**options: Any) -> Any:
    with mock.patch("funattr.dataset._pool._DEATHS", 2):
        return run(f"{committed.name}/maps", dying, lambda: mlp, workers=2, **options)


def smaller() -> None:
    """Once more into the same folder."""
    assert tuple(died(batch_size=1)) == (4, 0, 0)


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Ray on this machine, for as long as a row runs."""
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of several kinds
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="warning")
        try:
            yield
        finally:
            ray.shutdown()


def by_ray(cpus: int, **options: Any) -> Any:
    with cluster(cpus):
        return of_ray(**options)


def of_ray(**options: Any) -> Any:
    return folder(lambda out: run(out, model=lambda: mlp, engine="ray", **options))


committed = tempfile.TemporaryDirectory()


def superpixels() -> Any:
    return fa.masks.superpixels(torch.rand(3, 16, 16)[None], 3)


def next_of_superpixels() -> None:
    """They are made, or what comes next is that scikit-image is missing, where it is."""
    if importlib.util.find_spec("skimage") is None:
        assert "needs scikit-image" in message_of(superpixels)
    else:
        assert superpixels().shape == (1, 1, 16, 16)


def saved() -> None:
    """Weights in another kind of file."""
    importlib.import_module("safetensors.torch").save_file(torch.load("weights.pt"), "weights.safetensors")


SAFE = f"{PICTURE} --checkpoint weights.safetensors"
BENCH = "bench --quick --filter 'two-layer saliency'"
DEMO = "demo --index 17 --method saliency --out o.png"
ONNX = "export --model nets:build --size 8 --method saliency --to o.onnx"
BERT = "explain 'a good film' --model models/bert --out o.json"
INSTALLED = [
    unable("_cli/checkpoint.py", ".safetensors files need safetensors", "safetensors.torch", saved, SAFE),
    unable(
        "_cli/keep.py",
        ".safetensors files need",
        "safetensors.torch",
        ANSWERED.replace("json", "safetensors"),
        within=models,
        slow=True,
    ),
    unable("_cli/write.py", ".safetensors files need", "safetensors.torch", PICTURE.replace("json", "safetensors")),
    unable("_cli/export.py", "ONNX files need onnxscript", "onnxscript", ONNX, slow=True),
    unable("_cli/libraries.py", "models of {} need it: pip install {}", "transformers", BERT, within=models, slow=True),
    unable("_cli/bench.py", "the benchmark compares with Captum", "captum", BENCH, slow=True),
    Cure("_cli/bench.py", "clone it", elsewhere, bench, True),
    unable("_demo/model.py", "the demo needs scikit-learn", "sklearn", DEMO, slow=True),
    missing("dataset/_arrow.py", "data sets need pyarrow", "pyarrow", lambda: folder(run)),
    unable("dataset/_pictures.py", "images need pillow", "PIL", PICTURE),
    missing(
        "dataset/_ray.py", 'engine="ray" needs Ray', "ray", of_ray, works=lambda: importlib.import_module("ray.data"), slow=True
    ),
    missing("masks/_groups.py", "superpixels() needs scikit-image", "skimage", superpixels),
    Cure(
        "masks/_groups.py", "pass pictures[None]", lambda: fa.masks.superpixels(torch.rand(3, 16, 16), 3), next_of_superpixels
    ),
    missing("viz/_blend.py", "writing pictures needs Pillow", "PIL", lambda: folder(written)),
    missing(
        "viz/_colors.py", "colour maps by name need matplotlib", "matplotlib", lambda: viz.blend(small, photo, cmap="turbo")
    ),
    missing("viz/_draw.py", "pictures need matplotlib", "matplotlib", lambda: viz.overlay(small)),
    missing("viz/_draw.py", "images need Pillow", "PIL", lambda: viz.to_image(viz.overlay(small))),
    missing(
        "viz/_labels.py",
        "pictures need matplotlib",
        "matplotlib",
        lambda: viz.show(torch.rand(1, 1, 4, 5), {"a": torch.rand(1, 4, 5)}, titles=["a title"]),
    ),
    Cure("dataset/_pool.py", "run it again with a smaller batch_size", died, smaller, True),
    Cure(
        "dataset/_ray.py",
        "ray.init(num_cpus={}), or have fewer workers",
        lambda: by_ray(2, workers=2),
        lambda: [by_ray(3, workers=2), by_ray(2, workers=1)],
        True,
    ),
    Cure("dataset/_checks.py", "leave out shard", lambda: of_ray(shard=(0, 2)), lambda: by_ray(2), True),
]
