"""Methods by short names and several at once, folders of pictures, and what a run says while it goes on."""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import funattr as fa

N = 9
X = torch.randn(N, 3, 6, 6, generator=torch.Generator().manual_seed(0))
MODEL = f"{__name__}:net"


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def run(method: Any, out: Path, data: Any = X, **options: Any) -> Any:
    return fa.dataset.run(method, MODEL, data, out, **{"target": 1, "batch_size": 4, **options})


@pytest.mark.parametrize(
    ("short", "options"), [("ig", {"n_steps": 3}), ("gradcam", {"layer": "1"}), ("ablation", {}), ("deeplift", {})]
)
def test_short_names(short: str, options: dict[str, Any], tmp_path: Path) -> None:
    full = {"ig": "integrated_gradients", "gradcam": "grad_cam", "ablation": "feature_ablation", "deeplift": "deep_lift"}[short]
    run(short, tmp_path / "short", **options)
    assert run(full, tmp_path / "short", **options) == (0, 0, N)  # the same configuration
    expected = getattr(fa, full)(net(), X, target=1, **options)
    torch.testing.assert_close(torch.stack([a for _, a in fa.dataset.load(tmp_path / "short")]), expected)


def test_smoothgrad_has_the_noise_of_each_example(tmp_path: Path) -> None:
    scaled = X * torch.logspace(-2, 2, N)[:, None, None, None]
    from funattr.dataset._ids import seed_of

    run("smoothgrad", tmp_path, scaled, n_samples=3)
    for i, found in fa.dataset.load(tmp_path):
        one = scaled[int(i)][None]
        torch.manual_seed(seed_of(0, i))
        spread = 0.15 * float(one.max() - one.min())
        expected = fa.noise_tunnel(fa.saliency, n_samples=3, stdevs=spread)(net(), one, target=1)[0]
        torch.testing.assert_close(found, expected)


def test_smoothgrad_of_a_batch_with_targets() -> None:
    from funattr.dataset._names import smoothgrad

    targets = [i % 3 for i in range(N)]
    found = smoothgrad(net(), X, target=targets, n_samples=2, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    rows = [smoothgrad(net(), X[i : i + 1], target=targets[i], n_samples=2, generator=generator) for i in range(N)]
    torch.testing.assert_close(found, torch.cat(rows))


SEVERAL: dict[str, Any] = {
    "names": ["grad_cam", "ig", "saliency"],
    "methods": [fa.grad_cam, fa.integrated_gradients, fa.saliency],
    "dict": {"grad_cam": "grad_cam", "integrated_gradients": fa.integrated_gradients, "saliency": "saliency"},
}


@pytest.mark.parametrize("given", SEVERAL)
def test_several_methods_in_one_run(given: str, tmp_path: Path) -> None:
    """Each with its own arguments: what one does not take, it does not get."""
    options = {"layer": "1", "n_steps": 3}
    assert run(SEVERAL[given], tmp_path, **options) == (N, 0, 0)
    model = net()
    expected = {
        "grad_cam": fa.grad_cam(model, X, layer="1", target=1),
        "integrated_gradients": fa.integrated_gradients(model, X, layer="1", target=1, n_steps=3),
        "saliency": fa.saliency(model, X, layer="1", target=1),
    }
    results = fa.dataset.load(tmp_path)
    for i, found in results:
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value[int(i)])
    columns = pq.read_table(tmp_path).column_names
    assert columns == ["id", "attribution.grad_cam", "attribution.integrated_gradients", "attribution.saliency"]
    assert results.about["method"] == "grad_cam and integrated_gradients and saliency"
    assert run(SEVERAL["names"], tmp_path, **options) == (0, 0, N)
    with pytest.raises(ValueError, match=r"arguments\.n_steps was 3, and is 4"):
        run(SEVERAL["names"], tmp_path, **{**options, "n_steps": 4})


