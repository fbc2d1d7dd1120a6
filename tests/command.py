"""What the tests of the command share: models in a folder, as a user has them, stand-ins for libraries, and what is told."""

from __future__ import annotations

import enum
import functools
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from funattr import viz
from funattr.__main__ import main

NET = "explain cat.png --model my_net:build"
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


def nothing():
    net = build()
    net.fc.bias.data.fill_(float("nan"))
    return net


def one():
    torch.manual_seed(0)
    return Net(3, 1)


def cut():
    net = build()
    net.forward = torch.no_grad()(net.forward)
    return net


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


class Flat(Words):
    def preprocess(self, given):
        ids, tokens = preprocess(given)
        return ids[0], tokens


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
    stand_in_torchvision(monkeypatch)


def stand_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
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
    stand_in_timm(monkeypatch)


def stand_in_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[tuple[str, bool]] = []

    def create_model(model_name: str, pretrained: bool = False) -> nn.Module:
        created.append((model_name, pretrained))
        model = tiny(3 if pretrained else 0)
        model.pretrained_cfg = {
            "label_names": ["n01", "n02", "n03"],
            "label_descriptions": {"n01": "tench", "n02": "tabby, tabby cat"},
        }  # type: ignore[assignment]  # a module's attributes are tensors and modules to mypy
        return model

    data = stand_in(
        monkeypatch,
        "timm.data",
        resolve_model_data_config=lambda model: {"input_size": (3, 9, 9), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)},
        create_transform=lambda input_size, is_training, mean, std: functools.partial(prepared, input_size[1], mean, std),
        infer_imagenet_subset=lambda model: None,
    )

    def is_model(name: str) -> bool:
        return name.partition(".")[0] == "tiny_vit"

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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "bert"
    make_bert(folder)
    return str(folder)


def make_bert(folder: Path) -> None:
    """A classifier of texts, with its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

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
