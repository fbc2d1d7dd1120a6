"""The command: what it prints and writes, with a model of one's own and of each library, and how it answers mistakes.

torchvision and timm are stood in for by modules with the part of their API that is used; transformers is the real one.
"""

from __future__ import annotations

import argparse
import enum
import functools
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import funattr as fa
from funattr import viz
from funattr.__main__ import main
from funattr._cli import gap, methods
from funattr.dataset._names import SHORT

MY_NET = """
import torch
from torch import nn

CLASSES = ["circle", "square", "Star"]
LEVEL = 3


class Net(nn.Module):
    def __init__(self, channels=3, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.blocks = nn.ModuleList([nn.Identity()])
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        x = self.blocks[0](self.relu(self.conv2(x)))
        return self.fc(self.drop(self.pool(x).flatten(1)))


def build():
    torch.manual_seed(0)
    return Net().train()


def grey():
    torch.manual_seed(0)
    return Net(1)


def one():
    torch.manual_seed(0)
    return Net(3, 1)


class Named:
    small = Net(3, 2)


class Pairs(nn.Module):
    def forward(self, x):
        return x, x


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Stops(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


def table():
    return {"a": 1}


def fails():
    raise RuntimeError("no such\\nweights here")


def needs(width):
    return Net()
"""
OWN_WAY = """
import torch
from torch import nn

classes = ["good", "bad"]
words = ["<none>", "a", "good", "bad", "film"]


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.mix = nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embedding(ids).mT)).mean(2))


def preprocess(given):
    if isinstance(given, str):
        tokens = given.lower().split()
        return torch.tensor([[words.index(token) for token in tokens]]), tokens
    small = given.resize((6, 5))
    return torch.tensor(list(small.tobytes())).reshape(5, 6, 3).permute(2, 0, 1) / 255 - 0.5


def build():
    torch.manual_seed(0)
    return Words()


def picture():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model, its weights and an image in it, as a user has one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    Path("my_net.py").write_text(MY_NET)
    Path("own_way.py").write_text(OWN_WAY)
    Path("broken_net.py").write_text("import torch\nimport nothing_of_that_name\n")
    pixels = np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    Image.fromarray(pixels[..., 0]).save("grey.png")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("my_net", "own_way", "broken_net"):
            del sys.modules[name]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """What is handed to the functions that draw, call by call."""
    calls: list[tuple[str, Any, Any, dict[str, Any]]] = []

    def spy(name: str) -> Any:
        def draw(what: Any, attributions: Any, **options: Any) -> None:
            calls.append((name, what, attributions, options))
            Path(options["out"]).write_text(name)

        return draw

    for name in ("show", "text", "page"):
        monkeypatch.setattr(viz, name, spy(name), raising=False)
    return calls


def run(capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    """The lines that a command prints, when all goes well."""
    assert main(shlex.split(line)) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert not [line for line in err.splitlines() if "the weights are random" not in line]  # those of classes of this file
    return out.splitlines()


def told(lines: list[str]) -> dict[str, str]:
    """What `explain` prints, by the word in front; several lines of a kind are joined."""
    found: dict[str, str] = {}
    key = ""
    for line in lines:
        key = line[:13].strip() or key
        found[key] = "\n".join(part for part in (found.get(key), line[13:]) if part)
    return found


def pixels(size: tuple[int, int] | None = None, mode: str = "RGB") -> Tensor:
    image = Image.open("cat.png").convert(mode)
    image = image if size is None else image.resize(size, Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).float() / 255
    return x.permute(2, 0, 1)[None] if x.dim() == 3 else x[None, None]


# explain, with a model of one's own.


def test_one_command_gives_a_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "explain cat.png --model my_net:build")
    patterns = [
        r"model        my_net:build \(Net\)",
        r"input        cat\.png, 16 x 12, values in \[0, 1\], not normalised: \[1, 3, 12, 16\]",
        r"predicted    class \d, score -?[\d.e-]+ \([\d.]+%\)",
        r"explained    class \d, score -?[\d.e-]+ \([\d.]+%\)",
        r"method       grad_cam at blocks\.0 \(the last that suits; funattr layers shows the others\)",
        r"wrote        explained\.png",
        r"deletion     grad_cam -?[\d.e-]+; a random order -?[\d.e-]+: the lower, the better the map",
    ]
    assert len(lines) == len(patterns)
    for line, pattern in zip(lines, patterns):
        assert re.fullmatch(pattern, line), line
    with Image.open("explained.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == {
        *("my_net.py", "own_way.py", "broken_net.py", "cat.png", "grey.png", "explained.png")
    }


def test_what_is_drawn_is_what_the_methods_give(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    names = "grad_cam,ig,deep_lift,deep_lift_shap,conductance,guided_gradcam,saliency"
    lines = run(
        capsys,
        f"explain cat.png --model my_net:build --size 6x8 --mean 0.5,0.4,0.3 --std 0.5 --method {names} --target 1 "
        "--n-steps 7 --quadrature riemann_middle --chunk-size 2 --out maps.png",
    )
    import my_net  # type: ignore[import-not-found]

    model = my_net.build().eval()
    x = (pixels((8, 6)) - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.5
    (name, picture, maps, options) = shown[0]
    assert name == "show"
    torch.testing.assert_close(picture, pixels())  # in its own size
    share = model(x).softmax(1)[0]
    best = int(share.argmax())
    explained = f"\nexplained: class 1, {share[1]:.1%}" if best != 1 else ""
    assert options["titles"] == [f"cat.png\nclass {best}, {share[best]:.1%}{explained}"]
    shades = torch.stack(
        [(shade - torch.tensor([0.5, 0.4, 0.3])[:, None, None].expand(3, 6, 8)) / 0.5 for shade in (0, 0.5, 1)]
    )
    path: Any = {"n_steps": 7, "quadrature": "riemann_middle"}
    expected = {
        "grad_cam at blocks.0": fa.grad_cam(model, x, layer="blocks.0", target=1),
        "integrated_gradients": fa.integrated_gradients(model, x, target=1, **path),  # type: ignore[arg-type]
        "deep_lift": fa.deep_lift(model, x, target=1),
        "deep_lift_shap": fa.deep_lift_shap(model, x, baselines=shades, target=1),
        "conductance": fa.conductance(model, x, target=1, **path),  # type: ignore[arg-type]
        "guided_grad_cam at blocks.0": fa.guided_grad_cam(model, x, layer="blocks.0", target=1),
        "saliency": fa.saliency(model, x, target=1),
    }
    assert list(maps) == list(expected)
    for key, value in expected.items():
        drawn = value.sum(1, keepdim=True)
        torch.testing.assert_close(maps[key], drawn.clamp(min=0) if key.startswith("grad_cam") else drawn, msg=key)
    found = told(lines)
    assert found["input"] == "cat.png, 16 x 12, values in [0, 1], resized to 6 x 8, less 0.5 0.4 0.3, over 0.5: [1, 3, 6, 8]"
    gaps = re.findall(r"sum of attributions (\S+), F\(x\) - F\(baseline\) (\S+), gap (\S+) \((\S+)%\)", found["completeness"])
    assert len(gaps) == 4
    scores = model(torch.cat([x, torch.zeros_like(x), shades]))[:, 1].detach()
    differences = [scores[0] - scores[1], scores[0] - scores[1], scores[0] - scores[2:].mean(), scores[0] - scores[1]]
    for (total, difference, apart, share), key, right in zip(
        gaps, ("integrated_gradients", "deep_lift", "deep_lift_shap", "conductance"), differences
    ):
        assert float(total) == pytest.approx(float(expected[key].sum()), rel=1e-3)
        assert float(difference) == pytest.approx(float(right), rel=1e-3)
        assert float(share) / 100 == pytest.approx(abs(float(expected[key].sum() - right) / float(right)), abs=1e-4)
        assert float(apart) == pytest.approx(float(expected[key].sum() - right), abs=1e-5)


def test_a_large_gap_says_what_to_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "explain cat.png --model my_net:build --method ig --target 2 --out a.npz"
    bad = told(run(capsys, f"{line} --n-steps 1 --quadrature riemann_left"))["completeness"]
    assert re.search(r"large: take more steps, --n-steps 4, or another rule, --quadrature gausslegendre$", bad)
    good = told(run(capsys, f"{line} --n-steps 300"))["completeness"]
    assert "large" not in good
    assert gap.Gap(1.0, 1.005).relative < gap.LARGE < gap.Gap(1.0, 1.02).relative
    assert gap.Gap(0.0, 0.0).relative == 0.0
    assert gap.Gap(0.1, 0.0).relative == float("inf")
    assert "skip connection" in gap.advice("deep_lift", 50, "gausslegendre", True)


@pytest.mark.parametrize(
    ("options", "target"),
    [("--target 1", 1), ("--target square", 1), ("--target star", 2), ("--target argmax", None), ("", None)],
)
def test_targets(options: str, target: int | None, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.txt").write_text("circle\nsquare\nStar\n")
    found = told(
        run(capsys, f"explain cat.png --model my_net:build --labels names.txt --method gradient --out a.npz {options}")
    )
    import my_net

    model = my_net.build().eval()
    scores = model(pixels())[0]
    best = int(scores.argmax())
    target = best if target is None else target
    share = scores.softmax(0)
    assert found["predicted"] == f"{best} ({my_net.CLASSES[best]}), score {scores[best]:.4g} ({share[best]:.1%})"
    assert found["explained"] == f"{target} ({my_net.CLASSES[target]}), score {scores[target]:.4g} ({share[target]:.1%})"
    with np.load("a.npz") as stored:
        np.testing.assert_allclose(stored["gradient"], fa.gradient(model, pixels(), target=target).numpy())
        np.testing.assert_array_equal(stored["input"], pixels().numpy())
        facts = json.loads(str(stored["facts"]))["explained"][0]
    assert facts["target"]["name"] == my_net.CLASSES[target]
    assert facts["predicted"]["probability"] == pytest.approx(share[best].item())


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_labels_in_json(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.json").write_text('["a", "b", "c"]' if kind == "list" else '{"2": "c", "0": "a", "1": "b"}')
    found = told(run(capsys, "explain cat.png --model my_net:build --labels names.json --target b --out a.npz"))
    assert found["explained"].startswith("1 (b)")


@pytest.mark.parametrize("how", ["safetensors", "pt", "in a trainer's dict", "wrapped"])
def test_checkpoints(how: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(here))
    import my_net

    torch.manual_seed(5)
    model = my_net.Net().eval()
    state: Any = model.state_dict()
    file = "weights.safetensors" if how == "safetensors" else "weights.pt"
    if how == "safetensors":
        save_file(state, file)
    else:
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"pt": state, "in a trainer's dict": {"epoch": 3, "state_dict": state}, "wrapped": wrapped}[how], file)
    found = told(run(capsys, f"explain cat.png --model my_net:build --checkpoint {file} --method saliency --out a.npz"))
    assert found["model"] == f"my_net:build (Net), weights of {file}"
    with np.load("a.npz") as stored:
        np.testing.assert_allclose(stored["saliency"], fa.saliency(model, pixels(), target="argmax").numpy(), rtol=1e-5)


def test_layers_and_numbers_as_they_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "explain cat.png --model my_net:build --target 0 --method input_x_gradient,grad_cam --layer relu@1"
    found = told(run(capsys, f"{line} --out a.safetensors"))
    assert found["method"] == "input_x_gradient at relu@1\ngrad_cam at relu@1"
    import my_net

    model, layer = my_net.build().eval(), fa.output_of("relu", 1)
    stored = load_file("a.safetensors")
    assert set(stored) == {"input", "input_x_gradient", "grad_cam"}
    torch.testing.assert_close(stored["input_x_gradient"], fa.input_x_gradient(model, pixels(), layer=layer, target=0))
    torch.testing.assert_close(stored["grad_cam"], fa.grad_cam(model, pixels(), layer=layer, target=0))
    with safe_open("a.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        facts = json.loads(file.metadata()["facts"])["explained"][0]
    assert facts["methods"]["grad_cam"]["layer"] == "relu@1"
    assert facts["target"]["class"] == 0
    assert found["explained"].startswith("class 0, ")


def test_ablation_is_by_squares(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    Image.fromarray(np.random.RandomState(1).randint(0, 256, (30, 30, 3), dtype=np.uint8)).save("large.png")
    run(capsys, "explain large.png --model my_net:build --method ablation --target 1")
    run(capsys, "explain large.png --model my_net:build --method ablation --target 1 --layer conv2 --size 4")
    import my_net

    model = my_net.build().eval()
    x = torch.from_numpy(np.array(Image.open("large.png"))).permute(2, 0, 1)[None].float() / 255
    without = x.clone()
    without[:, :, 3:6, 27:] = 0  # 14 squares at most on a side of 30: of 3 x 3
    loss = (model(x) - model(without))[0, 1]
    drawn = shown[0][2]["feature_ablation"]
    assert drawn.shape == (1, 1, 30, 30)
    assert drawn[0, 0, 3:6, 27:].allclose(loss.detach(), atol=1e-6)
    assert len(drawn.unique()) <= 100
    at_layer = shown[1][2]["feature_ablation at conv2"]
    small = (
        torch.from_numpy(np.array(Image.open("large.png").resize((4, 4), Image.Resampling.BILINEAR))).permute(2, 0, 1)[None]
        / 255
    )
    value_at, rest = fa.split(model, "conv2")
    value = value_at(small)
    ablated = value.clone()
    ablated[:, :, 2, 1] = 0
    torch.testing.assert_close(at_layer[0, 0, 2, 1], (rest(value, small) - rest(ablated, small))[0, 1].detach())


def test_noise_comes_from_the_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = []
    for seed in (0, 0, 1):
        run(
            capsys,
            f"explain cat.png --model my_net:build --method smoothgrad,gradient_shap --n-samples 3 --seed {seed} --out a.npz",
        )
        with np.load("a.npz") as file:
            stored.append({name: file[name] for name in ("smoothgrad", "gradient_shap")})
    for name in ("smoothgrad", "gradient_shap"):
        assert np.array_equal(stored[0][name], stored[1][name])
        assert not np.array_equal(stored[0][name], stored[2][name])


@pytest.mark.parametrize("given", ["Named.small", "Net"])
def test_what_may_make_a_model(given: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"explain cat.png --model my_net:{given} --out a.npz")) == 0
    out, err = capsys.readouterr()
    assert told(out.splitlines())["model"] == f"my_net:{given} (Net)" + ", random weights" * (given == "Net")
    warned = (
        "funattr: warning: the weights are random (conv1.weight, conv1.bias, conv2.weight and 3 more): my_net:Net makes others"
    )
    assert err.startswith(warned) if given == "Net" else err == ""


def test_channels(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    assert "[1, 1, 12, 16]" in told(run(capsys, "explain cat.png --model my_net:grey"))["input"]
    torch.testing.assert_close(shown[0][1], pixels(mode="L"))
    assert "[1, 3, 12, 16]" in told(run(capsys, "explain grey.png --model my_net:build"))["input"]
    flat = told(run(capsys, "explain grey.png --model my_net:Flat"))
    assert "[1, 1, 12, 16]" in flat["input"]  # no convolution: as the image is
    assert flat["method"] == "integrated_gradients at the input"  # no layer suits a CAM
    assert "[1, 3, 8, 8]" in told(run(capsys, "explain grey.png --model my_net:Flat --channels 3 --size 8"))["input"]


def test_one_output(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(run(capsys, "explain cat.png --model my_net:one"))
    assert re.fullmatch(r"\S+, the model's only output", found["predicted"])


def test_own_preprocessing(here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    found = told(run(capsys, "explain cat.png --model own_way:picture --target bad"))
    assert found["input"] == "cat.png, 16 x 12, by own_way's preprocess: [1, 3, 5, 6]"
    assert found["explained"].startswith("1 (bad)")
    text = told(run(capsys, 'explain "A good bad film" --model own_way:build --target good --method ig,ablation,gradient_shap'))
    assert text["input"] == "the text, by own_way's preprocess: 4 tokens"
    assert text["method"].splitlines()[0] == "integrated_gradients at embedding (where tokens become numbers)"
    import own_way  # type: ignore[import-not-found]

    model = own_way.build().eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    (_, tokens, values, options) = shown[1]
    expected = fa.integrated_gradients(model, ids, layer="embedding", target=0, baselines=0)
    rows = list(values.values())
    torch.testing.assert_close(rows[0][0], expected.sum(2)[0])
    value_at, rest = fa.split(model, "embedding")
    value = value_at(ids)
    ablated = value.clone()
    ablated[:, 2] = 0
    torch.testing.assert_close(rows[1][0][2], (rest(value, ids) - rest(ablated, ids))[0, 0].detach())
    assert tokens == [["a", "good", "bad", "film"]]
    assert str(options["out"]).endswith("explained.html")


# explain, with the models of libraries.


class Preset(nn.Module):
    """As torchvision.transforms._presets.ImageClassification."""

    def __init__(self, crop_size: int) -> None:
        super().__init__()
        self.crop_size, self.mean, self.std = [crop_size], [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]

    def forward(self, image: Any) -> Tensor:
        assert image.mode == "RGB"
        x = torch.from_numpy(np.array(image.resize((self.crop_size[0],) * 2))).permute(2, 0, 1).float() / 255
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


class Weights(NamedTuple):
    url: str
    transforms: Any
    meta: dict[str, Any]


class TinyNet_Weights(enum.Enum):
    IMAGENET1K_V1 = Weights("", functools.partial(Preset, crop_size=8), {"categories": ["tench", "tabby cat", "yawl"]})
    IMAGENET1K_V2 = Weights("", functools.partial(Preset, crop_size=10), {"categories": ["tench", "tabby cat", "yawl"]})
    DEFAULT = IMAGENET1K_V2

    @property
    def transforms(self) -> Any:
        return self.value.transforms

    @property
    def meta(self) -> dict[str, Any]:
        return self.value.meta


def tiny(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(name: str, *, weights: Any = None, progress: bool = True) -> nn.Module:
        assert weights is None or isinstance(weights, TinyNet_Weights)
        if name == "offline":
            raise OSError("no network")
        return tiny({None: 0, "IMAGENET1K_V1": 1, "IMAGENET1K_V2": 2}[weights and weights.name])

    models = stand_in(
        monkeypatch,
        "torchvision.models",
        list_models=lambda: ["offline", "tinynet"],
        get_model=get_model,
        get_model_weights=lambda name: TinyNet_Weights,
    )
    stand_in(monkeypatch, "torchvision", models=models)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[tuple[str, bool]] = []

    def create_model(model_name: str, pretrained: bool = False) -> nn.Module:
        created.append((model_name, pretrained))
        model = tiny(3 if pretrained else 0)
        model.pretrained_cfg = {
            "label_names": ["n01", "n02", "n03"],
            "label_descriptions": {"n01": "tench", "n02": "tabby, tabby cat"},
        }  # type: ignore[assignment]
        return model

    data = stand_in(
        monkeypatch,
        "timm.data",
        resolve_model_data_config=lambda model: {"input_size": (3, 9, 9), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)},
        create_transform=lambda input_size, is_training, mean, std: functools.partial(prepared, input_size[1], mean, std),
        infer_imagenet_subset=lambda model: None,
    )
    is_model = lambda name: name.partition(".")[0] == "tiny_vit"  # noqa: E731
    stand_in(
        monkeypatch,
        "timm",
        data=data,
        create_model=create_model,
        list_models=lambda: ["tiny_vit"],
        is_model=is_model,
        created=created,
    )


def prepared(side: int, mean: Any, std: Any, image: Any) -> Tensor:
    x = torch.from_numpy(np.array(image.resize((side, side)))).permute(2, 0, 1).float() / 255
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize(
    ("options", "version"), [("", 2), ("--weights IMAGENET1K_V1", 1), ("--weights TinyNet_Weights.IMAGENET1K_V1", 1)]
)
@pytest.mark.parametrize("name", ["tinynet", "torchvision/tinynet"])
def test_torchvision(
    name: str, options: str, version: int, here: Path, capsys: pytest.CaptureFixture[str], torchvision: None, shown: list[Any]
) -> None:
    found = told(run(capsys, f'explain cat.png --model {name} {options} --target "tabby cat"'))
    weights = f"TinyNet_Weights.IMAGENET1K_V{version}"
    side = {1: 8, 2: 10}[version]
    assert found["model"] == f"torchvision's tinynet, {weights}"
    assert found["input"] == f"cat.png, 16 x 12, by the transforms of {weights}: [1, 3, {side}, {side}]"
    assert found["explained"].startswith("1 (tabby cat), score")
    (_, picture, maps, _) = shown[0]
    image = Image.open("cat.png").convert("RGB")
    x = Preset(side)(image)[None]
    cam = fa.grad_cam(tiny(version), x, layer="1", target=1)
    torch.testing.assert_close(maps["grad_cam at 1"], cam.clamp(min=0))
    torch.testing.assert_close(picture, pixels())


def test_torchvision_with_a_checkpoint_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str], torchvision: None) -> None:
    torch.save(tiny(7).state_dict(), "mine.pt")
    found = told(run(capsys, "explain cat.png --model tinynet --checkpoint mine.pt --weights IMAGENET1K_V1 --out a.npz"))
    assert found["model"] == "torchvision's tinynet, weights of mine.pt"
    assert "by the transforms of TinyNet_Weights.IMAGENET1K_V1" in found["input"]
    assert told(run(capsys, "explain cat.png --model tinynet --weights none --out a.npz"))["model"] == (
        "torchvision's tinynet, random weights"
    )


def test_weights_of_ones_own_without_their_normalisation(
    here: Path, capsys: pytest.CaptureFixture[str], torchvision: None
) -> None:
    """The library knows how its own weights were trained: the warning has the options to write, and they end it."""
    torch.save(tiny(7).state_dict(), "mine.pt")
    line = "explain cat.png --model tinynet --checkpoint mine.pt --out a.npz"
    assert main(shlex.split(line)) == 0
    err = capsys.readouterr().err
    assert err.startswith("funattr: warning: values are not normalised, and the library's own weights were trained with ")
    options = re.findall(r"--mean 0\.4,0\.5,0\.6 --std 0\.2,0\.3,0\.4", err)
    assert len(options) == 1
    found = told(run(capsys, f"{line} {options[0]}"))
    assert "less 0.4 0.5 0.6, over 0.2 0.3 0.4" in found["input"]


@pytest.mark.parametrize(
    ("line", "created", "title"),
    [
        ("--model tiny_vit", ("tiny_vit", True), "timm's tiny_vit"),
        ("--model timm/tiny_vit --weights a1", ("tiny_vit.a1", True), "timm's tiny_vit.a1"),
        ("--model tiny_vit.in1k --weights none", ("tiny_vit.in1k", False), "timm's tiny_vit.in1k, random weights"),
        ("--model hf-hub:me/tiny", ("hf-hub:me/tiny", True), "timm's hf-hub:me/tiny"),
    ],
)
def test_timm(
    line: str,
    created: tuple[str, bool],
    title: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    torchvision: None,
    timm: None,
    shown: list[Any],
) -> None:
    found = told(run(capsys, f"explain cat.png {line} --target 'Tabby cat'"))
    assert sys.modules["timm"].created == [created]
    assert found["model"] == title
    assert found["input"] == "cat.png, 16 x 12, by timm's transform of its data config: [1, 3, 9, 9]"
    assert found["explained"].startswith("1 (tabby, tabby cat)")
    torch.testing.assert_close(shown[0][1], pixels())


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = str(tmp_path_factory.mktemp("models") / "vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=12,
        patch_size=4,
        id2label={0: "cat", 1: "dog", 2: "fish"},
        label2id={"cat": 0, "dog": 1, "fish": 2},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "bad", "good", "it", "was"]
    (folder / "words.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    return str(folder)


def test_an_image_classifier_of_transformers(
    vit: str, here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]
) -> None:
    found = told(run(capsys, f"explain cat.png --model {vit} --target fish --method grad_cam,ig"))
    assert found["model"] == f"{vit} (ViTForImageClassification)"
    assert re.fullmatch(r"cat\.png, 16 x 12, by its image processor: \[1, 3, 12, 12\]", found["input"])
    assert found["explained"].startswith("2 (fish)")
    # The last layer of all whose patches count, not the class token alone.
    assert found["method"].splitlines()[0].startswith("grad_cam at vit.layers.1.layernorm_before")
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(vit).eval()
    x = AutoImageProcessor.from_pretrained(vit)(Image.open("cat.png"), return_tensors="pt")["pixel_values"]
    (_, picture, maps, _) = shown[0]
    cam = fa.grad_cam(model, x, layer="vit.layers.1.layernorm_before", target=2, channel_dim=-1)
    torch.testing.assert_close(maps["grad_cam at vit.layers.1.layernorm_before"], cam[:, 1:].reshape(1, 1, 3, 3).clamp(min=0))
    assert cam[:, 1:].count_nonzero() == 9
    torch.testing.assert_close(maps["integrated_gradients"], fa.integrated_gradients(model, x, target=2).sum(1, keepdim=True))
    torch.testing.assert_close(picture, pixels())
    assert x.shape[-2:] == (12, 12)


def test_a_text_classifier_of_transformers(bert: str, here: Path, capsys: pytest.CaptureFixture[str], shown: list[Any]) -> None:
    names = "ig,deep_lift,deep_lift_shap,input_x_gradient,gradient_shap,ablation"
    found = told(run(capsys, f'explain "It was a good film" --model {bert} --target positive --method {names}'))
    assert found["input"] == "the text, by its tokenizer: 7 tokens"
    assert found["explained"].startswith("1 (positive)")
    site = "bert.embeddings.word_embeddings"
    assert found["method"].splitlines() == [
        f"{methods.checked(name)} at {site} (where tokens become numbers)" for name in names.split(",")
    ]
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    x = {"input_ids": torch.tensor([[2, 9, 10, 5, 8, 6, 3]]), "token_type_ids": torch.zeros(1, 7, dtype=torch.long)}
    padded = {**x, "input_ids": torch.tensor([[2, 0, 0, 0, 0, 0, 3]])}
    expected = fa.integrated_gradients(model, x, layer=site, target=1, baselines=padded)
    (_, tokens, values, _) = shown[0]
    first = next(iter(values.values()))
    torch.testing.assert_close(first[0], expected.sum(2)[0])
    assert tokens == [["[CLS]", "It", "was", "a", "good", "film", "[SEP]"]]
    difference = float((model(**x).logits - model(**padded).logits)[0, 1].detach())
    lines = found["completeness"].splitlines()
    told_of = [float(each) for line in lines for each in re.findall(r"F\(baseline\) (\S+),", line)]
    assert told_of == pytest.approx([difference] * 3, rel=1e-3)
    assert abs(difference) < 0.01 * float(model(**x).logits[0, 1].detach())
    assert sum(line.startswith("little to explain: the baseline alone") for line in lines) == 3


@pytest.mark.parametrize("out", ["a.png", "a.html"])
def test_pictures_and_pages_are_written(out: str, here: Path, capsys: pytest.CaptureFixture[str], bert: str) -> None:
    """By the real functions, all the way."""
    run(capsys, f"explain cat.png --model my_net:build --method grad_cam,saliency --out {out}")
    image = Path(out).read_bytes()
    Path(out).unlink()
    run(capsys, f'explain "it was a good film" --model {bert} --method ig,ablation --out {out}')
    text = Path(out).read_bytes()
    assert image != text
    for written in (image, text):
        assert len(written) > 3000
        assert written.startswith(b"\x89PNG" if out == "a.png" else b"<!")
    if out == "a.html":
        assert b"grad_cam at blocks.0" in image
        assert b"film" in text


# layers, methods, bench, help.


def test_layers(here: Path, capsys: pytest.CaptureFixture[str], vit: str, bert: str, torchvision: None) -> None:
    lines = run(capsys, "layers --model my_net:build --size 8")
    assert (
        lines[0] == "my_net:build (Net), a grey image, 8 x 8, values in [0, 1], resized to 8 x 8, not normalised: [1, 3, 8, 8]"
    )
    import my_net

    assert lines[2:-2] == str(fa.layers(my_net.build(), torch.zeros(1, 3, 8, 8))).splitlines()
    assert lines[-1] == "CAM: the 3 layers that suit Grad-CAM and run once; the last is blocks.0."
    assert "[1, 4, 12, 16]" in "\n".join(run(capsys, "layers cat.png --model my_net:build"))
    assert "vit.layers.1.layernorm_before" in "\n".join(run(capsys, f"layers --model {vit}"))
    assert "bert.embeddings.word_embeddings" in "\n".join(run(capsys, f"layers --model {bert}"))
    assert "[1, 6, 8]" in "\n".join(run(capsys, f'layers "it was good film" --model {bert}'))
    assert "[1, 4, 8, 8]" in "\n".join(run(capsys, "layers --model tinynet"))


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "methods")
    for name in ("saliency", "integrated_gradients", "feature_ablation", "noise_tunnel", "each_target"):
        first = (getattr(fa, name).__doc__ or "").split("\n")[0]
        assert any(re.fullmatch(rf"  {name} +{re.escape(first)}", line) for line in lines)
    assert any(line.startswith("  grad_cam * ") for line in lines)
    assert not any("value_and_gradient" in line or "convergence_delta" in line for line in lines)
    for alias, full in SHORT.items():
        assert methods.checked(alias) == full
    assert max(map(len, lines)) < 180


def test_every_method_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in methods.names() if not methods.missing(name)]
    assert len(names) >= 15
    run(capsys, f"explain cat.png --model my_net:build --size 6 --method {','.join(names)} --out all.npz")
    with np.load("all.npz") as stored:
        assert set(stored) == {"input", "facts", "shapley_error", *names}
        assert all(np.isfinite(stored[name]).all() and np.abs(stored[name]).sum() > 0 for name in names)


def test_a_method_that_needs_more(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    def window(model: Any, x: Any, *, size: int, target: Any = None, create_graph: bool = False) -> Any:
        """The score without a window."""

    monkeypatch.setattr(fa, "window", window, raising=False)
    monkeypatch.setattr(fa, "__all__", [*fa.__all__, "window"])
    assert any(line.startswith("  window ") for line in run(capsys, "methods"))
    assert main(shlex.split("explain cat.png --model my_net:build --method window")) == 2
    assert capsys.readouterr().err == (
        "funattr: window needs size, which the command has no option for: call it from Python.\n"
    )


def test_bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[Any] = []

    def record(command: list[str], cwd: Path, check: bool) -> Any:
        ran.append((command[1:], cwd))
        return argparse.Namespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", record)
    assert main(["bench", "--quick", "--filter", "grad cam"]) == 3
    assert ran == [(["-m", "benchmarks", "--quick", "--filter", "grad cam"], Path(fa.__file__).parents[1])]
    monkeypatch.setattr(fa, "__file__", str(tmp_path / "funattr" / "__init__.py"))
    assert main(["bench"]) == 2
    assert re.fullmatch(r"funattr: the benchmark is in the repository.*clone it.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["explain", "layers", "methods", "run", "show", "demo", "bench"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"^examples:\n  funattr {command}", text, re.M)


# Mistakes.

NET = "explain cat.png --model my_net:build"

MISTAKES: dict[str, str] = {
    # the input
    "explain dog.png --model my_net:build": "there is no file 'dog.png'",
    "explain my_net.py --model my_net:build": "'my_net.py' is not an image that pillow can read",
    "explain folder.png --model my_net:build": "there are no pictures in the folder 'folder.png'",
    "explain cut.png --model my_net:build": "cannot read the image 'cut.png': ",
    "explain deep.png --model my_net:build": "'deep.png' has more than 8 bits per value (mode I;16)",
    "explain 'a text' --model my_net:build": "there is no file 'a text': the model takes images",
    # the model
    "explain cat.png --model my_nett:build": "there is no module 'my_nett': did you mean 'my_net'?",
    "explain cat.png --model a.b.c:build": "there is no module 'a.b.c'",
    "explain cat.png --model broken_net:build": "cannot be imported: ModuleNotFoundError: No module named 'nothing_of",
    "explain cat.png --model my_net:buildd": "my_net has no 'buildd': did you mean 'build'?",
    "explain cat.png --model my_net:": "--model my_net: names no factory in my_net: choose one of",
    "explain cat.png --model my_net.py:build": "--model names a module, not a file: write my_net:build",
    "explain cat.png --model my_net:LEVEL": "my_net:LEVEL is neither a model nor something that makes one",
    "explain cat.png --model my_net:table": "my_net:table made no torch.nn.Module, but dict",
    "explain cat.png --model my_net:fails": "my_net:fails did not make a model: RuntimeError: no such weights here",
    "explain cat.png --model my_net:needs": "did not make a model: TypeError: needs() missing 1 required",
    "explain cat.png --model nothere": "there is no model 'nothere' in torchvision or timm (neither is installed): ",
    "explain cat.png --model torchvision/resnet18": "models of torchvision need it: pip install torchvision",
    "explain cat.png --model ./nowhere": "there is no folder './nowhere'",
    "explain cat.png --model folder.png": "the folder 'folder.png' has no config.json",
    "explain cat.png": "the following arguments are required: --model",
    f"{NET} --weights DEFAULT": "give the file of yours with --checkpoint",
    f"{NET} --device cuda:7": "there is no device 'cuda:7' here: ",
    f"{NET} --device gpu": "there is no device 'gpu' here: ",
    # the checkpoint
    f"{NET} --checkpoint lost.pt": "there is no checkpoint 'lost.pt'",
    f"{NET} --checkpoint whole.pt": "holds more than tensors, and loading it could run code: save the weights alone",
    f"{NET} --checkpoint other.pt": "does not fit Net: it lacks conv2.weight, conv2.bias, fc.weight, fc.bias; "
    "the model has no head.weight; conv1.weight is [4, 1, 3, 3] in the file and [4, 3, 3, 3] in the model.",
    f"{NET} --checkpoint number.pt": "holds no state_dict (names with tensors), but int",
    f"{NET} --checkpoint bad.safetensors": "cannot read the checkpoint 'bad.safetensors': SafetensorError",
    f"{NET} --checkpoint my_net.py": "cannot read the checkpoint 'my_net.py': |holds more than tensors",
    # what is explained, and how
    f"{NET} --target 3": "--target must be from 0 to 2, the classes of the model, got 3",
    f"{NET} --target cat": "--target 'cat' is a name, and the model's classes have none: give their names with --labels",
    f"{NET} --target sqare --labels names.txt": "there is no class 'sqare': did you mean 'square'?",
    f"{NET} --target twice --labels names.txt": "the name 'twice' stands for several classes: choose by number, 1, 2",
    f"{NET} --labels lost.txt": "there is no file 'lost.txt' of labels",
    f"{NET} --labels bad.json": "cannot read the labels 'bad.json': JSONDecodeError",
    f"{NET} --layer conv9": "--layer conv9: Net has no layer 'conv9'. Did you mean 'conv2'?",
    f"{NET} --layer relu": "the layer 'relu' runs 2 times: say which, --layer relu@0 to relu@1",
    f"{NET} --layer relu@2": "the layer 'relu' runs 2 times, so there is no relu@2",
    f"{NET} --layer relu@last": "--layer relu@last: after the @ comes the number of a run",
    f"{NET} --layer blocks": "the layer 'blocks' cannot be used, a container, never called: name a layer inside",
    f"{NET} --layer fc": "the layer 'fc' does not suit a CAM: choose one of blocks.0, conv2, conv1",
    f"{NET} --layer fc --method saliency": "is of the shape [1, 3], without a height and a width to draw",
    f"{NET} --method gradcan": "there is no method 'gradcan': did you mean 'gradcam'?",
    f"{NET} --method x": "there is no method 'x': choose one of",
    f"{NET} --n-steps 3 --method grad_cam": "--n-steps is no option of grad_cam, only of conductance, integrated_gradients",
    f"{NET} --n-steps 0": "argument --n-steps: must be a positive integer, got '0'",
    f"{NET} --quadrature simpson": "argument --quadrature: invalid choice: 'simpson'",
    f"{NET} --size 3x4x5": "argument --size: must be a size such as 224 or 224x320, got '3x4x5'",
    f"{NET} --mean a": "argument --mean: must be a number, or several with commas, got 'a'",
    f"{NET} --mean 0.5,0.5": "--mean has 2 values for 3 channels",
    f"{NET} --std 0": "--std must be positive",
    "explain cat.png --model my_net:build --channels 1": "the model failed on this input, [1, 1, 12, 16]: RuntimeError",
    "explain cat.png --model my_net:Flat": "the model failed on this input, [1, 3, 12, 16]: RuntimeError: mat1 and mat2 shapes",
    "explain cat.png --model my_net:Pairs": "the model's output is of type tuple with 2 tensors",
    "explain cat.png --model my_net:Flat --size 8 --method grad_cam": "Flat has no layer that suits a CAM",
    "explain cat.png --model my_net:one --target 2": "the model puts out one number, so there is no class '2' to choose",
    "explain cat.png --model own_way:picture --size 8": "--size would change what the model brings",
    "explain cat.png --model own_way:build": "the model failed on this input, [1, 3, 5, 6]",
    "explain 'a great film' --model own_way:build": "making the text ready by own_way's preprocess failed: ValueError",
    # the file
    f"{NET} --out a.gif": "--out must end with .png, .jpg, .jpeg, .pdf, .svg, .html, .json, .csv, .npz or .safetensors, or",
    f"{NET} --out nowhere/a.png": "the folder 'nowhere' of --out does not exist",
    # layers and others
    "layers --model my_net:build": "say what goes into the model: an image file or a text after the options, or the size",
    "layers dog.png --model my_net:build": "there is no file 'dog.png'",
    "explan cat.png": "there is no command 'explan': did you mean 'explain'?",
    f"{NET} --colour red": "there is no option --colour: funattr explain --help lists all",
    f"{NET} --taget 3": "there is no option --taget: did you mean --target?",
    f"{NET} --awnser=b": "there is no option --awnser=b: did you mean --answer?",
}


@pytest.fixture
def mistaken(here: Path) -> None:
    sys.path.insert(0, str(here))
    import my_net

    Path("folder.png").mkdir()
    Path("cut.png").write_bytes(Path("cat.png").read_bytes()[:200])
    Image.fromarray(np.full((4, 4), 1000, dtype=np.uint16)).save("deep.png")
    torch.save(my_net.build(), "whole.pt")
    torch.save(
        {"conv1.weight": torch.zeros(4, 1, 3, 3), "conv1.bias": torch.zeros(4), "head.weight": torch.zeros(1)}, "other.pt"
    )
    torch.save(3, "number.pt")
    Path("bad.safetensors").write_bytes(b"nothing of the kind")
    Path("names.txt").write_text("square\ntwice\ntwice\n")
    Path("bad.json").write_text("{")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(line: str, mistaken: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in Path().iterdir()}
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert any(words in err for words in MISTAKES[line].split("|")), err
    assert err.startswith("funattr: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert {path.name for path in Path().iterdir()} - {"__pycache__"} == before - {"__pycache__"}


LIBRARY_MISTAKES = {
    "explain cat.png --model tinyne": "there is no model 'tinyne' in torchvision or timm: did you mean 'tinynet'?",
    "explain cat.png --model torchvision/x": "torchvision has no model 'x': choose one of offline, tinynet",
    "explain cat.png --model timm/tiny_vi": "timm has no model 'tiny_vi': did you mean 'tiny_vit'?",
    "explain cat.png --model tinynet --weights V1": "torchvision's tinynet has no weights 'V1': choose one of IMAGENET1K_V1",
    "explain cat.png --model offline": "torchvision did not make 'offline': OSError: no network",
    "explain cat.png --model tinynet --size 8": "--size would change what the model brings: images are made ready by",
    "explain cat.png --model tinynet --target 'tabby cta'": "there is no class 'tabby cta': did you mean 'tabby cat'?",
    "explain cat.png --model hf-hub:a/b --weights a1": "a model of the hub has one set of weights",
}


@pytest.mark.parametrize("line", LIBRARY_MISTAKES)
def test_mistakes_with_libraries(
    line: str, here: Path, capsys: pytest.CaptureFixture[str], torchvision: None, timm: None
) -> None:
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"funattr: {LIBRARY_MISTAKES[line]}")
    assert err.count("\n") == 1


def test_mistakes_with_transformers(
    here: Path, capsys: pytest.CaptureFixture[str], vit: str, bert: str, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTModel

    base = str(tmp_path / "base")
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8)
    ).save_pretrained(base)
    import shutil

    shutil.copy(Path(vit) / "preprocessor_config.json", base)
    capsys.readouterr()
    for line, words in {
        f"explain cat.png --model {bert}": "the model takes a text, and 'cat.png' is the name of an image",
        f"explain 'a film' --model {vit}": "there is no file 'a film': the model takes images",
        f"explain notes.txt --model {bert}": "there is no file 'notes.txt'",
        f"explain ' ' --model {bert}": "the text is empty",
        f"explain 'a film' --model {bert} --size 8": "--size belongs to images, and this is a text",
        f"explain 'a film' --model {bert} --method conductance": "conductance: x holds no floating-point tensor",
        f"explain 'a film' --model {bert} --weights x": "--weights chooses among those of torchvision and timm",
        f"explain cat.png --model {base}": "is no trained classifier, it lacks classifier.bias, classifier.weight",
    }.items():
        assert main(shlex.split(line)) == 2, line
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("missing", "line", "sentence"),
    [
        ("PIL", NET, 'images need pillow: pip install "funattr[cli]".'),
        ("matplotlib.figure", NET, 'pictures need matplotlib: pip install "funattr[viz]".'),
        ("safetensors.torch", f"{NET} --out a.safetensors", '.safetensors files need safetensors: pip install "funattr[cli]".'),
        ("safetensors.torch", f"{NET} --checkpoint a.safetensors", ".safetensors files need safetensors"),
        (
            "transformers",
            "explain cat.png --model transformers/a/b",
            "models of transformers need it: pip install transformers",
        ),
    ],
)
def test_a_missing_extra(
    missing: str, line: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "checkpoint" in line:
        Path("a.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_traceback_on_demand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("explain cat.png --model my_net:fails --traceback")) == 2
    err = capsys.readouterr().err
    assert 'my_net.py", line' in err
    assert err.endswith("funattr: my_net:fails did not make a model: RuntimeError: no such weights here\n")


def test_a_file_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "savez", refuse)
    assert main(shlex.split(f"{NET} --out a.npz")) == 2
    assert capsys.readouterr().err == "funattr: cannot write 'a.npz': Permission denied.\n"


def test_warnings_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def load(options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("funattr._cli.explain.load", load)
    assert main(shlex.split(NET)) == 130
    assert capsys.readouterr().err == "funattr: warning: two lines\n"


def test_ctrl_c_in_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("explain cat.png --model my_net:Stops")) == 130
    assert capsys.readouterr().err == "funattr: 0 of 1 inputs were explained; nothing was written.\n"


def test_as_a_process(here: Path) -> None:
    command = [sys.executable, "-m", "funattr"]
    root = str(Path(fa.__file__).parents[1])
    import os

    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([*command, *shlex.split(NET)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2] == "wrote        explained.png"
    wrong = subprocess.run([*command, *shlex.split(f"{NET} --layer conv9")], capture_output=True, text=True, env=environment)
    assert wrong.returncode == 2
    assert wrong.stderr == "funattr: --layer conv9: Net has no layer 'conv9'. Did you mean 'conv2'?\n"
    piped = f"{shlex.join(command)} methods | head -c 1"
    early = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, env=environment)
    assert early.stderr == ""


def test_the_command_is_light() -> None:
    code = (  # torch imports tqdm itself, where it is installed
        "import sys, torch; before = set(sys.modules); import funattr.__main__; heavy = "
        "'PIL', 'matplotlib', 'tqdm', 'transformers', 'safetensors', 'funattr.viz'; "
        "print([name for name in heavy if name in set(sys.modules) - before])"
    )
    root = Path(fa.__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout == "[]\n"


# The page.


def test_the_transcript_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/command.md shows what its commands print; numbers may differ a little from machine to machine."""
    script = Path(fa.__file__).parents[1] / "scripts" / "command_transcript.py"
    spec = importlib.util.spec_from_file_location("command_transcript", script)
    assert spec is not None
    assert spec.loader is not None
    transcript = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(transcript)
    page = transcript.PAGE.read_text()
    with transcript.workplace(page) as folder:
        again = transcript.replay(page)
        assert {"explained.png", "why.npz", "maps.html", "reviews.html", "film.csv", "why.html"} <= {
            path.name for path in folder.iterdir()
        }
        assert len(list((folder / "maps").iterdir())) == 20
    number = re.compile(r"[-+]?\d+\.\d+(?:e-?\d+)?|-?\d+e-\d+")
    assert number.sub("#", again) == number.sub("#", page)
    for now, then in zip(number.findall(again), number.findall(page)):
        assert float(now) == pytest.approx(float(then), rel=0.2, abs=0.05)
    assert page.count("$ funattr") == page.count("\n$ funattr") == 20