def test_what_is_bound_in_one_of_several_stays_there(tmp_path: Path) -> None:
    both = [partial(fa.grad_cam, layer="1"), partial(fa.saliency, target=2)]
    run(both, tmp_path / "both", target=0)
    for i, found in fa.dataset.load(tmp_path / "both"):
        one = X[int(i)][None]
        torch.testing.assert_close(found["grad_cam"], fa.grad_cam(net(), one, layer="1", target=0)[0])
        torch.testing.assert_close(found["saliency"], fa.saliency(net(), one, target=2)[0])
    with pytest.raises(ValueError, match=r"grad_cam\.arguments\.layer was '1', and is '0'"):
        run([partial(fa.grad_cam, layer="0"), both[1]], tmp_path / "both", target=0)


def test_several_that_draw(tmp_path: Path) -> None:
    noisy = {"a": fa.noise_tunnel(fa.saliency, n_samples=2, stdevs=0.1), "b": fa.saliency}
    for size in (1, 4):
        run(noisy, tmp_path / str(size), batch_size=size)
    for (_, one), (_, four) in zip(fa.dataset.load(tmp_path / "1"), fa.dataset.load(tmp_path / "4")):
        torch.testing.assert_close(one, four)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "there are no methods in the list"),
        (["ig", "integrated_gradients"], "two methods have one name: give a dict"),
        (["ig", "grad_cams"], r"there is no method 'grad_cams': did you mean 'grad_cam'\?"),
        ([fa.saliency, fa.each_target(fa.saliency, [0, 1])], "methods differ in how many dimensions come before the batch"),
        ("Grad_Cam", r"there is no method 'Grad_Cam': did you mean 'grad_cam'\?"),
        ("progress_bars", r"there is no method"),
        ("relu", r"there is no method 'relu': choose one of ablation_cam, absorbed, "),
        ("noise_tunnel", r"there is no method"),
        ("layers", r"there is no method 'layers': did you mean 'layer_cam'\?"),
    ],
)
def test_wrong_methods(given: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^run\(\): {words}"):
        run(given, tmp_path / "maps")
    assert not list(tmp_path.iterdir())


def test_a_misspelt_model_is_no_other_configuration(tmp_path: Path) -> None:
    run("saliency", tmp_path)
    for wrong, words in {
        f"{__name__}:nett": f"{__name__} has no 'nett': did you mean 'net'",
        "no_such_module:net": "there is no module 'no_such_module'",
        "net": "model must be 'module:name', got 'net'",
    }.items():
        with pytest.raises(ValueError, match=words):
            fa.dataset.run("saliency", wrong, X, tmp_path, target=1)


# Pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures in two folders, of two kinds; one is cut short, and other files lie about."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    (root / ".thumbnails").mkdir()
    rng = np.random.RandomState(0)
    for name in ("b.png", "a 1.JPG", "more/c.png", ".thumbnails/a.png", "cut.png"):
        image = Image.fromarray(rng.randint(0, 256, (6, 6, 3), dtype=np.uint8))
        image.save(root / name, format="PNG")
    (root / "cut.png").write_bytes((root / "cut.png").read_bytes()[:80])
    (root / "notes.txt").write_text("none of them")
    return root


def unit(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"loaders": 1}])
def test_a_folder_of_pictures_is_data(options: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    good = ["a 1.JPG", "b.png", "more/c.png"]
    assert run("saliency", tmp_path / "maps", pictures, **options) == (3, 1, 0)
    results = fa.dataset.load(tmp_path / "maps")
    assert [name for name, _ in results] == good
    for name, found in results:
        torch.testing.assert_close(found, fa.saliency(net(), unit(pictures / str(name)), target=1)[0])
    (row,) = fa.dataset.failed(tmp_path / "maps")
    assert (row["id"], row["stage"]) == ("cut.png", "read")
    assert "cannot read the image" in row["message"]


def test_pictures_made_ready(pictures: Path, tmp_path: Path) -> None:
    run("saliency", tmp_path / "maps", str(pictures), transform=lambda image: X[0] + image.width)
    for _, found in fa.dataset.load(tmp_path / "maps"):
        torch.testing.assert_close(found, fa.saliency(net(), X[:1] + 6, target=1)[0])
    run("saliency", tmp_path / "one", pictures / "b.png")
    assert [name for name, _ in fa.dataset.load(tmp_path / "one")] == ["b.png"]


def test_a_folder_with_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there are neither pictures nor Parquet files in '.*empty'"):
        run("saliency", tmp_path / "maps", tmp_path / "empty")
    with pytest.raises(ValueError, match=r"there is no folder or file 'images/\*.png'"):
        run("saliency", tmp_path / "maps", "images/*.png")


# What a run says


class Terminal:
    """stderr, as a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return True


def test_the_bar_moves_by_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the first file is written."""
    seen: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, total: int, initial: int, unit: str) -> None:
            self.total, self.done = total, initial

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            """Nothing to close."""

        def update(self, more: int) -> None:
            self.done += more
            seen.append((self.done, len(list(tmp_path.glob("*.parquet")))))

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("funattr.dataset._bar._tqdm", lambda: Bar)
    run("saliency", tmp_path, batch_size=2, part_size=100)
    assert seen == [(2, 0), (4, 0), (6, 0), (8, 0), (9, 0)]
    seen.clear()
    run("saliency", tmp_path, torch.cat([X, X]), batch_size=2, part_size=4, workers=2)
    assert [done for done, _ in seen][-1] == 2 * N
    assert max(done for done, _ in seen) == 2 * N
    assert len(seen) >= 5


