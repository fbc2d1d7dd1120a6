"""The command with a model of one's own: what it prints and writes; layers, methods, bench, help; the transcript."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import funattr as fa
from funattr.__main__ import main
from funattr._cli import gap, methods
from funattr.dataset._names import SHORT

from .. import command
from ..command import pixels, run, told

here, shown, vit, bert, torchvision = command.here, command.shown, command.vit, command.bert, command.torchvision


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
    import my_net  # type: ignore[import-not-found]  # made by the fixture

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
        "integrated_gradients": fa.integrated_gradients(model, x, target=1, **path),
        "deep_lift": fa.deep_lift(model, x, target=1),
        "deep_lift_shap": fa.deep_lift_shap(model, x, baselines=shades, target=1),
        "conductance": fa.conductance(model, x, target=1, **path),
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
    (steps,) = re.findall(r"large: take more steps, --n-steps (\d+), or fewer with --quadrature gausslegendre$", bad)
    for cure in (f"--n-steps {steps} --quadrature riemann_left", "--n-steps 50 --quadrature gausslegendre"):
        assert "large" not in told(run(capsys, f"{line} {cure}"))["completeness"]
    assert gap.Gap(1.0, 1.005).relative < gap.LARGE < gap.Gap(1.0, 1.02).relative
    assert gap.Gap(0.0, 0.0).relative == 0.0
    assert gap.Gap(0.1, 0.0).relative == float("inf")
    assert "skip connection" in gap.advice("deep_lift", 50, "gausslegendre", 0.02, True)
    said = [gap.advice("ig", 50, "gausslegendre", share, False).split()[-1] for share in (0.011, 0.3, float("inf"))]
    assert said == ["200", "3000", "100000"]


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


@pytest.mark.parametrize(
    "names", ['["a", "b", "c"]', '{"2": "c", "0": "a", "1": "b"}', '{"2": "c", "1": "b"}', '\ufeff["a", "b", "c"]']
)
def test_labels_in_json(names: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.json").write_text(names, encoding="utf-8")
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
    with safe_open("a.safetensors", "pt") as file:
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
    import own_way  # type: ignore[import-not-found]  # made by the fixture

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
    for name in ("saliency", "integrated_gradients", "feature_ablation", "noise_tunnel", "each_target", "under"):
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
    again, page = (re.sub(r"\b\d+\.\d+\.\d+[.\w+]*", "VERSION", text) for text in (again, page))
    number = re.compile(r"[-+]?\d+\.\d+(?:e-?\d+)?|-?\d+e-\d+")
    assert number.sub("#", again) == number.sub("#", page)
    for now, then in zip(number.findall(again), number.findall(page)):
        assert float(now) == pytest.approx(float(then), rel=0.2, abs=0.05)
    assert page.count("$ funattr") == page.count("\n$ funattr") == 20