@pytest.mark.full
def test_a_dead_worker_is_not_counted(tmp_path: Path, capsys: Any) -> None:
    method = partial(_dies, str(tmp_path / "mark"))
    run(method, tmp_path / "maps", batch_size=2, part_size=100, workers=2, progress=True)
    assert re.search(rf"^{N} of {N} examples, [\d.]+ per second$", capsys.readouterr().err, re.M)
    assert len(fa.dataset.load(tmp_path / "maps")) == N


def _dies(mark: str, model: Any, x: Tensor, target: Any = None) -> Tensor:
    import os

    if bool((x == X[N - 1]).flatten(1).all(1).any()) and not Path(mark).exists():
        Path(mark).touch()
        os._exit(9)
    return x


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("funattr.dataset._bar._EVERY", 0.0)
    run("saliency", tmp_path / "lines", batch_size=4, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"{n} of {N} examples" for n in (4, 8, 9)]
    assert re.fullmatch(r"4 of 9 examples, [\d.]+ per second, 0:00:0\d left", lines[0])
    run("saliency", tmp_path / "lines", progress=True)  # which has nothing left to do
    run("saliency", tmp_path / "none")
    assert capsys.readouterr().err == ""
    run("saliency", tmp_path / "stream", ((i, x) for i, x in enumerate(X)), progress=True)
    assert re.fullmatch(r"9 examples, [\d.]+ per second", capsys.readouterr().err.splitlines()[-1])


def test_a_terminal_without_tqdm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    run("saliency", tmp_path)
    assert re.fullmatch(r"9 of 9 examples, [\d.]+ per second\n", terminal.text)


def test_ctrl_c_says_how_far_it_came(tmp_path: Path) -> None:
    calls: list[int] = []

    def ended(model: Any, x: Tensor, target: Any = None) -> Tensor:
        calls.append(len(x))
        if len(calls) == 5:  # the second and third were examples alone
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt, match=rf"^6 of {N} examples are done; run it again to go on\.$"):
        run(ended, tmp_path, batch_size=3)
    assert len(fa.dataset.load(tmp_path)) == 6


def test_notes_come_back(tmp_path: Path) -> None:
    run("saliency", tmp_path, notes={"from": "a test", "classes": ["a", "b"]})
    assert fa.dataset.load(tmp_path).about["notes"] == {"from": "a test", "classes": ["a", "b"]}
    assert run("saliency", tmp_path, notes={"from": "another"}) == (0, 0, N)
    with pytest.raises(TypeError, match="notes"):
        run("saliency", tmp_path / "more", notes={"no": {1, 2}})
    json.dumps(fa.dataset.load(tmp_path).about)
